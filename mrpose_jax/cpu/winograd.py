"""Winograd's rule along the rows of a convolution (Lavin and Gray 2016), for CPUs.

kh + 3 products for 4 rows rather than 4 kh, in float32 off by some 3e-6 of the largest output, and
for predictions along the columns as well.
Predictions have it, with kernels that are transformed once, and the gradients of training, which
are linear in what comes from behind. Its way forwards keeps to plain convolutions, since batch norm
and ReLUs make more of a rounding.
"""

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from mrpose_jax.cpu import pixels

FEW_CHANNELS = 64  # for fewer, the sums cost more than the products that they save
FEW_KERNEL_CHANNELS = 128  # the same, of a kernel's gradient
FEW_PIXELS = 150  # for fewer, reading the transformed kernels is what takes time
MANY_CHANNELS = 2**21  # inputs times outputs: for more the transformed kernel takes too much memory
FEW_PIXELS_BOTH, MANY_CHANNELS_BOTH = 1000, 2**16  # the same, along rows and columns both


def saves(kernel: jax.Array, few: int = FEW_CHANNELS) -> bool:
  """Whether a kernel [kh, kw, C, D] has enough channels, and is not so large that memory counts."""
  channels = kernel.shape[2:]
  return min(channels) >= few and math.prod(channels) <= MANY_CHANNELS


def divides(x: jax.Array, stride: int = 1) -> bool:
  """Whether of [N, H, W, C] a convolution makes whole tiles of 4 rows."""
  return x.shape[1] % (4 * stride) == 0


def transform(kernel: jax.Array) -> list[jax.Array]:
  """[kh, kw, C, D] -> n = kh + 3 kernels [1, kw, C, D]."""
  _, weights, _ = matrices(kernel.shape[0])
  return [_combine(row, list(kernel))[None] for row in weights]


def join(kernels: list[jax.Array]) -> jax.Array:
  """What `transform` made -> [n, D, kw C]."""
  joined = jnp.concatenate(kernels).transpose(0, 3, 1, 2)  # [n, D, kw, C]
  return joined.reshape(*joined.shape[:2], -1)


def prepare(kernel: jax.Array, few: bool) -> dict:
  """[kh, kw, C, D] as `correlate_prepared` reads it; `few`: for any number of pixels."""
  rows = transform(kernel)
  prepared = {'rows': rows}
  if few:
    prepared['few'] = join(rows)
  if math.prod(kernel.shape[2:]) <= MANY_CHANNELS_BOTH:
    prepared['both'] = transform_both(kernel)
  return prepared


def correlate_prepared(
  x: jax.Array, prepared: Sequence[dict], pads: Sequence[tuple]
) -> list[jax.Array]:
  """`correlate` with each of several kernels, in the form that suits the number of pixels."""
  if pixels.fewer_than(x, FEW_PIXELS):
    return [correlate_few(x, one['few'], edges) for one, edges in zip(prepared, pads)]
  many = x.shape[2] % 4 == 0 and not pixels.fewer_than(x, FEW_PIXELS_BOTH)
  if many and all('both' in one for one in prepared):
    return correlate_both(x, [one['both'] for one in prepared], pads)
  return [correlate(x, one['rows'], edges) for one, edges in zip(prepared, pads)]


def correlate(x: jax.Array, kernels: list[jax.Array], pads: tuple) -> jax.Array:
  """`pixels.correlate` to the same size, for an x that `divides` and a transformed kernel."""
  return correlate_all([x], [kernels], [pads])


def correlate_all(
  images: Sequence[jax.Array], kernels: Sequence[list[jax.Array]], pads: Sequence[tuple]
) -> jax.Array:
  """The sum of the correlations of several images, each with a transformed kernel and its pads."""
  found = []
  for x, transformed, (rows_pad, columns_pad) in zip(images, kernels, pads):
    rows = _rows(x, len(transformed), rows_pad)
    found.append(
      [pixels.correlate(row, k, ((0, 0), columns_pad)) for row, k in zip(rows, transformed)]
    )
  return _outputs([sum(same[1:], same[0]) for same in zip(*found)])


def prepare_strided(kernel: jax.Array) -> dict:
  """[3, 3, C, D] as `correlate_strided` reads it."""
  return {'outer': transform(kernel[::2]), 'middle': kernel[1:2]}


def correlate_strided(x: jax.Array, prepared: dict) -> jax.Array:
  """A 3x3 convolution of stride 2 and padding 1, for an x of whole tiles of 8 rows.

  Odd rows are seen by the kernel's two outer ones, to which the rule applies, even rows by the
  middle one alone: 9 products for 12.
  """
  see = functools.partial(pixels.correlate, pads=((0, 0), (1, 1)), strides=(1, 2))
  odd = _rows(x[:, 1::2], len(prepared['outer']), (1, 0))
  outer = _outputs([see(row, k) for row, k in zip(odd, prepared['outer'])])
  return outer + see(x[:, ::2], prepared['middle'])


def correlate_few(x: jax.Array, joined: jax.Array, pads: tuple) -> jax.Array:
  """`correlate` for few pixels: one product, with all kernels as they lie in memory."""
  rows, (*_, outputs) = _rows(x, len(joined), pads[0]), matrices(len(joined) - 3)
  seen = jnp.concatenate(_columns(jnp.stack(rows), pads[1], 3), -1)
  seen = seen.reshape(len(rows), -1, joined.shape[-1])
  products = lax.dot_general(joined, seen, (((2,), (2,)), ((0,), (0,))))  # [n, D, pixels]
  y = jnp.stack([_combine(weights, list(products)) for weights in outputs])  # [4, D, pixels]
  y = y.reshape(4, -1, *rows[0].shape[:3]).transpose(2, 3, 0, 4, 1)
  return y.reshape(*x.shape[:3], -1)


def transform_both(kernel: jax.Array) -> jax.Array:
  """`transform`, of the columns as well: [k, k, C, D] -> [k + 3, k + 3, C, D]."""
  _, weights, _ = matrices(len(kernel))
  weights = weights.astype(kernel.dtype)
  return jnp.einsum('ai,bj,ijcd->abcd', weights, weights, kernel)


def correlate_both(
  x: jax.Array, kernels: Sequence[jax.Array], pads: Sequence[tuple]
) -> list[jax.Array]:
  """`correlate` with each of several kernels, by the rule along rows and columns.

  (k + 3)**2 products for 16 k**2. Of x the width, too, is a multiple of 4. In float32 off by some
  1e-5 of the largest output.
  """
  n, parameter = len(kernels[0]), kernels[0].ravel()[0]
  rows = {  # in memory once, whatever number of kernels sees them
    edges: [pixels.materialize(row, parameter) for row in _rows(x, n, edges)]
    for edges in dict.fromkeys(rows_pad for rows_pad, _ in pads)
  }
  correlated = []
  for kernel, (rows_pad, columns_pad) in zip(kernels, pads):
    found = []
    for row, row_kernels in zip(rows[rows_pad], kernel):
      seen = _rows(row, n, columns_pad, axis=2)
      found.append(_outputs([tile @ k for tile, k in zip(seen, row_kernels)], axis=2))
    correlated.append(_outputs(found))
  return correlated


def kernel_gradient(x: jax.Array, dy: jax.Array, taps: int, pads: tuple) -> jax.Array:
  """Of sum(dy * pixels.correlate(x, kernel, pads)), dy of x's size: [taps, kw, C, D]."""
  inner, outer = x.shape[-1], dy.shape[-1]
  _, weights, outputs = matrices(taps)
  tiles = [dy[:, row::4] for row in range(4)]
  gradients = []  # of the transformed kernels
  for row, column in zip(_rows(x, taps + 3, pads[0]), outputs.T):
    behind = _combine(column, tiles).reshape(-1, outer)
    seen = _columns(row, pads[1], 2)
    gradients.append(jnp.stack([part.reshape(-1, inner).T @ behind for part in seen]))
  return jnp.stack([_combine(column, gradients) for column in weights.T])


def _rows(x, n, pads, axis=1):
  """What each of n transformed kernels sees of the rows: [N, H / 4, W, C]."""
  inputs, *_ = matrices(n - 3)
  rows = []
  for k in range(n):  # the k-th row that a tile of 4 sees
    tile, row = divmod(k - pads[0], 4)
    rows.append(pixels.move(lax.slice_in_dim(x, row, None, 4, axis), axis, -tile, 0))
  return [_combine(weights, rows) for weights in inputs]


def _outputs(products, axis=1):
  """What the products of transformed rows come to, 4 outputs where each product is one."""
  *_, outputs = matrices(len(products) - 3)
  y = jnp.stack([_combine(weights, products) for weights in outputs], axis + 1)
  shape = list(products[0].shape)
  shape[axis] *= 4
  return y.reshape(shape)


def _columns(x, pads, axis):
  """What each tap of a row of the kernel sees."""
  left, right = pads
  return [pixels.move(x, axis, left - j, 0) for j in range(left + right + 1)]


def matrices(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """For inputs [n, n], kernels [n, taps] and outputs [4, n] of F(4, taps), n = taps + 3.

  Toom and Cook's: a product of polynomials from its values at n - 1 points and at infinity.
  """
  points = np.array([0, 1, -1, 2, -2])[: taps + 2]
  others = [np.delete(points, k) for k in range(len(points))]
  inputs = np.zeros((taps + 3, taps + 3))
  for k, roots in enumerate([*others, points]):
    inputs[k, : len(roots) + 1] = np.poly(roots)[::-1]
  scale = np.array([np.prod(point - roots) for point, roots in zip(points, others)])
  kernels = np.vander(points, taps, increasing=True) / scale[:, None]
  outputs = np.vander(points, 4, increasing=True)
  kernels, outputs = (np.vstack([m, np.eye(m.shape[1])[-1]]) for m in (kernels, outputs))
  return inputs, kernels, outputs.T


def _combine(weights, arrays):
  return sum(weight * array for weight, array in zip(weights.tolist(), arrays) if weight)
