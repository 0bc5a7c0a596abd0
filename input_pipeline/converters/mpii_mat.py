"""Reads MPII Human Pose from the benchmark's own mpii_human_pose_v1_u12_1.mat."""

import collections
import pathlib

import numpy as np

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.converters import foreign
from mrpose_jax.input_pipeline.formats import checks


def read(path: pathlib.Path, images: pathlib.Path | None = None) -> foreign.ForeignData:
  """Reads the training images of the structure RELEASE: annolist, img_train.

  Positions count from 1, as in MATLAB. A person's box is the square of side 200 x scale around
  objpos moved down by 15 x scale, as `formats.mpii` has it. Joints that are annotated as hidden
  have visibility 1, others 2. People without objpos, scale or joints, and images of the test set,
  whose joints are not published, are left out and counted.

  Args:
    path: the .mat file.
    images: folder of the images; None for images/ beside the file, or else the file's folder.

  Raises:
    DataError: the file or an image cannot be used; all problems are counted and the first few
      named.
  """
  release = foreign.read_mat(path, 'RELEASE', struct_as_record=False, squeeze_me=True)
  try:
    entries = np.atleast_1d(release.annolist)
    in_train = np.atleast_1d(release.img_train)
  except AttributeError as error:
    raise errors.DataError(f'{path}: RELEASE has no annolist or img_train') from error
  folder = images or foreign.beside(path)
  found, problems, dropped = [], [], collections.Counter()
  for number, (entry, train) in enumerate(zip(entries, in_train)):
    if not train:
      dropped['image of the test set'] += 1
      continue
    try:
      file = folder / str(entry.image.name)
      people = []
      for person in np.atleast_1d(entry.annorect):
        read_person = _person(person)
        if read_person is None:
          dropped['without objpos, scale or joints'] += 1
        else:
          people.append(read_person)
    except (IndexError, *checks.MALFORMED) as error:
      problems.append(f'annolist({number + 1}): {error}')
      continue
    if not people:
      dropped['training image without people'] += 1
    elif size := foreign.image_size(file, problems):
      found.append(foreign.ForeignImage(file, size, people))
  checks.raise_problems(path, problems)
  mpii = skeletons.MPII
  limbs = [[a + 1, b + 1] for a, b in mpii.limbs]
  category = {'name': 'person', 'keypoints': list(mpii.keypoints), 'skeleton': limbs}
  return foreign.ForeignData(category, {1: 'person'}, found, dropped)


def _person(person):
  """Returns a ForeignPerson; None if the person lacks objpos, scale or joints."""
  position, scale = (getattr(person, name, None) for name in ('objpos', 'scale'))
  points = getattr(getattr(person, 'annopoints', None), 'point', ())
  points = np.atleast_1d(points)
  if not (hasattr(position, 'x') and np.size(scale) == 1 and scale and len(points)):
    return None
  keypoints = np.zeros((skeletons.MPII.num_keypoints, 3))
  for point in points:
    # Visibility is a number, a text, or empty, which says nothing; the joint is annotated anyway.
    hidden = np.size(getattr(point, 'is_visible', ())) == 1 and int(point.is_visible) == 0
    keypoints[int(point.id)] = float(point.x) - 1, float(point.y) - 1, 1 if hidden else 2
  side = 200.0 * float(scale)
  left = float(position.x) - 1 - side / 2
  top = float(position.y) - 1 + 15.0 * float(scale) - side / 2
  return foreign.ForeignPerson(keypoints, (left, top, side, side))
