"""Winograd's rule for convolutions (Lavin and Gray 2016).

The rule computes 4 rows of outputs with kh + 3 products instead of 4 kh. In float32 the result
differs by about 3e-6 of the largest output. Predictions also apply it along the columns.

Predictions use the rule with kernels that are transformed once. In training only the gradients use
it, because they are linear in the gradient that they receive. The forward pass of training uses
plain convolutions, because batch norm and ReLUs amplify rounding errors.
"""

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from mrpose_jax.cpu import pixels

# Limits that were measured. The rule is used from FEW_CHANNELS channels on, because its sums cost
# more than the products that it saves below; for the gradient of a kernel from FEW_KERNEL_CHANNELS.
FEW_CHANNELS = 64
FEW_KERNEL_CHANNELS = 128
# Below FEW_PIXELS pixels, reading the transformed kernels takes most of the time.
FEW_PIXELS = 150
# Above MANY_CHANNELS, inputs times outputs, transformed kernels need too much memory.
MANY_CHANNELS = 2**21
# The same two limits for the rule along both rows and columns.
FEW_PIXELS_BOTH, MANY_CHANNELS_BOTH = 1000, 2**16


def saves(kernel: jax.Array, few: int = FEW_CHANNELS) -> bool:
  """Whether the rule saves time for a kernel [kh, kw, C, D], by its number of channels."""
  channels = kernel.shape[2:]
  return min(channels) >= few and math.prod(channels) <= MANY_CHANNELS


def divides(x: jax.Array, stride: int = 1) -> bool:
  """Whether the outputs of a convolution of [N, H, W, C] divide into tiles of 4 rows."""
  return x.shape[1] % (4 * stride) == 0


def transform(kernel: jax.Array) -> list[jax.Array]:
  """Transforms a kernel along its rows: [kh, kw, C, D] -> n = kh + 3 kernels [1, kw, C, D]."""
  _, weights, _ = matrices(kernel.shape[0])
  return [_combine(row, list(kernel))[None] for row in weights]


def join(kernels: list[jax.Array]) -> jax.Array:
  """Joins the kernels of `transform` for `correlate_few`: [n, D, kw C]."""
  joined = jnp.concatenate(kernels).transpose(0, 3, 1, 2)  # [n, D, kw, C]
  return joined.reshape(*joined.shape[:2], -1)


def prepare(kernel: jax.Array, few: bool) -> dict:
  """Transforms a kernel [kh, kw, C, D] into the forms that `correlate_prepared` reads.

  Args:
    kernel: the kernel.
    few: whether the form for few pixels is needed as well.
  """
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
  """Correlates x with each of several kernels, in the form that suits the number of pixels."""
  if pixels.fewer_than(x, FEW_PIXELS):
    return [correlate_few(x, forms['few'], edges) for forms, edges in zip(prepared, pads)]
  many = x.shape[2] % 4 == 0 and not pixels.fewer_than(x, FEW_PIXELS_BOTH)
  if many and all('both' in forms for forms in prepared):
    return correlate_both(x, [forms['both'] for forms in prepared], pads)
  return [correlate(x, forms['rows'], edges) for forms, edges in zip(prepared, pads)]


def correlate(x: jax.Array, kernels: list[jax.Array], pads: tuple) -> jax.Array:
  """`pixels.correlate` to the same size, with a transformed kernel; `divides(x)` must hold."""
  return correlate_all([x], [kernels], [pads])


def correlate_all(
  images: Sequence[jax.Array], kernels: Sequence[list[jax.Array]], pads: Sequence[tuple]
) -> jax.Array:
  """Sums the correlations of several images, each with a transformed kernel and its pads."""
  products = []
  for x, transformed, (rows_pad, columns_pad) in zip(images, kernels, pads):
    rows = _rows(x, len(transformed), rows_pad)
    products.append(
      [pixels.correlate(row, k, ((0, 0), columns_pad)) for row, k in zip(rows, transformed)]
    )
  return _outputs([sum(terms[1:], terms[0]) for terms in zip(*products)])


def prepare_strided(kernel: jax.Array) -> dict:
  """Transforms a kernel [3, 3, C, D] into the form that `correlate_strided` reads."""
  return {'outer': transform(kernel[::2]), 'middle': kernel[1:2]}


def correlate_strided(x: jax.Array, prepared: dict) -> jax.Array:
  """Convolves with a 3x3 kernel, stride 2 and padding 1; the height must be a multiple of 8.

  The two outer rows of the kernel meet odd rows only, and the rule applies to them. The middle row
  meets even rows only. Together these are 9 products instead of 12.
  """
  correlate_columns = functools.partial(pixels.correlate, pads=((0, 0), (1, 1)), strides=(1, 2))
  odd = _rows(x[:, 1::2], len(prepared['outer']), (1, 0))
  outer = _outputs([correlate_columns(row, k) for row, k in zip(odd, prepared['outer'])])
  return outer + correlate_columns(x[:, ::2], prepared['middle'])


def correlate_few(x: jax.Array, joined: jax.Array, pads: tuple) -> jax.Array:
  """`correlate` for few pixels: a single product with all kernels in their order in memory."""
  rows, (*_, outputs) = _rows(x, len(joined), pads[0]), matrices(len(joined) - 3)
  windows = jnp.concatenate(_columns(jnp.stack(rows), pads[1], 3), -1)
  windows = windows.reshape(len(rows), -1, joined.shape[-1])
  products = lax.dot_general(joined, windows, (((2,), (2,)), ((0,), (0,))))  # [n, D, pixels]
  y = jnp.stack([_combine(weights, list(products)) for weights in outputs])  # [4, D, pixels]
  y = y.reshape(4, -1, *rows[0].shape[:3]).transpose(2, 3, 0, 4, 1)
  return y.reshape(*x.shape[:3], -1)


def transform_both(kernel: jax.Array) -> jax.Array:
  """Transforms a kernel along rows and columns: [k, k, C, D] -> [k + 3, k + 3, C, D]."""
  _, weights, _ = matrices(len(kernel))
  weights = weights.astype(kernel.dtype)
  return jnp.einsum('ai,bj,ijcd->abcd', weights, weights, kernel)


def correlate_both(
  x: jax.Array, kernels: Sequence[jax.Array], pads: Sequence[tuple]
) -> list[jax.Array]:
  """Correlates x with each of several kernels, by the rule along rows and columns.

  It needs (k + 3)**2 products instead of 16 k**2. Height and width of x must be multiples of 4. In
  float32 the result differs by about 1e-5 of the largest output.
  """
  n, parameter = len(kernels[0]), kernels[0].ravel()[0]
  rows = {  # stored in memory once for all kernels
    edges: [pixels.materialize(row, parameter) for row in _rows(x, n, edges)]
    for edges in dict.fromkeys(rows_pad for rows_pad, _ in pads)
  }
  correlated = []
  for kernel, (rows_pad, columns_pad) in zip(kernels, pads):
    row_outputs = []
    for row, row_kernels in zip(rows[rows_pad], kernel):
      tiles = _rows(row, n, columns_pad, axis=2)
      row_outputs.append(_outputs([tile @ k for tile, k in zip(tiles, row_kernels)], axis=2))
    correlated.append(_outputs(row_outputs))
  return correlated


def kernel_gradient(x: jax.Array, dy: jax.Array, taps: int, pads: tuple) -> jax.Array:
  """Gradient [taps, kw, C, D] of sum(dy * pixels.correlate(x, kernel, pads)), dy of x's size."""
  inner, outer = x.shape[-1], dy.shape[-1]
  _, weights, outputs = matrices(taps)
  tiles = [dy[:, row::4] for row in range(4)]
  gradients = []  # with respect to the transformed kernels
  for row, column in zip(_rows(x, taps + 3, pads[0]), outputs.T):
    dy_row = _combine(column, tiles).reshape(-1, outer)
    windows = _columns(row, pads[1], 2)
    gradients.append(jnp.stack([window.reshape(-1, inner).T @ dy_row for window in windows]))
  return jnp.stack([_combine(column, gradients) for column in weights.T])


def _rows(x, n, pads, axis=1):
  """The transformed rows [N, H / 4, W, C] that each of n transformed kernels meets."""
  inputs, *_ = matrices(n - 3)
  rows = []
  for k in range(n):  # the k-th input row of a tile of 4 output rows
    tile, row = divmod(k - pads[0], 4)
    rows.append(pixels.move(lax.slice_in_dim(x, row, None, 4, axis), axis, -tile, 0))
  return [_combine(weights, rows) for weights in inputs]


def _outputs(products, axis=1):
  """Transforms the products back: 4 rows of outputs for each row of the products."""
  *_, outputs = matrices(len(products) - 3)
  y = jnp.stack([_combine(weights, products) for weights in outputs], axis + 1)
  shape = list(products[0].shape)
  shape[axis] *= 4
  return y.reshape(shape)


def _columns(x, pads, axis):
  """The pixels that each tap of a kernel row meets, for all taps."""
  left, right = pads
  return [pixels.move(x, axis, left - j, 0) for j in range(left + right + 1)]


def matrices(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Matrices of F(4, taps) for inputs [n, n], kernels [n, taps] and outputs [4, n], n = taps + 3.

  The construction is Toom's and Cook's: a product of polynomials follows from its values at n - 1
  points and at infinity.
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
