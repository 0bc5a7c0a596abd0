"""Annotation and detection files -> validated people.

Every coordinate that leaves this module is 0-based, in pixels of the image file.
"""

import collections
import dataclasses
import json
import math
import pathlib

import numpy as np

from mrpose_jax import errors
from mrpose_jax import skeleton as skeletons

# How COCO names the lists of test images.
IMAGE_INFO = 'image_info_'

# What reading a record of the wrong form raises; int(inf) is an OverflowError.
_MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Person:
  """One annotated person.

  Attributes:
    id: of the annotation.
    box: [4] x, y, width, height; the one that crops are made from.
    area: of the person's segment, in square pixels.
    keypoints: [K, 2] float32 xy; zero where not labelled.
    visible: [K] int32; 0 not labelled, 1 labelled but hidden, 2 visible.
  """

  id: int
  box: np.ndarray
  area: float
  keypoints: np.ndarray
  visible: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageEntry:
  """One image and its people.

  Attributes:
    id: of the image.
    file_name: relative to the image folder; stays inside it.
    people: the annotated ones.
    size: width, height in pixels, where the file tells.
  """

  id: int
  file_name: str
  people: list[Person]
  size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
  """A split of a data set.

  Attributes:
    skeleton: of its people.
    images: all of them, with people or without.
    dropped: number of annotations left out, by reason.
    test_set: whether its keypoints are not published.
  """

  skeleton: skeletons.Skeleton
  images: list[ImageEntry]
  dropped: collections.Counter
  test_set: bool = False

  @property
  def num_people(self) -> int:
    return sum(len(image.people) for image in self.images)


def read_coco(path) -> Annotations:
  """Reads a COCO keypoint annotation file.

  Left out, and counted: crowds, people without a labelled keypoint, and boxes without area inside
  their image. Boxes are clipped to the image as the released code does.

  A file image_info_SET.json lists the images of a test set, whose people are not published.

  Raises:
    DataError: not a COCO keypoint file, or records that contradict it; all problems are counted
      and the first few named.
  """
  content = _read_json(path)
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
  named = [c for c in content['categories'] if isinstance(c, dict) and {'id', 'name'} <= c.keys()]
  categories = [c for c in named if c.get('keypoints')] or named
  if len(categories) != 1:
    raise errors.DataError(
      f'{path}: {len(categories)} categories with keypoints, and a network learns one; write a '
      'file for each, with its category and annotations only'
    )
  skeleton = skeletons.from_category(categories[0], str(path))

  problems, dropped = [], collections.Counter()
  images = {}
  for row in content['images']:
    try:
      number, name, limit = int(row['id']), str(row['file_name']), (row['width'], row['height'])
    except _MALFORMED:
      problems.append(f'image {_brief(row)} lacks id, file_name, width or height')
      continue
    if number in images:
      problems.append(f'image id {number} stands twice')
    elif not all(_is_positive(n) for n in limit):
      problems.append(f'image {number}: {limit[0]} x {limit[1]} pixels')
    elif _leaves_folder(name):
      problems.append(f'image {number}: file name {name!r} leaves the image folder')
    else:
      images[number] = (name, limit, [])

  seen = set()
  for row in content['annotations']:
    try:
      number, image, category = int(row['id']), int(row['image_id']), row['category_id']
      crowd, box, flat = row.get('iscrowd', 0), row['bbox'], row.get('keypoints')
      area = row.get('area') or None
    except _MALFORMED:
      problems.append(f'annotation {_brief(row)} lacks id, image_id, category_id or bbox')
      continue
    if category != categories[0]['id']:
      dropped['another category'] += 1
    elif number in seen:
      problems.append(f'annotation id {number} stands twice')
    elif image not in images:
      problems.append(f'annotation {number}: there is no image {image}')
    elif crowd:
      dropped['crowd'] += 1
    elif not flat or (isinstance(flat, list) and not any(flat)):
      dropped['no keypoints'] += 1
    else:
      seen.add(number)
      keypoints, visible, problem = _keypoints(flat, skeleton.num_keypoints)
      box, reason = _clip_box(box, images[image][1])
      if problem:
        problems.append(f'annotation {number}: {problem}')
      elif not (area is None or _is_positive(area)):
        problems.append(f'annotation {number}: area {area!r} is not usable')
      elif reason:
        dropped[reason] += 1
      elif not visible.any():
        dropped['no keypoints'] += 1
      else:
        area = float(area or box[2] * box[3])
        images[image][2].append(Person(number, box, area, keypoints, visible))
  _raise_problems(path, problems)
  entries = [
    ImageEntry(number, name, people, size) for number, (name, size, people) in images.items()
  ]
  return Annotations(skeleton, entries, dropped, test_set)


def read_mpii(path) -> Annotations:
  """Reads MPII annotations in the JSON form of the PyTorch codes.

  Each row holds 'image', 'center', 'scale' (person height / 200 pixels) and, except in the test
  set, 'joints' and 'joints_vis'; coordinates are 1-based. The box is the square of side 200 x scale
  around the centre moved down by 15 x scale, so padding it by 1.25 gives the region that
  SimpleBaseline crops. People are numbered by row and images by their first appearance; the rows
  of the benchmark's ground truth come in the same order.

  Raises:
    DataError: as `read_coco`.
  """
  content = _read_json(path)
  if not isinstance(content, list):
    raise errors.DataError(f'{path}: not an MPII annotation file (it needs a list of people)')
  num_keypoints = skeletons.MPII.num_keypoints
  problems, dropped, images = [], collections.Counter(), {}
  for number, row in enumerate(content):
    try:
      name = str(row['image'])
      center, scale = np.array(row['center'], np.float64), float(row['scale'])
      joints = np.array(row.get('joints', np.zeros((num_keypoints, 2))), np.float64)
      labelled = np.array(row.get('joints_vis', np.zeros(num_keypoints)), np.float64) > 0
    except _MALFORMED:
      problems.append(f'row {number} {_brief(row)} lacks image, center, scale or joints')
      continue
    if joints.shape != (num_keypoints, 2) or labelled.shape != (num_keypoints,):
      problems.append(
        f'row {number}: joints of shape {joints.shape} and joints_vis of '
        f'{labelled.shape}, not {num_keypoints} x 2 and {num_keypoints}'
      )
    elif center.shape != (2,) or not (np.isfinite(center).all() and 0 < scale < math.inf):
      problems.append(f'row {number}: center {row["center"]} or scale {scale} is not usable')
    elif not np.isfinite(joints).all():
      problems.append(f'row {number}: a joint is not finite')
    elif _leaves_folder(name):
      problems.append(f'row {number}: file name {name!r} leaves the image folder')
    else:
      side = 200 * scale
      corner = center - 1 + [0, 15 * scale] - side / 2
      keypoints = np.where(labelled[:, None], joints - 1, 0).astype(np.float32)
      person = Person(
        id=number,
        box=np.array([*corner, side, side], np.float32),
        area=side * side,
        keypoints=keypoints,
        visible=np.where(labelled, 2, 0).astype(np.int32),
      )
      images.setdefault(name, []).append(person)
  _raise_problems(path, problems)
  entries = [ImageEntry(i, name, people) for i, (name, people) in enumerate(images.items())]
  test_set = not any('joints' in row for row in content)
  return Annotations(skeletons.MPII, entries, dropped, test_set)


def read_detections(
  path, score_threshold: float = 0.0, category_id: int = 1
) -> dict[str, np.ndarray]:
  """Reads a COCO detection result file; other categories than `category_id` are left out.

  Args:
    path: a JSON list of {'image_id', 'category_id', 'bbox', 'score'}.
    score_threshold: lower scores are left out.
    category_id: of what is annotated; 1 is COCO's person. Rows without one are of it.

  Returns:
    {'image_ids' [N] int64, 'boxes' [N, 4] float32 xywh, 'scores' [N] float32}, in the file's order.

  Raises:
    DataError: not a detection file, a box that is not four finite numbers of positive size, or
      boxes of other categories only.
  """
  content = _read_json(path)
  if not isinstance(content, list):
    raise errors.DataError(f'{path}: not a detection file (it needs a list of boxes)')
  problems, rows, categories = [], [], set()
  for number, row in enumerate(content):
    try:
      category = row.get('category_id', category_id)
      categories.add(category)
      keep = category == category_id and float(row['score']) >= score_threshold
      fields = int(row['image_id']), [float(value) for value in row['bbox']], float(row['score'])
    except _MALFORMED:
      problems.append(f'row {number} {_brief(row)} lacks image_id, bbox or score')
      continue
    box = fields[1]
    if len(box) != 4 or not np.isfinite([*box, fields[2]]).all() or min(box[2:]) <= 0:
      problems.append(f'row {number}: box {box} or score {fields[2]} is not usable')
    elif keep:
      rows.append(fields)
  _raise_problems(path, problems)
  if categories and category_id not in categories:
    raise errors.DataError(
      f'{path}: has boxes of category_id {sorted(categories)[0]} and none of {category_id}, '
      'which the annotations have; change one of them'
    )
  image_ids, boxes, scores = zip(*rows) if rows else ((), (), ())
  return {
    'image_ids': np.array(image_ids, np.int64),
    'boxes': np.array(boxes, np.float32).reshape(-1, 4),
    'scores': np.array(scores, np.float32),
  }


def _keypoints(flat, num_keypoints):
  """COCO's flat list -> keypoints, visible, and what is wrong with it or None."""
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


def _clip_box(box, limit):
  """The box within its image by the released code's rule, or the reason why there is none."""
  try:
    x, y, width, height = (float(value) for value in box)
  except _MALFORMED:
    return None, 'box is not four numbers'
  if not np.isfinite([x, y, width, height]).all():
    return None, 'box is not finite'
  left, top = max(0.0, x), max(0.0, y)
  right = min(limit[0] - 1.0, left + max(0.0, width - 1))
  bottom = min(limit[1] - 1.0, top + max(0.0, height - 1))
  if width <= 0 or height <= 0 or right <= left or bottom <= top:
    return None, 'box without area in the image'
  return np.array([left, top, right - left, bottom - top], np.float32), None


def _read_json(path):
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except FileNotFoundError as error:
    folder = pathlib.Path(path).parent
    beside = sorted(p.name for p in folder.glob('*.json')) if folder.is_dir() else []
    found = f'; found there: {", ".join(beside[:6])}' if beside else ''
    raise errors.DataError(f'{path}: there is no such file{found}') from error
  except (OSError, RecursionError, ValueError) as error:
    raise errors.DataError(f'{path}: not a readable JSON file ({error})') from error


def _is_positive(value):
  return isinstance(value, int | float) and 0 < value < math.inf


def _leaves_folder(name):
  path = pathlib.PurePosixPath(name)
  return not name or path.is_absolute() or '..' in path.parts


def _raise_problems(path, problems, limit=5):
  if problems:
    more = f' and {len(problems) - limit} more' if len(problems) > limit else ''
    raise errors.DataError(f'{path}: {"; ".join(problems[:limit])}{more}')


def _brief(row):
  text = json.dumps(row, default=str)
  return text if len(text) <= 60 else text[:57] + '...'
