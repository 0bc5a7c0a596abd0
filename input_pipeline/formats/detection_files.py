"""Files of bounding boxes: detection results and annotation files in COCO's format.

Every reader leaves out crowd regions, boxes of other categories and boxes with too low a score, and
logs in one line how many these were. A box without a category or a score counts.
"""

import collections
import logging
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from mrpose_jax import errors
from mrpose_jax.input_pipeline.formats import checks

log = logging.getLogger(__name__)


def read(
  path,
  score_threshold: float = 0.0,
  category_ids: Sequence[int] = (1,),
  image_ids: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
  """Reads a COCO detection result file for the evaluation.

  Args:
    path: a JSON list of {'image_id', 'category_id', 'bbox', 'score'}, or a COCO file whose
      annotations have these fields.
    score_threshold: boxes with a lower score are left out.
    category_ids: categories of the annotations; 1 is COCO's person. With several of them, a box
      without a category does not count.
    image_ids: the data set's image id of each file name. It replaces the file's own ids if its rows
      have a 'file_name' or it lists its `images`.

  Returns:
    {'image_ids' [N] int64, 'boxes' [N, 4] float32 xywh, 'scores' [N] float32, 'category_ids' [N]
    int64}, in the file's order.

  Raises:
    DataError: not a detection file, a box that is not four finite numbers of positive size, or
      boxes of other categories only.
  """
  rows, listed, _ = _open(path)
  known = image_ids or {}

  def image_of(row):
    if 'file_name' in row:
      return known.get(row['file_name'])
    return _image_id(row) if listed is None else known.get(listed.get(row['image_id']))

  kept = _select(
    *(path, rows, image_of, lambda row: float(row['score'])),
    *('image_id, bbox or score', score_threshold, category_ids),
  )
  image_ids, boxes, scores, categories = zip(*kept) if kept else ((), (), (), ())
  return {
    'image_ids': np.array(image_ids, np.int64),
    'boxes': np.array(boxes, np.float32).reshape(-1, 4),
    'scores': np.array(scores, np.float32),
    'category_ids': np.array(categories, np.int64),
  }


def read_by_file(path, names: Sequence[str], score_threshold: float = 0.0) -> dict[str, np.ndarray]:
  """Reads the boxes of some image files.

  Args:
    path: a JSON list of {'bbox' [x, y, width, height], and 'file_name' or 'image_id'}, or a COCO
      file. An `image_id` means the file that the list `images` gives it, or, in a file without this
      list, the file whose name is this number.
    names: names of the image files, without folders.
    score_threshold: boxes with a lower score are left out.

  Returns:
    {file name: boxes [N, 4] float32}; only files with boxes.

  Raises:
    DataError: not a file of boxes, boxes that cannot be used, or no box for any of the files.
  """
  rows, listed, category_ids = _open(path)
  wanted = set(names)
  by_number = collections.defaultdict(list)
  for name in names:
    stem = name.rpartition('.')[0]
    if stem.isdecimal():
      by_number[int(stem)].append(name)
  counts = collections.Counter(map(_base, (listed or {}).values()))
  for name in names:
    if counts[name] > 1:
      raise errors.DataError(f'{path}: lists {counts[name]} images with the file name {name}')

  def image_of(row):
    if 'file_name' in row:
      found = [_base(row['file_name'])]
    elif listed is not None:
      found = [_base(listed.get(row['image_id'], ''))]
    else:
      found = by_number[_image_id(row)] or [None]
    if len(found) > 1:
      raise errors.DataError(
        f'{path}: image_id {row["image_id"]} may be {found[0]} or {found[1]}; give file_name'
      )
    return found[0] if found[0] in wanted else None

  return _group(path, rows, image_of, 'file_name', score_threshold, category_ids)


def read_by_frame(path, score_threshold: float = 0.0) -> dict[int, np.ndarray]:
  """Reads the boxes of a video's frames.

  Args:
    path: a JSON list of {'bbox' [x, y, width, height], and 'frame' or 'image_id' (number of the
      frame, from 0)}, or a COCO file. If this lists its `images`, the number at the end of a file's
      name is that of the frame.
    score_threshold: boxes with a lower score are left out.

  Returns:
    {frame number: boxes [N, 4] float32}; only frames with boxes.

  Raises:
    DataError: not a file of boxes, boxes that cannot be used, or no box.
  """
  rows, listed, category_ids = _open(path)

  def frame_of(row):
    if 'frame' in row:
      return checks.whole_number(row['frame'])
    if listed is None:
      return _image_id(row)
    name = listed.get(row['image_id'])
    return None if name is None else int(re.search(r'(\d+)(\.\w+)?$', name)[1])

  return _group(path, rows, frame_of, 'frame (from 0)', score_threshold, category_ids)


def _open(path):
  """Returns a file's rows, its file names by image id, and its categories.

  A plain list has neither list of files nor of categories; both are None.
  """
  content = checks.read_json(path)
  if isinstance(content, list):
    return content, None, None
  rows = content.get('annotations') if isinstance(content, dict) else None
  if not isinstance(rows, list):
    raise errors.DataError(
      f'{path}: not a detection file: it needs a list of boxes, or the "annotations" of a COCO file'
    )
  try:
    images = content.get('images')
    listed = {row['id']: row['file_name'] for row in images} if images else None
    if not all(isinstance(name, str) for name in (listed or {}).values()):
      raise TypeError('a file_name is no text')
    categories = content.get('categories') or []
    with_keypoints = [row['id'] for row in categories if row.get('keypoints')]
    people = [row['id'] for row in categories if row.get('name') == 'person']
    candidates = [row['id'] for row in categories]
    candidates = with_keypoints or people or (candidates if len(candidates) == 1 else [1])
  except checks.MALFORMED as error:
    raise errors.DataError(
      f'{path}: an entry of "images" lacks id or file_name, or one of "categories" lacks id'
    ) from error
  return rows, listed, candidates if categories else None


def _image_id(row):
  return checks.whole_number(row['image_id'])


def _base(name):
  """File name without its folders, in Linux's or Windows' notation."""
  return re.split(r'[/\\]', name)[-1]


def _group(path, rows, image_of, image_field, score_threshold, category_ids):
  """Returns {image: boxes [N, 4]}; raises DataError if no box is left.

  Where no list of categories says which ones count, it is the only one of the rows, or among
  several 1, a person.
  """
  if category_ids is None:
    found = [row.get('category_id', 1) for row in rows if isinstance(row, dict)]
    category_ids = (found[0] if len(set(map(repr, found))) == 1 else 1,)
    if category_ids != (1,):
      log.warning('%s: has boxes of category_id %r alone, so these count', path, *category_ids)
  needed = f"'{image_field}' or 'image_id', or 'bbox'"
  boxes = collections.defaultdict(list)
  for image, box, *_ in _select(
    *(path, rows, image_of, lambda row: float(row.get('score', 1))),
    *(needed, score_threshold, category_ids),
  ):
    boxes[image].append(box)
  if not boxes:
    raise errors.DataError(f'{path}: no box is left for the images of --input')
  return {image: np.array(image_boxes, np.float32) for image, image_boxes in boxes.items()}


def _select(
  path,
  rows: list,
  image_of: Callable,
  score_of: Callable,
  needed: str,
  score_threshold: float,
  category_ids: Sequence[int],
) -> list[tuple]:
  """Returns (image, box, score, category) of the rows that count, and logs how many do not.

  Args:
    path: names the file.
    rows: the file's rows.
    image_of: function of a row; None means that the image is not wanted.
    score_of: function of a row.
    needed: names of the fields that these functions read, for errors.
    score_threshold, category_ids: see `read`.

  Raises:
    DataError: rows that cannot be used, or of other categories only.
  """
  problems, kept, left_out, categories = [], [], collections.Counter(), set()
  unnamed = category_ids[0] if len(category_ids) == 1 else None
  counting = ', '.join(map(str, category_ids))
  for number, row in enumerate(rows):
    try:
      category = row.get('category_id', unnamed)
      categories.add(category)
      image, box, score = image_of(row), [float(value) for value in row['bbox']], score_of(row)
    except checks.MALFORMED:
      problems.append(f'row {number} {checks.brief(row)} lacks {needed}')
      continue
    if category not in category_ids:
      left_out[f'not of category {counting}'] += 1
    elif row.get('iscrowd'):
      left_out['crowd'] += 1
    elif len(box) != 4 or not checks.in_range([*box, score]) or min(box[2:]) <= 0:
      problems.append(f'row {number}: box {box} or score {score} is not usable')
    elif score < score_threshold:
      left_out[f'with a score below {score_threshold:g}'] += 1
    elif image is None:
      left_out['on other images'] += 1
    else:
      kept.append((image, box, score, category))
  checks.raise_problems(path, problems)
  if categories and not categories & set(category_ids):
    raise errors.DataError(
      f'{path}: has boxes of category_id {min(map(repr, categories))} and none of {counting}, '
      'the category that counts; make the numbers agree, or leave category_id out'
    )
  if left_out:
    reasons = ', '.join(f'{count} {reason}' for reason, count in left_out.items())
    log.warning('%s: left out %d of %d boxes: %s', path, len(rows) - len(kept), len(rows), reasons)
  return kept
