"""The 1 Euro filter, against a version with one number at a time, and on signals with noise."""

import math

import numpy as np
import pytest

from mrpose_jax.inference import smoothing

BOX = np.array([[0, 0, 100, 400]], np.float32)
SIZE = 200  # square root of the box's area


def smoothed(positions, times, box=BOX):
  """Smooths xy [T, K, 2] of one person; returns float32 [T, K, 2]."""
  smoother = smoothing.Smoother()
  scores = np.ones((*positions.shape[1:2], 1))
  return np.stack(
    [
      smoother(np.concatenate([xy, scores], -1)[None].astype(np.float32), box, [1], t)[0, :, :2]
      for xy, t in zip(positions, times)
    ]
  )


def one_euro(xs, ys, times, size):
  """The paper's algorithm for one keypoint in Python's floats; the speed is that of x and y."""

  def alpha(cutoff, period):
    return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff) / period)

  x, y, vx, vy = xs[0], ys[0], 0.0, 0.0
  result = [(x, y)]
  for i in range(1, len(times)):
    period = times[i] - times[i - 1]
    a = alpha(1.0, period)
    vx = a * (xs[i] - xs[i - 1]) / period + (1 - a) * vx
    vy = a * (ys[i] - ys[i - 1]) / period + (1 - a) * vy
    a = alpha(1.0 + 10.0 * math.hypot(vx, vy) / size, period)
    x, y = a * xs[i] + (1 - a) * x, a * ys[i] + (1 - a) * y
    result.append((x, y))
  return result


def test_equals_the_formulas_in_float64():
  """With frames at uneven times, as of a stream."""
  r = np.random.default_rng(0)
  times = np.cumsum(r.uniform(0.005, 0.2, 60))
  positions = np.cumsum(r.normal(0, 9, (60, 5, 2)), 0) + 300
  positions = positions.astype(np.float32).astype(np.float64)
  expected = [one_euro(*positions[:, k].T.tolist(), times.tolist(), SIZE) for k in range(5)]
  np.testing.assert_allclose(smoothed(positions, times), np.swapaxes(expected, 0, 1), rtol=1e-6)


@pytest.mark.parametrize('rate', [25, 60])
def test_jitter_falls_and_the_lag_is_small(rate):
  """Noise of one per cent of the person's size, on a person who stands and one who walks."""
  times = np.arange(0, 20, 1 / rate)
  noise = np.random.default_rng(0).normal(0, 0.01 * SIZE, (len(times), 17, 2))
  steps = np.diff(smoothed(noise, times)[rate:], axis=0)
  assert steps.std() < 0.3 * np.diff(noise, axis=0).std()
  assert smoothed(noise, times)[rate:].std() < 0.5 * noise.std()

  speed = 0.5 * SIZE  # pixels per second
  walk = np.zeros((len(times), 17, 2))
  walk[..., 0] = speed * times[:, None]
  lag = (walk - smoothed(walk + noise, times))[rate:, :, 0].mean() / speed
  assert 0 < lag < 0.035  # seconds


def test_the_size_of_the_picture_does_not_matter():
  r = np.random.default_rng(0)
  times, positions = np.arange(30) / 25, np.cumsum(r.normal(0, 9, (30, 3, 2)), 0)
  small, large = smoothed(positions, times), smoothed(4 * positions, times, 4 * BOX)
  np.testing.assert_allclose(large, 4 * small, rtol=1e-5)


def test_people_come_and_go():
  """A new person is not smoothed, also after a long absence; scores and the input stay."""
  smoother = smoothing.Smoother()
  boxes = np.repeat(BOX, 2, 0)
  first, second = np.full((2, 17, 3), 10, np.float32), np.full((2, 17, 3), 20, np.float32)
  np.testing.assert_array_equal(smoother(first, boxes, [1, 2], 0), first)
  people = smoother(second, boxes, [3, 2], 0.04)
  assert people.dtype == np.float32
  np.testing.assert_array_equal(people[0], 20)
  assert (people[1, :, :2] < 20).all() and (people[1, :, :2] > 10).all()
  np.testing.assert_array_equal(people[1, :, 2], 20)
  np.testing.assert_array_equal(second, 20)
  smoother(second[:1], boxes[:1], [3], 1.05)
  np.testing.assert_array_equal(smoother(first, boxes, [2, 1], 1.06)[1], first[1])
  assert smoother(first[:0], boxes[:0], [], 9).shape == (0, 17, 3)
  assert not smoother._states


def test_two_frames_of_the_same_time():
  smoother = smoothing.Smoother()
  first, second = np.full((1, 17, 3), 10, np.float32), np.full((1, 17, 3), 20, np.float32)
  smoother(first, BOX, [1], 0)
  np.testing.assert_array_equal(smoother(second, BOX, [1], 0)[..., :2], 10)
