"""Bilinear resampling of images by affine maps, on the accelerator.

One function, bilinear interpolation with zeros outside, in three forms that differ in what the
hardware does well. CPUs and GPUs gather four pixels for each one of the crop. On a TPU such gathers
are slow and matrix products are not, so there the crop is cut into tiles, and the image window that
a tile can see is multiplied by the weights max(0, 1 - |distance|) along x, then along y. Without
rotation the weights along x and y belong to whole columns and rows, and no windows are needed.
"""

import functools
import math

import jax
from jax import lax
from jax import numpy as jnp

from input_pipeline import boxes

TILE = 16  # pixels of the crop


def affine(
  images: jax.Array, matrix: jax.Array, out_size: tuple[int, int], max_step: float | None = None
) -> jax.Array:
  """Crops by bilinear interpolation; what lies outside the image is zero.

  Args:
    images: [N, H, W, C] of any real type.
    matrix: [N, 2, 3], image xy -> crop xy, pixel centres at integers.
    out_size: (height, width) of the crops.
    max_step: the caller's promise that two neighbouring crop pixels lie at most so many image
      pixels apart. With it a TPU works by tiles, which need out_size to be multiples of 16; None
      makes no promise, and a TPU gathers, too.

  Returns:
    [N, height, width, C] float32, in the images' units.
  """
  images, matrix = jnp.asarray(images), jnp.asarray(matrix, jnp.float32)
  gather = functools.partial(by_gathering, out_size=out_size)
  if max_step is None or any(n % TILE for n in out_size):
    return gather(images, matrix)
  tiles = functools.partial(by_tiles, out_size=out_size, max_step=max_step)
  return lax.platform_dependent(images, matrix, tpu=tiles, default=gather)


def scale_and_shift(images: jax.Array, matrix: jax.Array, out_size: tuple[int, int]) -> jax.Array:
  """`affine` for matrices that neither rotate nor shear (their off-diagonal entries are zero)."""
  images, matrix = jnp.asarray(images), jnp.asarray(matrix, jnp.float32)
  gather = functools.partial(by_gathering, out_size=out_size)
  separable = functools.partial(by_rows_and_columns, out_size=out_size)
  return lax.platform_dependent(images, matrix, tpu=separable, default=gather)


def by_gathering(images, matrix, out_size):
  """`affine`, pixel by pixel."""
  points = _sources(matrix, out_size).reshape(len(images), -1, 2)  # [N, hw, 2]
  crops = jax.vmap(_gather)(images, points)
  return crops.reshape(len(images), *out_size, images.shape[-1])


def _gather(image, points):
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


def by_tiles(images, matrix, out_size, max_step):
  """`affine` as matrix products of tiles with the windows that they see."""
  n, _, _, channels = images.shape
  rows, columns = out_size[0] // TILE, out_size[1] // TILE
  points = _sources(matrix, out_size).reshape(n, rows, TILE, columns, TILE, 2)
  points = points.swapaxes(2, 3).reshape(n, rows * columns, TILE * TILE, 2)  # [N, T, P, 2]

  # A tile turned by 45 degrees is widest; one more pixel on each side for interpolation.
  side = math.ceil((TILE - 1) * max_step * math.sqrt(2)) + 2
  padded = jnp.pad(images, ((0, 0), (side, side), (side, side), (0, 0)))
  limit = jnp.array(images.shape[2:0:-1]) + side
  start = jnp.floor(points.min(2)).astype(jnp.int32)  # [N, T, 2], in the image
  start = jnp.clip(start + side, 0, jnp.broadcast_to(limit, start.shape))  # in the padded image

  def window(image, start):
    return lax.dynamic_slice(image, (start[1], start[0], 0), (side, side, channels))

  windows = jax.vmap(jax.vmap(window, (None, 0)))(padded, start)  # [N, T, S, S, C]
  place = points - (start - side)[:, :, None].astype(jnp.float32)  # [N, T, P, 2] in the window
  along_x, along_y = _weights(place[..., 0], side), _weights(place[..., 1], side)  # [N, T, P, S]
  lines = _exact_product('ntpx,ntyxc->ntpyc', along_x, windows)
  crops = (along_y[..., None] * lines).sum(3)  # [N, T, P, C]
  crops = crops.reshape(n, rows, columns, TILE, TILE, channels).swapaxes(2, 3)
  return crops.reshape(n, *out_size, channels)


def by_rows_and_columns(images, matrix, out_size):
  """`scale_and_shift` as two matrix products."""
  height, width = images.shape[1:3]
  points = _sources(matrix, out_size)
  along_x = _weights(points[:, 0, :, 0], width)  # [N, w, W]
  along_y = _weights(points[:, :, 0, 1], height)  # [N, h, H]
  columns = _exact_product('nux,nyxc->nyuc', along_x, images)
  return jnp.einsum('nvy,nyuc->nvuc', along_y, columns, precision=lax.Precision.HIGHEST)


def _sources(matrix, out_size):
  """[N, height, width, 2]: where in the image each pixel of the crop lies."""
  crop = jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in out_size[::-1])), -1)
  points = boxes.transform(boxes.invert(matrix), crop.reshape(1, -1, 2))
  return points.reshape(len(matrix), *out_size, 2)


def _weights(position, size):
  """[...] -> [..., size]: of each pixel along an axis for a sample at `position`."""
  pixels = jnp.arange(size, dtype=jnp.float32).reshape((1,) * position.ndim + (size,))
  return jnp.maximum(0.0, 1.0 - jnp.abs(position[..., None] - pixels))


def _exact_product(equation, weights, pixels):
  """einsum in float32; of uint8 pixels in two bfloat16 products, which lose less than 2^-16."""
  if pixels.dtype != jnp.uint8:
    return jnp.einsum(
      equation, weights, pixels.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
  high = weights.astype(jnp.bfloat16)
  low = (weights - high.astype(jnp.float32)).astype(jnp.bfloat16)
  pixels = pixels.astype(jnp.bfloat16)  # 0..255 exactly
  return sum(
    jnp.einsum(equation, part, pixels, preferred_element_type=jnp.float32) for part in (high, low)
  )
