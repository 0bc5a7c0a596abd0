"""The loss that training minimises."""

import jax
from jax import numpy as jnp


def keypoint_mse_loss(
  predicted: jax.Array, target: jax.Array, weights: jax.Array, hard_keypoints: int = 0
) -> jax.Array:
  """Half the mean squared error between heatmaps, with unlabelled keypoints weighted zero.

  This is equation (1) of the paper times one half, as in the released code, so that logged losses
  can be compared.

  Args:
    predicted: [N, H, W, K].
    target: [N, H, W, K].
    weights: [N, K]; 1 where the keypoint is labelled, else 0.
    hard_keypoints: number of keypoints of each person with the largest errors that count (online
      hard keypoint mining, OHKM: Chen et al., CVPR 2018, section 3.2.2); 0 counts all.

  Returns:
    A float32 scalar: the mean over N, H, W and the keypoints that count.

  Raises:
    ValueError: the shapes do not match.
  """
  if predicted.shape != target.shape or weights.shape != predicted.shape[:1] + predicted.shape[3:]:
    raise ValueError(
      f'predicted {predicted.shape} and target {target.shape} must both be [N, H, W, K] and '
      f'weights {weights.shape} [N, K]'
    )
  error = (predicted.astype(jnp.float32) - target) * weights[:, None, None, :]
  if hard_keypoints:
    errors_of_keypoints = jnp.square(error).mean((1, 2))  # [N, K]
    hardest, _ = jax.lax.top_k(errors_of_keypoints, hard_keypoints)
    return 0.5 * hardest.mean()
  return 0.5 * jnp.square(error).mean()
