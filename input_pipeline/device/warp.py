"""Bilinear resampling of images by affine maps, on the accelerator.

Bilinear interpolation with zeros outside the image has three implementations here, which suit
different hardware. CPUs and GPUs gather four image pixels for each crop pixel. On a TPU gathers are
slow and matrix products are fast, so there the crop is cut into tiles, and the image window that a
tile can see is multiplied by the weights max(0, 1 - |distance|) along x, then along y. A slice of
an image costs a TPU a microsecond or more, however small it is, so slices are cut for blocks of
tiles, and matrix products select the windows of the tiles from them. Without rotation the weights
along x and y are the same for whole columns and rows, and no windows are needed.
"""

import functools
import math

import jax
from jax import lax
from jax import numpy as jnp

from mrpose_jax.input_pipeline.device import geometry

TILE = 16  # side of a tile, in crop pixels
BLOCK = (64, 32)  # largest height, width of a block of tiles, in crop pixels


def affine(
  images: jax.Array, matrix: jax.Array, out_size: tuple[int, int], max_step: float | None = None
) -> jax.Array:
  """Crops images by bilinear interpolation, with zeros outside the images.

  Args:
    images: [N, H, W, C] of any real type.
    matrix: [N, 2, 3], image xy -> crop xy, pixel centres at integers.
    out_size: (height, width) of the crops.
    max_step: upper bound, guaranteed by the caller, on the distance of neighbouring crop pixels in
      image pixels. With it a TPU uses tiles if the images are uint8 and both numbers of out_size
      are multiples of 16; otherwise, and for None, a TPU gathers as well.

  Returns:
    [N, height, width, C] float32, in the images' units.
  """
  images, matrix = jnp.asarray(images), jnp.asarray(matrix, jnp.float32)
  gather = functools.partial(by_gathering, out_size=out_size)
  if max_step is None or images.dtype != jnp.uint8 or any(n % TILE for n in out_size):
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
  """`affine` by gathering four image pixels for each crop pixel."""
  # XLA computes a matrix product once, but may compute a sum again for each of its uses. If these
  # round differently, indices and weights come from floors that are a pixel apart.
  ones = jnp.ones((math.prod(out_size), 1), jnp.float32)
  crop = jnp.concatenate([_pixels(out_size), ones], 1)
  points = jnp.einsum(
    'nij,pj->npi', geometry.invert(matrix), crop, precision=lax.Precision.HIGHEST
  )  # [N, hw, 2]
  crops = jax.vmap(_gather)(images, points)
  return crops.reshape(images.shape[0], *out_size, images.shape[-1])


def _gather(image, points):
  """Samples an image [H, W, C] at points [P, 2]; returns [P, C]."""
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
  """`affine` for uint8 images by matrix products of tiles with the windows that they see."""
  n, _, _, channels = images.shape
  block = [math.gcd(size, limit) for size, limit in zip(out_size, BLOCK)]
  points = _sources(matrix, out_size).reshape(
    *(n, out_size[0] // block[0], block[0] // TILE, TILE),
    *(out_size[1] // block[1], block[1] // TILE, TILE, 2),
  )
  points = points.transpose(0, 1, 4, 2, 5, 3, 6, 7)  # blocks, tiles in a block, pixels in a tile
  down, across, tiles_down, tiles_across = points.shape[1:5]
  points = points.reshape(n, down * across, tiles_down * tiles_across, TILE * TILE, 2)
  side, tile_side = _window_side(block, max_step), _window_side((TILE, TILE), max_step)

  # At least one pixel of padding, or XLA copies all images to another layout for every slice.
  pads = [(0, max(side - size, 0) + 1) for size in images.shape[1:3]]
  images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
  start = _window_start(points, (2, 3), side, images.shape[1:3])  # [N, B, 2]

  def window(image, start):
    first_channel = jnp.zeros((), start.dtype)
    return lax.dynamic_slice(image, (start[1], start[0], first_channel), (side, side, channels))

  windows = jax.vmap(jax.vmap(window, (None, 0)))(images, start)  # [N, B, S, S, C]
  windows = windows.astype(jnp.bfloat16)  # exact for 0..255
  points -= start[:, :, None, None].astype(jnp.float32)
  start = _window_start(points, 3, tile_side, (side, side))  # [N, B, T, 2] in the block's window
  points -= start[:, :, :, None].astype(jnp.float32)
  rows, columns = (_rows_of_identity(start[..., i], tile_side, side) for i in (1, 0))
  windows = jnp.einsum('nbtsy,nbyxc->nbtscx', rows, windows)

  # The two halves of the weights (see _exact_product) lie side by side, each with its own copy of
  # the window. Weights of the same shape as the array that they multiply are computed within that
  # product and not stored in main memory.
  columns = jnp.concatenate([columns, columns], -2)  # [N, B, T, 2s, S]
  windows = jnp.einsum('nbtscx,nbtux->nbtscu', windows, columns)
  pixel = lax.broadcasted_iota(jnp.int32, (*points.shape[:-1], 2 * tile_side), 4)
  along_x = _weight(points[..., :1] - (pixel % tile_side).astype(jnp.float32))  # [N, B, T, P, 2s]
  along_x = jnp.where(pixel < tile_side, *_halves(along_x))
  lines = jnp.einsum('nbtpu,nbtscu->nbtpsc', along_x, windows, preferred_element_type=jnp.float32)
  pixel = lax.broadcasted_iota(jnp.int32, lines.shape, 4)
  along_y = _weight(points[..., 1:, None] - pixel.astype(jnp.float32))  # [N, B, T, P, s, C]
  crops = (along_y * lines).sum(4)  # [N, B, T, P, C]
  crops = crops.reshape(n, down, across, tiles_down, tiles_across, TILE, TILE, channels)
  return crops.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, *out_size, channels)


def _window_side(shape, max_step):
  """Side of the window that holds `shape` crop pixels at any rotation: their diagonal.

  One more pixel on each side is for interpolation.
  """
  return math.ceil(math.hypot(*(n - 1 for n in shape)) * max_step) + 2


def _window_start(points, axes, side, size):
  """Corner of the window, int32 xy, that holds the points inside an image of (height, width)."""
  low = jnp.floor(points.min(axes)).astype(jnp.int32)
  return jnp.stack([low[..., i].clip(0, size[1 - i] - side) for i in (0, 1)], -1)


def _rows_of_identity(start, count, size):
  """[...] -> bfloat16 [..., count, size]; a product with it selects `count` rows from `start`."""
  chosen = start[..., None] + jnp.arange(count, dtype=start.dtype).reshape(
    (1,) * start.ndim + (-1,)
  )
  return jax.nn.one_hot(chosen, size, dtype=jnp.bfloat16)


def by_rows_and_columns(images, matrix, out_size):
  """`scale_and_shift` as two matrix products."""
  height, width = images.shape[1:3]
  points = _sources(matrix, out_size)
  along_x = _weights(points[:, 0, :, 0], width)  # [N, w, W]
  along_y = _weights(points[:, :, 0, 1], height)  # [N, h, H]
  columns = _exact_product('nux,nyxc->nyuc', along_x, images)
  return jnp.einsum('nvy,nyuc->nvuc', along_y, columns, precision=lax.Precision.HIGHEST)


def _sources(matrix, out_size):
  """Position of each crop pixel in the image, [N, height, width, 2]."""
  points = geometry.transform(geometry.invert(matrix), _pixels(out_size)[None])
  return points.reshape(matrix.shape[0], *out_size, 2)


def _pixels(size):
  """x, y of each pixel, [height * width, 2]."""
  axes = (jnp.arange(n, dtype=jnp.float32) for n in size[::-1])
  return jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, 2)


def _weights(position, size):
  """[...] -> [..., size]: weight of each pixel along an axis for a sample at `position`."""
  pixels = jnp.arange(size, dtype=jnp.float32).reshape((1,) * position.ndim + (size,))
  return _weight(position[..., None] - pixels)


def _weight(distance):
  """Bilinear weight of a pixel at this distance along an axis, in pixels."""
  return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def _exact_product(equation, weights, pixels):
  """einsum in float32; for uint8 pixels by two bfloat16 products, which lose less than 2^-16."""
  if pixels.dtype != jnp.uint8:
    return jnp.einsum(
      equation, weights, pixels.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
  pixels = pixels.astype(jnp.bfloat16)  # exact for 0..255
  return sum(
    jnp.einsum(equation, half, pixels, preferred_element_type=jnp.float32)
    for half in _halves(weights)
  )


def _halves(weights):
  """Splits each weight into two bfloat16 numbers whose sum equals it to 2^-16."""
  high = weights.astype(jnp.bfloat16)
  return high, (weights - high.astype(jnp.float32)).astype(jnp.bfloat16)
