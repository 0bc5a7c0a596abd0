"""Doubts about annotations that can be read but are hardly meant: other units, other orders."""

import numpy as np

from mrpose_jax.input_pipeline.formats import annotation_types

# A doubt is reported if it concerns more than this share of a file.
SHARE = 0.25
# A keypoint counts as inside its box up to this fraction of the box's size beyond it.
_MARGIN = 0.1


def doubts(annotations: annotation_types.Annotations) -> list[str]:
  """Returns one line with numbers for each kind of coordinates that look like a mistake.

  These are keypoints or boxes in fractions of the image, keypoints outside their own boxes, and
  boxes that reach out of their images. Single ones occur in all data sets and are no doubt.
  """
  people = [row for row in annotations.rows if row['num_keypoints']]
  if not people:
    return []
  points = np.array([row['keypoints'] for row in people]).reshape(len(people), -1, 3)
  labelled, points = points[..., 2] > 0, points[..., :2]
  boxes = np.array([row['bbox'] for row in people])
  low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
  found = []

  def add(wrong, of, hint):
    if wrong.sum() > SHARE * wrong.size:
      found.append(f'{wrong.sum()} of {wrong.size} {of}; {hint}')

  far = np.where(labelled[..., None], np.abs(points), 0).max((1, 2))
  in_pixels = 'are they fractions of the image? They must be in pixels'
  add(far <= 1, 'people have all their keypoints between 0 and 1', in_pixels)
  add(np.abs(boxes).max(1) <= 1, 'boxes lie between 0 and 1', in_pixels)

  margin = 1 + _MARGIN * boxes[:, 2:]
  inside = (points >= (low - margin)[:, None]) & (points <= (high + margin)[:, None])
  add(
    ~inside.all(-1)[labelled],
    'labelled keypoints lie outside their own boxes',
    'keypoints must be x, y, visibility and bbox x, y, width, height, all in pixels',
  )

  sizes = {image.id: image.size for image in annotations.images}
  if all(sizes.values()):
    size = np.array([sizes[row['image_id']] for row in people], float)
    reach_out = (high > size + 1).any(1) | (low < -1).any(1)
    add(
      reach_out,
      f'boxes reach out of their images, {_corners(boxes, size, reach_out)} of them would not if '
      'they were left, top, right, bottom',
      'bbox must be x, y, width, height in pixels',
    )
  return found


def _corners(boxes, size, reach_out):
  """Number of boxes that reach out of their image, but not if they are read as corners."""
  right_bottom = boxes[:, 2:]
  return int(
    (reach_out & (right_bottom > boxes[:, :2]).all(1) & (right_bottom <= size + 1).all(1)).sum()
  )
