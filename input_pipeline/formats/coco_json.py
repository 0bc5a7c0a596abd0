"""COCO keypoint annotation files."""

import collections
import pathlib

import numpy as np

from input_pipeline.formats import annotation_types
from input_pipeline.formats import checks
from mrpose_jax import errors
from mrpose_jax import skeletons

# Prefix of COCO's files that list the images of a test set.
IMAGE_INFO = 'image_info_'


def read(path) -> annotation_types.Annotations:
  """Reads a COCO keypoint annotation file.

  Crowds, people without a labelled keypoint, and boxes without area inside their image are left
  out and counted. Boxes are clipped to the image as in the released code.

  A file image_info_SET.json lists the images of a test set, whose people are not published.

  Raises:
    DataError: not a COCO keypoint file, or invalid records; all problems are counted and the first
      few named.
  """
  content = checks.read_json(path)
  test_set = pathlib.Path(path).name.startswith(IMAGE_INFO)
  if test_set and isinstance(content, dict):
    category = {'id': 1, 'name': 'person', 'keypoints': list(skeletons.COCO.keypoints)}
    content |= {'annotations': [], 'categories': [category]}
  if not isinstance(content, dict) or not all(
    isinstance(content.get(key), list) for key in ('images', 'annotations', 'categories')
  ):
    raise errors.DataError(
      f'{path}: not a COCO annotation file (it needs lists "images", "annotations", "categories")'
    )
  candidates = [
    c for c in content['categories'] if isinstance(c, dict) and {'id', 'name'} <= c.keys()
  ]
  categories = [c for c in candidates if c.get('keypoints')] or candidates
  if len(categories) != 1:
    raise errors.DataError(
      f'{path}: {len(categories)} categories with keypoints, but a network learns exactly one; '
      'write one file per category, with its annotations only'
    )
  skeleton = skeletons.from_category(categories[0], str(path))

  problems, dropped = [], collections.Counter()
  images = {}
  for row in content['images']:
    try:
      number, name, size = int(row['id']), str(row['file_name']), (row['width'], row['height'])
    except checks.MALFORMED:
      problems.append(f'image {checks.brief(row)} lacks id, file_name, width or height')
      continue
    if number in images:
      problems.append(f'image id {number} occurs twice')
    elif not all(checks.is_positive(n) for n in size):
      problems.append(f'image {number}: {size[0]} x {size[1]} pixels is not a usable size')
    elif checks.leaves_folder(name):
      problems.append(f'image {number}: file name {name!r} leaves the image folder')
    else:
      images[number] = (name, size, [])

  annotation_ids = set()
  for row in content['annotations']:
    try:
      number, image, category = int(row['id']), int(row['image_id']), row['category_id']
      crowd, box, flat = row.get('iscrowd', 0), row['bbox'], row.get('keypoints')
      area = row.get('area') or None
    except checks.MALFORMED:
      problems.append(f'annotation {checks.brief(row)} lacks id, image_id, category_id or bbox')
      continue
    if category != categories[0]['id']:
      dropped['another category'] += 1
    elif number in annotation_ids:
      problems.append(f'annotation id {number} occurs twice')
    elif image not in images:
      problems.append(f'annotation {number}: there is no image {image}')
    elif crowd:
      dropped['crowd'] += 1
    elif not flat or (isinstance(flat, list) and not any(flat)):
      dropped['no keypoints'] += 1
    else:
      annotation_ids.add(number)
      keypoints, visible, problem = _keypoints(flat, skeleton.num_keypoints)
      box, reason = _clip_box(box, images[image][1])
      if problem:
        problems.append(f'annotation {number}: {problem}')
      elif not (area is None or checks.is_positive(area)):
        problems.append(f'annotation {number}: area {area!r} is not usable')
      elif reason:
        dropped[reason] += 1
      elif not visible.any():
        dropped['no keypoints'] += 1
      else:
        area = float(area or box[2] * box[3])
        images[image][2].append(annotation_types.Person(number, box, area, keypoints, visible))
  checks.raise_problems(path, problems)
  entries = [
    annotation_types.ImageEntry(number, name, people, size)
    for number, (name, size, people) in images.items()
  ]
  return annotation_types.Annotations(skeleton, entries, dropped, test_set)


def _keypoints(flat, num_keypoints):
  """Reads COCO's flat list; returns (keypoints, visible, None) or (None, None, problem)."""
  try:
    values = np.array(flat, np.float64)
  except (TypeError, ValueError):
    return None, None, 'keypoints are not numbers'
  if values.shape != (3 * num_keypoints,):
    return None, None, f'{values.size} keypoint numbers, not 3 x {num_keypoints}'
  values = values.reshape(-1, 3)
  if not np.isfinite(values).all():
    return None, None, 'a keypoint is not finite'
  if not np.isin(values[:, 2], (0, 1, 2)).all():
    return None, None, 'a visibility flag is not 0, 1 or 2'
  visible = values[:, 2].astype(np.int32)
  return np.where(visible[:, None] > 0, values[:, :2], 0).astype(np.float32), visible, None


def _clip_box(box, image_size):
  """Clips the box by the released code's rule; returns (box, None) or (None, reason to drop it)."""
  try:
    x, y, width, height = (float(value) for value in box)
  except checks.MALFORMED:
    return None, 'box is not four numbers'
  if not np.isfinite([x, y, width, height]).all():
    return None, 'box is not finite'
  left, top = max(0.0, x), max(0.0, y)
  right = min(image_size[0] - 1.0, left + max(0.0, width - 1))
  bottom = min(image_size[1] - 1.0, top + max(0.0, height - 1))
  if width <= 0 or height <= 0 or right <= left or bottom <= top:
    return None, 'box without area in the image'
  return np.array([left, top, right - left, bottom - top], np.float32), None
