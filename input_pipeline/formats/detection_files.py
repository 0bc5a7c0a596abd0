"""COCO detection result files."""

import numpy as np

from input_pipeline.formats import checks
from mrpose_jax import errors


def read(path, score_threshold: float = 0.0, category_id: int = 1) -> dict[str, np.ndarray]:
  """Reads the boxes of one category from a COCO detection result file.

  Args:
    path: a JSON list of {'image_id', 'category_id', 'bbox', 'score'}.
    score_threshold: boxes with a lower score are left out.
    category_id: category of the annotations; 1 is COCO's person. Rows without a category_id belong
      to it.

  Returns:
    {'image_ids' [N] int64, 'boxes' [N, 4] float32 xywh, 'scores' [N] float32}, in the file's order.

  Raises:
    DataError: not a detection file, a box that is not four finite numbers of positive size, or
      boxes of other categories only.
  """
  content = checks.read_json(path)
  if not isinstance(content, list):
    raise errors.DataError(f'{path}: not a detection file (it needs a list of boxes)')
  problems, rows, categories = [], [], set()
  for number, row in enumerate(content):
    try:
      category = row.get('category_id', category_id)
      categories.add(category)
      keep = category == category_id and float(row['score']) >= score_threshold
      fields = int(row['image_id']), [float(value) for value in row['bbox']], float(row['score'])
    except checks.MALFORMED:
      problems.append(f'row {number} {checks.brief(row)} lacks image_id, bbox or score')
      continue
    box = fields[1]
    if len(box) != 4 or not np.isfinite([*box, fields[2]]).all() or min(box[2:]) <= 0:
      problems.append(f'row {number}: box {box} or score {fields[2]} is not usable')
    elif keep:
      rows.append(fields)
  checks.raise_problems(path, problems)
  if categories and category_id not in categories:
    raise errors.DataError(
      f'{path}: has boxes of category_id {sorted(categories)[0]} and none of {category_id}, '
      'the category_id of the annotations; make the two files agree'
    )
  image_ids, boxes, scores = zip(*rows) if rows else ((), (), ())
  return {
    'image_ids': np.array(image_ids, np.int64),
    'boxes': np.array(boxes, np.float32).reshape(-1, 4),
    'scores': np.array(scores, np.float32),
  }
