"""Bilinear resampling of images by affine maps, on the accelerator.

One function, bilinear interpolation with zeros outside, in three forms that differ in what the
hardware does well. CPUs and GPUs gather four pixels for each one of the crop. On a TPU such gathers
are slow and matrix products are not, so there the crop is cut into tiles, and the image window that
a tile can see is multiplied by the weights max(0, 1 - |distance|) along x, then along y. A slice of
an image costs a TPU a microsecond or more, however small, so slices are taken for blocks of tiles,
and the tiles' windows are picked out of them by matrix products. Without rotation the weights along
x and y belong to whole columns and rows, and no windows are needed.
"""

import functools
import math

import jax
from jax import lax
from jax import numpy as jnp

from input_pipeline.device import geometry

TILE = 16  # pixels of the crop, its side
BLOCK = (64, 32)  # height, width, at most; pixels of the crop


def affine(
  images: jax.Array, matrix: jax.Array, out_size: tuple[int, int], max_step: float | None = None
) -> jax.Array:
  """Crops by bilinear interpolation; what lies outside the image is zero.

  Args:
    images: [N, H, W, C] of any real type.
    matrix: [N, 2, 3], image xy -> crop xy, pixel centres at integers.
    out_size: (height, width) of the crops.
    max_step: the caller's promise that two neighbouring crop pixels lie at most so many image
      pixels apart. With it a TPU works by tiles, which need uint8 images and out_size to be
      multiples of 16; None makes no promise, and a TPU gathers, too.

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
  """`affine`, pixel by pixel."""
  # A matrix product, which XLA computes once. Sums it computes anew for whatever uses them, and
  # where these round differently, indices and weights come from floors that are a pixel apart.
  crop = jnp.concatenate([_pixels(out_size), jnp.ones((math.prod(out_size), 1))], 1)
  points = jnp.einsum(
    'nij,pj->npi', geometry.invert(matrix), crop, precision=lax.Precision.HIGHEST
  )  # [N, hw, 2]
  crops = jax.vmap(_gather)(images, points)
  return crops.reshape(images.shape[0], *out_size, images.shape[-1])


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
  """`affine` of uint8 images as matrix products of tiles with the windows that they see."""
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

  # By one pixel at least: without it XLA copies all images to another layout for every slice.
  pads = [(0, max(side - size, 0) + 1) for size in images.shape[1:3]]
  images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
  start = _window_start(points, (2, 3), side, images.shape[1:3])  # [N, B, 2]

  def window(image, start):
    return lax.dynamic_slice(image, (start[1], start[0], 0), (side, side, channels))

  windows = jax.vmap(jax.vmap(window, (None, 0)))(images, start)  # [N, B, S, S, C]
  windows = windows.astype(jnp.bfloat16)  # 0..255 exactly
  points -= start[:, :, None, None].astype(jnp.float32)
  start = _window_start(points, 3, tile_side, (side, side))  # [N, B, T, 2] in the block's window
  points -= start[:, :, :, None].astype(jnp.float32)
  rows, columns = (_rows_of_identity(start[..., i], tile_side, side) for i in (1, 0))
  windows = jnp.einsum('nbtsy,nbyxc->nbtscx', rows, windows)

  # The weights' two halves (see _exact_product) lie side by side, each with the window again.
  # Weights in the shape of what they multiply are made there, and not kept in main memory.
  columns = jnp.concatenate([columns, columns], -2)  # [N, B, T, 2s, S]
  windows = jnp.einsum('nbtscx,nbtux->nbtscu', windows, columns)
  pixel = lax.broadcasted_iota(jnp.int32, (*points.shape[:-1], 2 * tile_side), 4)
  along_x = _weight(points[..., :1] - pixel % tile_side)  # [N, B, T, P, 2s]
  along_x = jnp.where(pixel < tile_side, *_halves(along_x))
  lines = jnp.einsum('nbtpu,nbtscu->nbtpsc', along_x, windows, preferred_element_type=jnp.float32)
  pixel = lax.broadcasted_iota(jnp.int32, lines.shape, 4)
  along_y = _weight(points[..., 1:, None] - pixel)  # [N, B, T, P, s, C]
  crops = (along_y * lines).sum(4)  # [N, B, T, P, C]
  crops = crops.reshape(n, down, across, tiles_down, tiles_across, TILE, TILE, channels)
  return crops.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, *out_size, channels)


def _window_side(shape, max_step):
  """Of the window that sees all of so many crop pixels: turned by 45 degrees it is widest.

  One more pixel on each side is for interpolation.
  """
  return math.ceil(math.hypot(*(n - 1 for n in shape)) * max_step) + 2


def _window_start(points, axes, side, size):
  """int32 xy of the window in an image of (height, width) that sees what it has of the points."""
  low = jnp.floor(points.min(axes)).astype(jnp.int32)
  return jnp.stack([low[..., i].clip(0, size[1 - i] - side) for i in (0, 1)], -1)


def _rows_of_identity(start, count, size):
  """[...] -> bfloat16 [..., count, size]: a product with it chooses `count` from `start` on."""
  chosen = start[..., None] + jnp.arange(count).reshape((1,) * start.ndim + (-1,))
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
  """[N, height, width, 2]: where in the image each pixel of the crop lies."""
  points = geometry.transform(geometry.invert(matrix), _pixels(out_size)[None])
  return points.reshape(matrix.shape[0], *out_size, 2)


def _pixels(size):
  """[height width, 2]: x, y of each pixel."""
  axes = (jnp.arange(n, dtype=jnp.float32) for n in size[::-1])
  return jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, 2)


def _weights(position, size):
  """[...] -> [..., size]: of each pixel along an axis for a sample at `position`."""
  pixels = jnp.arange(size, dtype=jnp.float32).reshape((1,) * position.ndim + (size,))
  return _weight(position[..., None] - pixels)


def _weight(distance):
  """Bilinear, of a pixel at so many pixels along an axis."""
  return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def _exact_product(equation, weights, pixels):
  """einsum in float32; of uint8 pixels in two bfloat16 products, which lose less than 2^-16."""
  if pixels.dtype != jnp.uint8:
    return jnp.einsum(
      equation, weights, pixels.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
  pixels = pixels.astype(jnp.bfloat16)  # 0..255 exactly
  return sum(
    jnp.einsum(equation, half, pixels, preferred_element_type=jnp.float32)
    for half in _halves(weights)
  )


def _halves(weights):
  """Two bfloat16 numbers whose sum is each weight, to 2^-16."""
  high = weights.astype(jnp.bfloat16)
  return high, (weights - high.astype(jnp.float32)).astype(jnp.bfloat16)
