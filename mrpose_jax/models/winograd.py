"""Winograd's rule along the rows of a convolution (Lavin and Gray 2016), for predictions on a CPU.

kh + 3 products for 4 rows rather than 4 kh, in float32 off by some 3e-6 of the largest output.
Training keeps to plain convolutions: gradients would feel the rounding. The kernels are transformed
once, before predicting: for a few images that takes longer than the products that it saves.
"""

import math

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models import convolution

FEW_CHANNELS = 64  # for fewer, the sums cost more than the products that they save
MANY_CHANNELS = 2**20  # inputs times outputs


def saves(kernel: jax.Array) -> bool:
  """Whether a kernel [kh, kw, C, D] has enough channels, and is not so large that memory counts."""
  channels = kernel.shape[2:]
  return min(channels) >= FEW_CHANNELS and math.prod(channels) <= MANY_CHANNELS


def divides(x: jax.Array) -> bool:
  """Whether [N, H, W, C] consists of whole tiles of 4 rows."""
  return x.shape[1] % 4 == 0


def transform(kernel: jax.Array) -> list[jax.Array]:
  """[kh, kw, C, D] -> n = kh + 3 kernels [1, kw, C, D]."""
  _, weights, _ = matrices(kernel.shape[0])
  return [_combine(row, list(kernel))[None] for row in weights]


def join(kernels: list[jax.Array]) -> jax.Array:
  """What `transform` made -> [n, D, kw C]."""
  joined = jnp.concatenate(kernels).transpose(0, 3, 1, 2)  # [n, D, kw, C]
  return joined.reshape(*joined.shape[:2], -1)


def correlate(x: jax.Array, kernels: list[jax.Array], pads: tuple) -> jax.Array:
  """`convolution.correlate` to the same size, for an x that `divides` and a transformed kernel."""
  rows, outputs = _rows(x, len(kernels), pads)
  products = [
    convolution.correlate(row, kernel, ((0, 0), pads[1])) for row, kernel in zip(rows, kernels)
  ]
  y = jnp.stack([_combine(weights, products) for weights in outputs], 2)
  return y.reshape(*x.shape[:3], -1)


def correlate_few(x: jax.Array, joined: jax.Array, pads: tuple) -> jax.Array:
  """`correlate` for few pixels: one product, with all kernels as they lie in memory."""
  rows, outputs = _rows(x, len(joined), pads)
  left, right = pads[1]
  seen = [convolution.move(jnp.stack(rows), 3, left - j, 0) for j in range(left + right + 1)]
  seen = jnp.concatenate(seen, -1).reshape(len(rows), -1, joined.shape[-1])
  products = lax.dot_general(joined, seen, (((2,), (2,)), ((0,), (0,))))  # [n, D, pixels]
  y = jnp.stack([_combine(weights, list(products)) for weights in outputs])  # [4, D, pixels]
  y = y.reshape(4, -1, *rows[0].shape[:3]).transpose(2, 3, 0, 4, 1)
  return y.reshape(*x.shape[:3], -1)


def _rows(x, n, pads):
  """n combinations of rows, each [N, H / 4, W, C], and the weights of their products for 4 rows."""
  inputs, _, outputs = matrices(n - 3)
  rows = []
  for k in range(n):  # the k-th row that a tile of 4 sees
    tile, row = divmod(k - pads[0][0], 4)
    rows.append(convolution.move(x[:, row::4], 1, -tile, 0))
  return [_combine(weights, rows) for weights in inputs], outputs


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
