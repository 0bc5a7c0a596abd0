"""Reads Ultralytics' YOLO pose data sets: a YAML file, image folders and label files."""

import pathlib

import numpy as np

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.converters import foreign
from mrpose_jax.input_pipeline.formats import checks

# Names of the sets in the YAML file and here.
SETS = {'train': 'train', 'val': 'validation', 'test': 'test'}


def read(path: pathlib.Path, images: pathlib.Path | None = None) -> foreign.ForeignData:
  """Reads the data set of a YAML file, as Ultralytics does.

  The file has `kpt_shape` (K and 2 or 3 numbers a keypoint), `train`, `val` and `test` (folders,
  lists of folders, or text files of image paths; relative to `path` or to the YAML file), `names`,
  and perhaps `flip_idx`, `kpt_names` and, from SLEAP, `node_names` and `skeleton`. The labels of
  .../images/a.jpg are in .../labels/a.txt: class, x and y of the box's centre, width, height, and
  the keypoints, as fractions of the image. Of keypoints with 2 numbers, those at 0, 0 or with a
  negative number are not labelled.

  Without `kpt_names`, the keypoints are COCO's if there are 17 of a person, else 0 to K - 1.

  Args:
    path: the YAML file.
    images: not used: the YAML file names the folders.

  Raises:
    DataError: the file, a label file or an image cannot be used; all problems are counted and the
      first few named.
  """
  del images
  content = foreign.read_yaml(path)
  num_keypoints, dimensions = _shape(content.get('kpt_shape'), path)
  names = _class_names(content.get('names'), path)
  try:
    category = _category(content, names, num_keypoints, path)
  except (IndexError, *checks.MALFORMED) as error:
    raise errors.DataError(
      f'{path}: flip_idx, kpt_names or skeleton cannot be used ({error})'
    ) from error
  found, problems = [], []
  for key, image_set in SETS.items():
    for image in _image_paths(content, key, path):
      size = foreign.image_size(image, problems, upright=True)
      if size:
        labels = _labels_of(image)
        people = _people(labels, size, names, num_keypoints, dimensions, problems)
        found.append(foreign.ForeignImage(image, size, people, image_set))
  checks.raise_problems(path, problems)
  categories = {number + 1: name for number, name in names.items()}
  return foreign.ForeignData(category, categories, found)


def _shape(shape, path):
  if (
    not isinstance(shape, list)
    or len(shape) != 2
    or not all(isinstance(n, int) for n in shape)
    or shape[0] < 1
    or shape[1] not in (2, 3)
  ):
    raise errors.DataError(
      f'{path}: kpt_shape {shape!r:.60}: a pose data set has [number of keypoints, 2 or 3]'
    )
  return shape


def _class_names(names, path):
  """Returns {class number: name}."""
  names = dict(enumerate(names)) if isinstance(names, list) else names
  if not isinstance(names, dict) or not names or not all(isinstance(n, int) for n in names):
    raise errors.DataError(f'{path}: names {names!r:.60}: the name of each class is needed')
  return {number: str(name) for number, name in names.items()}


def _category(content, names, num_keypoints, path):
  """The COCO category of the keypoints."""
  flip = content.get('flip_idx') or []
  if flip and not (
    all(isinstance(i, int) and 0 <= i < num_keypoints for i in flip)
    and len(flip) == num_keypoints
    and all(flip[flip[i]] == i for i in range(num_keypoints))
  ):
    raise errors.DataError(
      f'{path}: flip_idx {flip!r:.60}: the number of the mirror partner of each of the '
      f'{num_keypoints} keypoints is needed'
    )
  given = content.get('kpt_names') or content.get('node_names') or {}
  given = list(given.values()) if isinstance(given, dict) else [given]
  coco = skeletons.COCO
  coco_flip = skeletons.flip_order(coco.flip_pairs, coco.num_keypoints).tolist()
  if given:
    keypoints = given[0]
    if given != len(given) * [keypoints] or np.shape(keypoints) != (num_keypoints,):
      raise errors.DataError(
        f'{path}: kpt_names: the same {num_keypoints} names are needed for all classes'
      )
    keypoints = [str(name) for name in keypoints]
  elif (
    list(names.values()) == ['person']
    and len(coco_flip) == num_keypoints
    and (flip in ([], coco_flip))
  ):
    keypoints = list(coco.keypoints)
  else:
    keypoints = [str(k) for k in range(num_keypoints)]
  pairs = [[keypoints[i], keypoints[j]] for i, j in enumerate(flip) if i < j]
  limbs = [[i + 1 for i in limb] for limb in content.get('skeleton') or ()]
  name = next(iter(names.values()))
  return {'name': name, 'keypoints': keypoints, 'flip_pairs': pairs, 'skeleton': limbs}


def _image_paths(content, key, path):
  """The image files of a set, in order."""
  entries = content.get(key) or []
  entries = entries if isinstance(entries, list) else [entries]
  given_root = content.get('path') or ''
  wrong = [text for text in (given_root, *entries) if not isinstance(text, str)]
  if wrong:
    raise errors.DataError(f'{path}: path or {key}: {wrong[0]!r:.60} is not a text')
  root = path.parent / given_root
  roots = [root if root.is_dir() else path.parent, path.parent]
  found = []
  for entry in entries:
    # Roboflow writes ../train/images for train/images beside the YAML file.
    names = [entry, entry.removeprefix('../')]
    candidates = [folder / name for name in names for folder in roots]
    place = next((candidate for candidate in candidates if candidate.exists()), None)
    if place is None:
      raise errors.DataError(f'{path}: {key}: there is no {candidates[0]}')
    if place.is_dir():
      found += [p for p in sorted(place.rglob('*')) if p.suffix.lower() in foreign.SUFFIXES]
    else:
      lines = place.read_text(encoding='utf-8', errors='replace').split('\n')
      found += [place.parent / line.strip() for line in lines if line.strip()]
  return [image.absolute() for image in found]


def _labels_of(image):
  """The label file of an image: labels in place of the last folder `images`."""
  parts = list(image.parts)
  if 'images' in parts[:-1]:
    parts[len(parts) - 2 - parts[-2::-1].index('images')] = 'labels'
  return pathlib.Path(*parts).with_suffix('.txt')


def _people(path, size, names, num_keypoints, dimensions, problems):
  """The people of a label file, none if it does not exist; appends what is wrong to `problems`."""
  if not path.exists():
    return []
  people = []
  needed = 5 + num_keypoints * dimensions
  lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    try:
      values = np.array([float(word) for word in line.split()])
    except ValueError:
      problems.append(f'{where}: {line!r:.60} is not a row of numbers')
      continue
    if len(values) != needed:
      problems.append(
        f'{where}: {len(values)} numbers, but class, box and {num_keypoints} x {dimensions} '
        f'keypoint numbers are {needed}'
      )
    elif values[0] not in names:
      problems.append(f'{where}: class {values[0]:g} is not in names')
    elif not (
      np.isfinite(values).all() and (values[3:5] > 0).all() and (np.abs(values[1:5]) <= 1.01).all()
    ):
      problems.append(f'{where}: box {values[1:5].tolist()} is not in fractions of the image')
    else:
      points = values[5:].reshape(num_keypoints, dimensions)
      if dimensions == 3:
        visible = points[:, 2]
        if not np.isin(visible, (0, 1, 2)).all():
          problems.append(f'{where}: a visibility is not 0, 1 or 2')
          continue
      else:
        visible = 2.0 * ((points >= 0).all(1) & (points > 0).any(1))
      keypoints = np.column_stack([points[:, :2] * size, visible])
      extent = values[3:5] * size
      box = (*(values[1:3] * size - extent / 2).tolist(), *extent.tolist())
      people.append(foreign.ForeignPerson(keypoints, box, int(values[0]) + 1))
  return people
