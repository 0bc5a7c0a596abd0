"""COCO keypoint annotation files: the one reader, and the writer of the normalised form.

Preparation reads the file of a split and writes what it understood beside the records; evaluation
reads that with the same reader.
"""

import collections
import dataclasses

import numpy as np
import orjson

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.formats import annotation_types
from mrpose_jax.input_pipeline.formats import checks

# Prefixes of COCO's file names, before the name of the set.
IMAGE_INFO = 'image_info_'
PERSON_KEYPOINTS = 'person_keypoints_'
# Name of the file that `write` is for, beside a split's records.
NORMALISED = 'annotations_{}.json'
# In place of a category's name: all categories with keypoints.
ALL = 'all'
# Values of iscrowd.
_CROWD = {0: False, 1: True, '0': False, '1': True, None: False}


def read(path, category: str | None = None) -> annotation_types.Annotations:
  """Reads a COCO keypoint annotation file.

  Args:
    path: the file.
    category: name of the category whose annotations are read; None for the only one that defines
      keypoints; `ALL` for all of them, which must then define the same keypoints.

  Crowds, people without a labelled keypoint, and boxes without area inside their image are left
  out and counted. Boxes are clipped to the image as in the released code.

  A file without a list of annotations, such as COCO's image_info_SET.json, lists the images of a
  test set, whose people are not published.

  Raises:
    DataError: not a COCO keypoint file, or invalid records; all problems are counted and the first
      few named.
  """
  content = checks.read_json(path)
  test_set = isinstance(content, dict) and 'images' in content and 'annotations' not in content
  if test_set:
    person = {'id': 1, 'name': 'person', 'keypoints': list(skeletons.COCO.keypoints)}
    content |= {'annotations': [], 'categories': [person]}
    category = None
  if not isinstance(content, dict) or not all(
    isinstance(content.get(key), list) for key in ('images', 'annotations', 'categories')
  ):
    raise errors.DataError(
      f'{path}: not a COCO annotation file (it needs lists "images", "annotations", "categories")'
    )
  categories, skeleton = _categories(content['categories'], category, path)
  problems, dropped, rows = [], collections.Counter(), []
  images = _images(content['images'], problems)
  annotation_ids = set()
  for row in content['annotations']:
    try:
      number, image, kind, box = (row[k] for k in ('id', 'image_id', 'category_id', 'bbox'))
    except checks.MALFORMED:
      problems.append(f'annotation {checks.brief(row)} lacks id, image_id, category_id or bbox')
      continue
    try:
      number, image, kind = map(checks.whole_number, (number, image, kind))
      crowd = _CROWD[row.get('iscrowd')]
    except ValueError as error:
      problems.append(f'annotation {checks.brief(row)}: its id, image_id or category_id {error}')
      continue
    except (KeyError, TypeError):
      problems.append(f'annotation {number}: iscrowd {checks.brief(row["iscrowd"])} is not 0 or 1')
      continue
    if kind not in categories:
      dropped['another category'] += 1
      continue
    if image not in images:
      problems.append(f'annotation {number}: there is no image {image}')
      continue
    if number in annotation_ids:
      problems.append(f'annotation id {number} occurs twice')
      continue
    keypoints, problem = _keypoints(row.get('keypoints'), skeleton.num_keypoints)
    visible = keypoints[2::3].astype(np.int32)
    box, clipped, reason = _clip_box(box, images[image].size)
    area = row.get('area') or None
    if crowd:
      reason, problem = 'crowd', None
    elif not (problem or visible.any()):
      reason = 'no keypoints'
    elif not (area is None or checks.is_positive(area)):
      problem = problem or f'area {area!r:.60} is not usable'
    if problem:
      problems.append(f'annotation {number}: {problem}')
      continue
    if box is not None and min(box[2:]) >= 0:
      # The evaluation ignores everyone who is left out: predictions for them are not false.
      ignored = crowd or bool(visible.any() and reason)
      size = area if checks.is_positive(area) else box[2] * box[3]
      rows.append(annotation_types.coco_row(number, image, kind, box, size, ignored, keypoints))
    if reason:
      dropped[reason] += 1
      continue
    annotation_ids.add(number)
    images[image].people.append(
      annotation_types.Person(
        id=number,
        box=clipped,
        area=float(area or clipped[2] * clipped[3]),
        keypoints=keypoints.reshape(-1, 3)[:, :2].astype(np.float32),
        visible=visible,
      )
    )
  checks.raise_problems(path, problems)
  return annotation_types.Annotations(
    skeleton, list(images.values()), dropped, test_set, categories, rows
  )


def write(annotations: annotation_types.Annotations, path):
  """Writes `encode(annotations)`."""
  path.write_bytes(encode(annotations))


def encode(annotations: annotation_types.Annotations) -> bytes:
  """Returns annotations in COCO's format, with every field that the evaluation reads.

  `read` returns the same skeleton, images and rows from it; with `ALL` if there are several
  categories.
  """
  skeleton = annotations.skeleton
  category = {
    'keypoints': skeleton.keypoints,
    'skeleton': [(a + 1, b + 1) for a, b in skeleton.limbs],
    'flip_pairs': [[skeleton.keypoints[i] for i in pair] for pair in skeleton.flip_pairs],
    'sigmas': skeleton.sigmas,
  }
  images = []
  for image in annotations.images:
    size = {'width': image.size[0], 'height': image.size[1]} if image.size else {}
    images.append({'id': image.id, 'file_name': image.file_name, **size})
  categories = [{'id': i, 'name': name, **category} for i, name in annotations.categories.items()]
  content = {'images': images, 'categories': categories}
  if not annotations.test_set:
    content['annotations'] = annotations.rows
  return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _categories(rows, wanted, path):
  """Returns {id: name} of the categories to read and their skeleton; see `read` for `wanted`."""
  candidates = [c for c in rows if isinstance(c, dict) and {'id', 'name'} <= c.keys()]
  candidates = [c for c in candidates if c.get('keypoints')] or candidates
  names = [str(c['name']) for c in candidates]
  chosen = candidates
  if wanted not in (None, ALL):
    chosen = [c for c, name in zip(candidates, names) if name == wanted]
    if len(chosen) != 1:
      raise errors.DataError(
        f'{path}: --category={wanted}: {len(chosen)} categories with keypoints have this name '
        f'(there are: {", ".join(names) or "none"})'
      )
  if not chosen or (len(chosen) > 1 and wanted != ALL):
    raise errors.DataError(
      f'{path}: {len(chosen)} categories with keypoints ({", ".join(names) or "none"}), but a '
      'network learns exactly one; choose it with --category=NAME, or train all as one with '
      '--categories=all if they have the same keypoints'
    )
  try:
    categories = {checks.whole_number(c['id']): str(c['name']) for c in chosen}
  except ValueError as error:
    raise errors.DataError(f"{path}: the category's id {error}") from error
  first, *others = (skeletons.from_category(c, str(path)) for c in chosen)
  if len(categories) < len(chosen):
    raise errors.DataError(f'{path}: two categories have the same id')
  for skeleton in others:
    if dataclasses.replace(skeleton, name=first.name) != first:
      raise errors.DataError(
        f'{path}: categories {first.name!r} and {skeleton.name!r} differ in keypoints, skeleton, '
        'flip_pairs or sigmas; choose one with --category=NAME'
      )
  if others and first != skeletons.COCO:
    first = dataclasses.replace(first, name=ALL)
  return categories, first


def _images(rows, problems):
  """Returns {id: ImageEntry without people}, and appends what is wrong to `problems`."""
  images = {}
  for row in rows:
    try:
      number, name, size = row['id'], row['file_name'], (row['width'], row['height'])
    except checks.MALFORMED:
      problems.append(f'image {checks.brief(row)} lacks id, file_name, width or height')
      continue
    try:
      number = checks.whole_number(number)
    except ValueError as error:
      problems.append(f'image {checks.brief(row)}: its id {error}')
      continue
    not_numbers = [n for n in size if isinstance(n, str)]
    if number in images:
      problems.append(f'image id {number} occurs twice')
    elif not_numbers:
      problems.append(f'image {number}: width or height {not_numbers[0]!r:.60} is not a number')
    elif not all(checks.is_positive(n) for n in size):
      problems.append(
        f'image {number}: {size[0]!s:.20} x {size[1]!s:.20} pixels is not a usable size'
      )
    elif not isinstance(name, str):
      problems.append(f'image {number}: file name {checks.brief(name)} is not a text')
    elif checks.leaves_folder(name):
      problems.append(f'image {number}: file name {name!r} leaves the image folder')
    else:
      images[number] = annotation_types.ImageEntry(number, name, [], size)
  return images


def _keypoints(flat, num_keypoints):
  """Reads COCO's flat list; returns ([3K] float64, zeros where unlabelled, and None or a problem).

  Without a list, or with a problem, no keypoint is labelled.
  """
  none = np.zeros(3 * num_keypoints)
  if not flat or (isinstance(flat, list) and not any(flat)):
    return none, None
  try:
    values = np.array(flat, np.float64)
  except checks.MALFORMED:
    return none, 'keypoints are not numbers'
  if values.shape != (3 * num_keypoints,):
    return none, f'{values.size} keypoint numbers, not 3 x {num_keypoints}'
  if not np.isfinite(values).all():
    return none, 'a keypoint is not finite'
  if not checks.in_range(values):
    return none, 'a keypoint is beyond all images'
  if not np.isin(values[2::3], (0, 1, 2)).all():
    return none, 'a visibility flag is not 0, 1 or 2'
  return np.where(np.repeat(values[2::3] > 0, 3), values, 0), None


def _clip_box(box, image_size):
  """Reads a box and clips it by the released code's rule.

  Returns:
    (its 4 numbers, [4] float32 clipped to the image, None), or (its numbers or None, None, the
    reason to leave it out).
  """
  try:
    if not isinstance(box, list):
      raise TypeError
    x, y, width, height = numbers = [float(value) for value in box]
  except checks.MALFORMED:
    return None, None, 'box is not four numbers'
  if not checks.in_range(numbers):
    return None, None, 'box is not finite'
  left, top = max(0.0, x), max(0.0, y)
  right = min(image_size[0] - 1.0, left + max(0.0, width - 1))
  bottom = min(image_size[1] - 1.0, top + max(0.0, height - 1))
  if width <= 0 or height <= 0 or right <= left or bottom <= top:
    return numbers, None, 'box without area in the image'
  return numbers, np.array([left, top, right - left, bottom - top], np.float32), None
