"""Smoothing of keypoints over time, with the 1 Euro filter.

Casiez, Roussel, Vogel: 1 Euro filter: a simple speed-based low-pass filter for noisy input in
interactive systems, CHI 2012. A first-order low-pass filter, whose cutoff frequency grows with the
speed: slow keypoints are steady, and fast ones lag little.
"""

import math
from typing import NamedTuple

import numpy as np

from mrpose_jax.inference import tracking

MIN_CUTOFF = 1.0  # cutoff frequency of a keypoint at rest, in Hz (f_c,min in the paper)
# Growth of the cutoff frequency with the speed (beta in the paper), in Hz for one person's size per
# second. The size is the square root of the box's area, so that zoom changes nothing.
SLOPE = 10.0
SPEED_CUTOFF = 1.0  # cutoff frequency of the speed's own filter, in Hz


class _State(NamedTuple):
  """Of a person: the time, xy [K, 2] before and after smoothing, and the filtered velocity."""

  seconds: float
  raw: np.ndarray
  smooth: np.ndarray
  velocity: np.ndarray


class Smoother:
  """Filters the keypoints of each person; a keypoint's x and y share one cutoff frequency.

  As in the authors' code, the speed is that of the unfiltered positions.
  """

  def __init__(self):
    self._states = {}  # _State by the person's number

  def __call__(self, people, boxes, numbers, seconds):
    """Returns the people of the next frame with smoothed x and y; the scores stay.

    Args:
      people: [N, K, 3] x, y in pixels, score.
      boxes: [N, 4] x, y, width, height in pixels.
      numbers: N numbers of the people, see `tracking.Tracker`.
      seconds: time of the frame.
    """
    smoothed = np.array(people)
    for i, number in enumerate(numbers):
      xy = np.asarray(people[i, :, :2], np.float64)
      old = self._states.get(number, _State(seconds, xy, xy, np.zeros_like(xy)))
      new = self._next(old, xy, math.sqrt(boxes[i][2] * boxes[i][3]), seconds)
      self._states[number] = new
      smoothed[i, :, :2] = new.smooth
    self._states = {
      n: s for n, s in self._states.items() if seconds - s.seconds <= tracking.LOST_SECONDS
    }
    return smoothed

  @staticmethod
  def _next(old, xy, size, seconds):
    """The state after the positions `xy` of a person of this size in pixels."""
    passed = seconds - old.seconds
    if passed <= 0:  # the person's first frame, or two frames of the same time
      return old
    velocity = old.velocity + _weight(SPEED_CUTOFF, passed) * (
      (xy - old.raw) / passed - old.velocity
    )
    speed = np.linalg.norm(velocity, axis=1, keepdims=True) / size
    weight = _weight(MIN_CUTOFF + SLOPE * speed, passed)
    return _State(seconds, xy, old.smooth + weight * (xy - old.smooth), velocity)


def _weight(cutoff, passed):
  """Weight of the newest value in a low-pass filter: 1 / (1 + tau / T), tau = 1 / (2 pi f_c)."""
  return 1 / (1 + 1 / (2 * math.pi * cutoff * passed))
