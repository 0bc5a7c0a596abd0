"""MPII annotation files in the JSON form of the PyTorch codes."""

import collections

import numpy as np

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.formats import annotation_types
from mrpose_jax.input_pipeline.formats import checks


def read(path) -> annotation_types.Annotations:
  """Reads MPII annotations in the JSON form of the PyTorch codes.

  Each row holds 'image', 'center', 'scale' (person height / 200 pixels) and, except in the test
  set, 'joints' and 'joints_vis'; coordinates are 1-based. The box is the square of side 200 x scale
  around the centre moved down by 15 x scale, so padding it by 1.25 gives the region that
  SimpleBaseline crops. People are numbered by row and images by their first appearance; the rows
  of the benchmark's ground truth are in the same order.

  Raises:
    DataError: not an MPII annotation file, or invalid records; all problems are counted and the
      first few named.
  """
  content = checks.read_json(path)
  if not isinstance(content, list):
    raise errors.DataError(f'{path}: not an MPII annotation file (it needs a list of people)')
  num_keypoints = skeletons.MPII.num_keypoints
  problems, dropped, images = [], collections.Counter(), {}
  for number, row in enumerate(content):
    try:
      name = str(row['image'])
      center, scale = np.array(row['center'], np.float64), float(row['scale'])
      joints = np.array(row.get('joints', np.zeros((num_keypoints, 2))), np.float64)
      labelled = np.zeros(num_keypoints)
      if 'joints' in row:
        labelled = np.array(row['joints_vis'], np.float64) > 0
    except checks.MALFORMED:
      problems.append(
        f'row {number} {checks.brief(row)} lacks image, center, scale, joints or joints_vis'
      )
      continue
    if joints.shape != (num_keypoints, 2) or labelled.shape != (num_keypoints,):
      problems.append(
        f'row {number}: joints of shape {joints.shape} and joints_vis of '
        f'{labelled.shape}, not {num_keypoints} x 2 and {num_keypoints}'
      )
    elif center.shape != (2,) or not (checks.in_range(center) and 0 < scale < checks.LARGEST):
      problems.append(f'row {number}: center {row["center"]!s:.60} or scale {scale} is not usable')
    elif not checks.in_range(joints):
      problems.append(f'row {number}: a joint is not finite, or beyond all images')
    elif checks.leaves_folder(name):
      problems.append(f'row {number}: file name {name!r} leaves the image folder')
    else:
      side = 200 * scale
      corner = center - 1 + [0, 15 * scale] - side / 2
      keypoints = np.where(labelled[:, None], joints - 1, 0).astype(np.float32)
      person = annotation_types.Person(
        id=number,
        box=np.array([*corner, side, side], np.float32),
        area=side * side,
        keypoints=keypoints,
        visible=np.where(labelled, 2, 0).astype(np.int32),
      )
      images.setdefault(name, []).append(person)
  checks.raise_problems(path, problems)
  entries = [
    annotation_types.ImageEntry(i, name, people) for i, (name, people) in enumerate(images.items())
  ]
  test_set = bool(content) and not any('joints' in row for row in content)
  rows = [
    annotation_types.coco_row(p.id, image.id, 1, p.box, p.area, False, _flat(p))
    for image in entries
    for p in image.people
  ]
  categories = {1: skeletons.MPII.name}
  return annotation_types.Annotations(skeletons.MPII, entries, dropped, test_set, categories, rows)


def _flat(person):
  """The person's keypoints in COCO's form: [3K] x, y, visibility."""
  return np.column_stack([person.keypoints, person.visible]).astype(np.float64).reshape(-1)
