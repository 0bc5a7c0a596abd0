"""EPE and NME by hand and against plain loops in float64."""

import numpy as np
import pytest

from mrpose_jax.metrics import endpoint_error


def test_by_hand():
  target = np.zeros((2, 2, 2))
  keypoints = [[[3, 4], [0, 1]], [[0, 10], [50, 50]]]
  visible = [[1, 2], [1, 0]]
  table = endpoint_error.epe(keypoints, target, visible)
  assert table['keypoints'] == pytest.approx([7.5, 1])
  assert table['Mean'] == pytest.approx(16 / 3)
  table = endpoint_error.nme(keypoints, target, [10, 40], visible)
  assert table['keypoints'] == pytest.approx([100 * (0.5 + 0.25) / 2, 10])
  assert table['Mean'] == pytest.approx(100 * (0.5 + 0.1 + 0.25) / 3)


def test_against_plain_loops():
  r = np.random.default_rng(0)
  target = r.uniform(0, 200, (20, 5, 2)).astype(np.float32)
  keypoints = (target + r.normal(0, 9, target.shape)).astype(np.float32)
  visible = r.integers(0, 3, (20, 5))
  length = r.uniform(20, 90, 20)
  length[3], length[4] = 0, np.nan
  distances, shares = [], []
  for n in range(20):
    for k in range(5):
      if visible[n, k]:
        x, y = (float(keypoints[n, k, i]) - float(target[n, k, i]) for i in (0, 1))
        distances.append((x * x + y * y) ** 0.5)
        if length[n] > 0:
          shares.append(distances[-1] / length[n])
  epe = endpoint_error.epe(keypoints, target, visible)['Mean']
  assert epe == pytest.approx(sum(distances) / len(distances), rel=1e-12)
  nme = endpoint_error.nme(keypoints, target, length, visible)['Mean']
  assert nme == pytest.approx(100 * sum(shares) / len(shares), rel=1e-12)


def test_nothing_counts_and_predictions_that_are_nan():
  target = np.zeros((1, 2, 2))
  keypoints = [[[1.0, 0], [np.nan, 0]]]
  assert endpoint_error.epe(keypoints, target, [[1, 0]])['Mean'] == 1  # it is not annotated
  assert np.isnan(endpoint_error.epe(keypoints, target, [[1, 1]])['Mean'])
  assert np.isnan(endpoint_error.epe(keypoints, target, [[0, 0]])['Mean'])
  assert np.isnan(endpoint_error.nme(keypoints, target, [0], [[1, 1]])['Mean'])
  assert np.isnan(
    endpoint_error.epe(np.zeros((0, 2, 2)), np.zeros((0, 2, 2)), np.zeros((0, 2)))['Mean']
  )
  with pytest.raises(ValueError, match='differ in shape'):
    endpoint_error.epe(keypoints, target[:, :1], [[1, 1]])
