"""Winograd's rule along the rows of a convolution (Lavin and Gray 2016), for predictions on a CPU.

kh + 3 products for 4 rows rather than 4 kh, in float32 off by some 3e-6 of the largest output.
Training keeps to plain convolutions: gradients would feel the rounding. The kernels are transformed
once, before predicting: for a few images that takes longer than the products that it saves.
"""

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models import convolution

FEW_CHANNELS = 64  # for fewer, the sums cost more than the products that they save


def saves(kernel: jax.Array) -> bool:
  """Whether a kernel [kh, kw, C, D] has enough channels."""
  return min(kernel.shape[2:]) >= FEW_CHANNELS


def divides(x: jax.Array) -> bool:
  """Whether [N, H, W, C] consists of whole tiles of 4 rows."""
  return x.shape[1] % 4 == 0


def transform(kernel: jax.Array) -> tuple[list[jax.Array], jax.Array]:
  """[kh, kw, C, D] -> n = kh + 3 kernels [1, kw, C, D], and all of them as [n, D, kw C]."""
  _, weights, _ = matrices(kernel.shape[0])
  kernels = jnp.stack([_combine(row, list(kernel)) for row in weights])  # [n, kw, C, D]
  by_rows = kernels.transpose(0, 3, 1, 2).reshape(len(kernels), kernel.shape[-1], -1)
  return [one[None] for one in kernels], by_rows


def correlate(
  x: jax.Array, transformed: tuple[list[jax.Array], jax.Array], pads: tuple
) -> jax.Array:
  """`convolution.correlate` to the same size, for an x that `divides` and a transformed kernel.

  Of many pixels one convolution for each of the n kernels; of few, a product with all of them,
  which reads them as they lie in memory.
  """
  kernels, by_rows = transformed
  (above, _), (left, right) = pads
  inputs, _, outputs = matrices(len(kernels) - 3)
  rows = []
  for k in range(len(kernels)):  # the k-th row that a tile of 4 sees
    tile, row = divmod(k - above, 4)
    rows.append(convolution.move(x[:, row::4], 1, -tile, 0))
  rows = [_combine(weights, rows) for weights in inputs]  # n of [N, H / 4, W, C]
  if convolution.fewer_pixels(x, convolution.FEW_PIXELS):
    seen = [convolution.move(jnp.stack(rows), 3, left - j, 0) for j in range(left + right + 1)]
    seen = jnp.concatenate(seen, -1).reshape(len(rows), -1, by_rows.shape[-1])
    products = lax.dot_general(by_rows, seen, (((2,), (2,)), ((0,), (0,))))  # [n, D, pixels]
    y = jnp.stack([_combine(weights, list(products)) for weights in outputs])  # [4, D, pixels]
    y = y.reshape(4, -1, *rows[0].shape[:3]).transpose(2, 3, 0, 4, 1)
  else:
    products = [
      convolution.correlate(row, kernel, ((0, 0), pads[1])) for row, kernel in zip(rows, kernels)
    ]
    y = jnp.stack([_combine(weights, products) for weights in outputs], 2)
  return y.reshape(*x.shape[:3], -1)


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
