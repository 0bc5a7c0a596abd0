"""Boxes as users hand them over: arrays, `supervision.Detections`, or a detector that finds them.

A detector is a function of an image, uint8 [H, W, 3] RGB. It returns boxes [N, 4]; or a tuple of
boxes, scores [N] and perhaps classes [N]; or a `supervision.Detections`. Every box counts, however
low its score is, but where there are classes, only those of class 1, COCO's category of people.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import TypeAlias
from typing import Union

import numpy as np

if TYPE_CHECKING:
  import supervision

Detector: TypeAlias = Callable[[np.ndarray], object]
Boxes: TypeAlias = Union[np.ndarray, 'supervision.Detections', Detector, None]

FORMATS = {'xywh': 'x, y, width, height', 'xyxy': 'left, top, right, bottom'}
PERSON = 1  # COCO's category id


def to_xywh(boxes: Boxes, image: np.ndarray, box_format: str = 'xywh') -> np.ndarray:
  """Returns the boxes of the people in an image, float32 [N, 4] x, y, width, height in pixels.

  Args:
    boxes: [N, 4] numbers in `box_format`, a `supervision.Detections` (all of it counts), a detector
      that returns one of these, see the module's docstring, or None for a box around the image.
    image: uint8 [H, W, 3] RGB.
    box_format: a key of `FORMATS`; of no meaning to `supervision.Detections`.

  Raises:
    ValueError: an unknown format, boxes of another shape or without area, or classes that are not
      COCO's category ids.

  >>> image = np.zeros((90, 120, 3), np.uint8)
  >>> to_xywh([[10, 20, 40, 60]], image, 'xyxy').tolist()
  [[10.0, 20.0, 30.0, 40.0]]
  >>> to_xywh(lambda image: ([[1, 2, 30, 40], [5, 6, 7, 8]], [0.9, 0.8], [1, 62]), image).tolist()
  [[1.0, 2.0, 30.0, 40.0]]
  """
  if box_format not in FORMATS:
    raise ValueError(f'box_format {box_format!r}: use one of {", ".join(FORMATS)}')
  if callable(boxes):
    boxes = boxes(image)
    if isinstance(boxes, tuple):
      boxes = _of_people(*boxes)
  if boxes is None:
    return np.array([[0, 0, *image.shape[1::-1]]], np.float32)
  if hasattr(boxes, 'xyxy'):
    boxes, box_format = boxes.xyxy, 'xyxy'
  boxes = np.array(boxes, np.float32)
  boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
  if boxes.ndim != 2 or boxes.shape[1] != 4:
    raise ValueError(f'boxes are {boxes.shape}; they must be [N, 4] {FORMATS[box_format]}')
  if box_format == 'xyxy':
    boxes[:, 2:] -= boxes[:, :2]
  if not (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()):
    raise ValueError('boxes must be finite, with positive width and height')
  return boxes


def _of_people(boxes, scores=None, classes=None):
  """The boxes of class `PERSON`, or all where the detector returns no classes."""
  del scores  # the detector decides which scores are high enough
  if classes is None:
    return boxes
  classes = np.asarray(classes)
  if (classes == 0).any():
    raise ValueError(
      f'the detector returns class 0, but classes are COCO category ids, {PERSON} is a person; '
      'add 1, or return only the boxes of people and no classes'
    )
  return np.asarray(boxes, np.float32).reshape(-1, 4)[classes == PERSON]
