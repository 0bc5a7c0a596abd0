"""The keypoint loss: a value by hand, and equality to the released code."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from mrpose_jax import losses
from tests.helpers import shared_data


def test_by_hand():
  """Errors 1 and 3 in two pixels of the first of two keypoints, the other one unlabelled."""
  predicted = jnp.array([1.0, 5.0, 3.0, 7.0]).reshape(1, 1, 2, 2)
  target = jnp.zeros((1, 1, 2, 2))
  loss = losses.keypoint_mse_loss(predicted, target, jnp.array([[1.0, 0.0]]))
  np.testing.assert_allclose(loss, (1 + 9) / 4 / 2)


def test_equals_the_released_codes():
  expected = json.loads(shared_data.golden('scalars.json').read_text())['loss']
  r = np.random.default_rng(2000)
  predicted = r.standard_normal((4, 17, 64, 48)).astype(np.float32).transpose(0, 2, 3, 1)
  target = r.uniform(0, 1, (4, 17, 64, 48)).astype(np.float32).transpose(0, 2, 3, 1)
  weights = (r.uniform(0, 1, (4, 17, 1)) > 0.3)[..., 0].astype(np.float32)
  weighted = losses.keypoint_mse_loss(predicted, target, weights)
  np.testing.assert_allclose(weighted, expected['weighted'], rtol=1e-5)
  plain = losses.keypoint_mse_loss(predicted, target, np.ones_like(weights))
  np.testing.assert_allclose(plain, expected['unweighted'], rtol=1e-5)


@pytest.mark.parametrize('shape', [(1, 3), (2, 2), (1, 1)])
def test_shapes_that_do_not_belong_together(shape):
  heatmaps = jnp.zeros((1, 4, 4, 2))
  with pytest.raises(ValueError, match=r'\[N, K\]'):
    losses.keypoint_mse_loss(heatmaps, heatmaps, jnp.ones(shape))


def test_hard_keypoints_by_hand():
  """The mean squared errors of the keypoints are 1, 4, 9 and 0; the mean of two largest is 6.5.

  An unlabelled keypoint is never hard.
  """
  predicted = np.broadcast_to(np.float32([1, 2, 3, 5]), (1, 2, 2, 4))
  weights = np.array([[1.0, 1, 1, 0]])
  loss = losses.keypoint_mse_loss(predicted, np.zeros_like(predicted), weights, hard_keypoints=2)
  np.testing.assert_allclose(loss, 0.5 * 6.5, rtol=1e-6)
  every = losses.keypoint_mse_loss(predicted, np.zeros_like(predicted), weights, hard_keypoints=4)
  plain = losses.keypoint_mse_loss(predicted, np.zeros_like(predicted), weights)
  np.testing.assert_allclose(every, plain, rtol=1e-6)
