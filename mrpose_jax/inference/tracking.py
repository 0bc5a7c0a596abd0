"""Identities of people over the frames of a video, from the overlap of their boxes.

It is SORT (Bewley, Ge, Ott, Ramos, Upcroft: Simple online and realtime tracking, ICIP 2016) with a
running mean of the velocity in place of the Kalman filter, so that its parameters are times, and
frames may be missing.
"""

import dataclasses
import math

import numpy as np
from pycocotools import mask
from scipy import optimize

OVERLAP = 0.2  # least intersection over union with the expected box
# A person who is not found for longer gets another identity. A time without frames, such as that of
# a compilation, does not count.
LOST_SECONDS = 1.0
VELOCITY_SECONDS = 0.3  # time over which the velocity is averaged


@dataclasses.dataclass
class _Track:
  """A person: the last box (xywh) and its time, and the velocity (x, y) in pixels per second."""

  box: np.ndarray
  seconds: float
  velocity: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
  updates: int = 0

  def expected_box(self, seconds):
    shift = self.velocity * min(seconds - self.seconds, LOST_SECONDS)
    return np.concatenate([self.box[:2] + shift, self.box[2:]])

  def update(self, box, seconds):
    passed = seconds - self.seconds
    if passed > 0:
      self.updates += 1
      weight = max(1 / self.updates, 1 - math.exp(-passed / VELOCITY_SECONDS))
      center, old_center = (b[:2] + 0.5 * b[2:] for b in (box, self.box))
      self.velocity += weight * ((center - old_center) / passed - self.velocity)
    self.box, self.seconds = box, seconds


class Tracker:
  """Gives the boxes of each frame numbers that stay the same for the same person.

  A person is expected to move with constant velocity. Boxes are assigned to the expected boxes so
  that the sum of the intersections over union is the largest (Hungarian method).
  """

  def __init__(self):
    self._tracks = {}
    self._number = 0

  def __call__(self, boxes: np.ndarray, seconds: float) -> list[int]:
    """Returns the numbers of the people of the next frame, from 1 in the order of appearance.

    Args:
      boxes: [N, 4] x, y, width, height in pixels.
      seconds: time of the frame.
    """
    boxes = np.asarray(boxes, np.float64)
    numbers = [0] * len(boxes)
    if len(boxes) and self._tracks:
      known = list(self._tracks)
      expected = np.stack([track.expected_box(seconds) for track in self._tracks.values()])
      overlap = np.reshape(mask.iou(boxes, expected, [0] * len(expected)), (len(boxes), -1))
      overlap = np.where(overlap < OVERLAP, 0, overlap)
      for i, j in zip(*optimize.linear_sum_assignment(overlap, maximize=True)):
        if overlap[i, j] > 0:
          numbers[i] = known[j]
          self._tracks[known[j]].update(boxes[i], seconds)
    for i, number in enumerate(numbers):
      if not number:
        self._number += 1
        numbers[i] = self._number
        self._tracks[self._number] = _Track(boxes[i], seconds)
    self._tracks = {
      n: track for n, track in self._tracks.items() if seconds - track.seconds <= LOST_SECONDS
    }
    return numbers
