"""The loss that training minimises."""

import jax
from jax import numpy as jnp


def keypoint_mse_loss(predicted: jax.Array, target: jax.Array, weights: jax.Array) -> jax.Array:
  """Half the mean squared error between heatmaps, with unlabelled keypoints weighted zero.

  This is equation (1) of the paper times one half, as in the released code, so that logged losses
  can be compared.

  Args:
    predicted: [N, H, W, K].
    target: [N, H, W, K].
    weights: [N, K]; 1 where the keypoint is labelled, else 0.

  Returns:
    A float32 scalar: the mean over N, H, W and K.

  Raises:
    ValueError: the shapes do not match.
  """
  if predicted.shape != target.shape or weights.shape != predicted.shape[:1] + predicted.shape[3:]:
    raise ValueError(
      f'predicted {predicted.shape} and target {target.shape} must both be [N, H, W, K] and '
      f'weights {weights.shape} [N, K]'
    )
  error = (predicted.astype(jnp.float32) - target) * weights[:, None, None, :]
  return 0.5 * jnp.square(error).mean()
