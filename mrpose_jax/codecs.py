"""Keypoints to heatmaps and back: Gaussian targets, peaks with a quarter offset, flipping."""

import dataclasses

import jax
from jax import numpy as jnp

from mrpose_jax import skeletons


@dataclasses.dataclass(frozen=True)
class Codec:
  """One Gaussian per keypoint (Tompson et al. 2014, as in SimpleBaseline), and its inverse.

  Attributes:
    image_size: (height, width) of the network's input.
    heatmap_size: (height, width) of the heatmaps, a quarter of it.
    sigma: standard deviation of the Gaussian in heatmap pixels; it is cut off at 3 sigma.
    offset: 'quarter' moves a peak a quarter of a pixel towards its higher neighbour (paper section
      IV-A, Testing); 'none' leaves it on its pixel.
  """

  image_size: tuple[int, int]
  heatmap_size: tuple[int, int]
  sigma: float = 2.0
  offset: str = 'quarter'

  def __post_init__(self):
    if self.offset not in ('quarter', 'none'):
      raise ValueError(f"offset {self.offset!r}: use 'quarter' or 'none'")
    if self.sigma <= 0:
      raise ValueError(f'sigma {self.sigma}: must be positive')

  def encode(self, keypoints: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws target heatmaps.

    Args:
      keypoints: [..., K, 2] x, y in pixels of the network's input.
      visible: [..., K], above 0 where the keypoint is labelled.

    Returns:
      heatmaps [..., H, W, K], Gaussians of height 1 around the nearest heatmap pixel, and weights
      [..., K]: 1, or 0 where the keypoint is not labelled or its Gaussian misses the heatmap
      (those heatmaps are zero).
    """
    keypoints = jnp.asarray(keypoints, jnp.float32)
    rows, in_rows = self._profile(keypoints[..., 1], axis=0)  # [..., H, K], [..., K]
    columns, in_columns = self._profile(keypoints[..., 0], axis=1)
    weights = ((visible > 0) & in_rows & in_columns).astype(jnp.float32)
    rows *= weights[..., None, :]
    return rows[..., :, None, :] * columns[..., None, :, :], weights

  def _profile(self, position, axis):
    """The Gaussians along one axis, [..., size, K], and whether each touches the heatmap."""
    size = self.heatmap_size[axis]
    radius = int(3 * self.sigma)
    # The released code rounds like this: towards zero, after adding a half.
    center = jnp.trunc(position * (size / self.image_size[axis]) + 0.5)
    pixels = jnp.arange(size, dtype=jnp.float32).reshape((1,) * (center.ndim - 1) + (size, 1))
    distance = pixels - center[..., None, :]
    gaussian = jnp.exp(-jnp.square(distance) / (2 * self.sigma**2))
    touches = (center - radius < size) & (center + radius + 1 >= 0)
    return jnp.where(jnp.abs(distance) <= radius, gaussian, 0.0), touches

  def decode(self, heatmaps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the peaks of heatmaps.

    Args:
      heatmaps: [..., H, W, K].

    Returns:
      keypoints [..., K, 2] x, y in heatmap pixels, and scores [..., K], the heights of the peaks. A
      keypoint whose heatmap is nowhere positive is at (0, 0).
    """
    heatmaps = jnp.asarray(heatmaps)
    height, width, _ = heatmaps.shape[-3:]
    # First the row of the peak, then the pixel in it: reductions along one axis are fast.
    rows = heatmaps.max(-2)  # [..., H, K]
    y = rows.argmax(-2)  # [..., K]
    row = jnp.take_along_axis(heatmaps, y[..., None, None, :], -3)[..., 0, :, :]  # [..., W, K]
    x = row.argmax(-2)
    scores = row.max(-2)
    flat = heatmaps.reshape(*heatmaps.shape[:-3], height * width, heatmaps.shape[-1])
    peak = y * width + x
    keypoints = jnp.stack([x, y], -1).astype(jnp.float32)
    if self.offset == 'quarter':

      def value_beside(move):  # value of each heatmap beside its peak, [..., K]
        index = jnp.clip(peak + move, 0, height * width - 1)
        return jnp.take_along_axis(flat, index[..., None, :], -2)[..., 0, :]

      slope_x = value_beside(1) - value_beside(-1)
      slope_y = value_beside(width) - value_beside(-width)
      slope = jnp.stack([slope_x, slope_y], -1)
      # As in the released code, peaks on the first two rows and columns or on the last stay.
      inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
      keypoints += jnp.where(inside[..., None], 0.25 * jnp.sign(slope), 0.0)
    return jnp.where(scores[..., None] > 0, keypoints, 0.0), scores


def flip_heatmaps(heatmaps: jax.Array, flip_pairs, shift: bool = True) -> jax.Array:
  """Mirrors heatmaps of a mirrored image back.

  Args:
    heatmaps: [..., H, W, K] of the mirrored image.
    flip_pairs: pairs of keypoints that change places, e.g. `skeletons.COCO.flip_pairs`.
    shift: move them one pixel to the right (column 0 stays), as the released code's test does. At a
      stride of 4 the mirrored grid is off by a part of a pixel.
  """
  order = skeletons.flip_order(flip_pairs, heatmaps.shape[-1])
  flipped = jnp.asarray(heatmaps)[..., ::-1, order]
  if shift:
    flipped = jnp.concatenate([flipped[..., :1, :], flipped[..., :-1, :]], -2)
  return flipped
