"""Bilinear resampling of images by affine maps, on the accelerator."""

import jax
from jax import numpy as jnp

from input_pipeline import boxes


def affine(images: jax.Array, matrix: jax.Array, out_size: tuple[int, int]) -> jax.Array:
  """Crops by bilinear interpolation; what lies outside the image is zero.

  Args:
    images: [N, H, W, C] of any real type.
    matrix: [N, 2, 3], image xy -> crop xy, pixel centres at integers.
    out_size: (height, width) of the crops.

  Returns:
    [N, height, width, C] float32, in the images' units.
  """
  images, matrix = jnp.asarray(images), jnp.asarray(matrix, jnp.float32)
  crop = jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in out_size[::-1])), -1)
  points = boxes.transform(boxes.invert(matrix), crop.reshape(1, -1, 2))  # [N, hw, 2]
  crops = jax.vmap(_sample)(images, points)
  return crops.reshape(len(images), *out_size, images.shape[-1])


def _sample(image, points):
  """[H, W, C] at [P, 2] -> [P, C]."""
  height, width, channels = image.shape
  flat = image.reshape(height * width, channels)
  corner = jnp.floor(points)
  fraction = points - corner
  x, y = corner.astype(jnp.int32).T
  total = 0.0
  for dx in (0, 1):
    for dy in (0, 1):
      weight = (fraction[:, 0] if dx else 1 - fraction[:, 0]) * (
        fraction[:, 1] if dy else 1 - fraction[:, 1]
      )
      inside = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
      index = jnp.clip(y + dy, 0, height - 1) * width + jnp.clip(x + dx, 0, width - 1)
      pixels = flat[index].astype(jnp.float32)
      total += jnp.where(inside, weight, 0.0)[:, None] * pixels
  return total
