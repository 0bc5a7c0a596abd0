"""Small steps on images [N, H, W, C] that the CPU forms of layers share."""

import jax
from jax import lax
from jax import numpy as jnp

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def correlate(
  x: jax.Array, kernel: jax.Array, pads: tuple, strides: tuple[int, int] = (1, 1)
) -> jax.Array:
  """[N, H, W, C] and [kh, kw, C, D] -> [N, H', W', D]."""
  return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMENSIONS)


def move(x: jax.Array, axis: int, steps: int, fill: float) -> jax.Array:
  """Shifts x along an axis by `steps`, which may be negative; `fill` takes the free places."""
  low, high = max(steps, 0), max(-steps, 0)
  # A single pad with a negative edge would be slower: XLA first enlarges the array in memory.
  kept = lax.slice_in_dim(x, high, x.shape[axis] - low, axis=axis)
  edges = [(0, 0, 0)] * x.ndim
  edges[axis] = (low, high, 0)
  return lax.pad(kept, jnp.array(fill, x.dtype), edges)


def phases(x: jax.Array, stride: int) -> list[jax.Array]:
  """Every stride-th pixel: [N, H, W, C] -> [N, H / stride, W / stride, C] for (0, 0), (0, 1), .."""
  return [x[:, i::stride, j::stride] for i in range(stride) for j in range(stride)]


def interleave(phases: list[jax.Array], stride: int) -> jax.Array:
  """The inverse of `phases`."""
  n, height, width, _ = phases[0].shape
  x = jnp.stack(phases, 3).reshape(n, height, width, stride, stride, -1)
  x = x.swapaxes(2, 3)  # [N, H, a, W, b, C]
  return x.reshape(n, stride * height, stride * width, -1)


def fewer_than(x: jax.Array, limit: int) -> bool:
  """Whether N * H * W is below the limit."""
  n, height, width, _ = x.shape
  return n * height * width < limit


@jax.custom_vjp
def materialize(x: jax.Array, parameter: jax.Array) -> jax.Array:
  """Returns x, and makes XLA store it, and its gradient, in memory once.

  XLA's CPU backend repeats cheap computations in every operation that reads their result. In a
  ResNet that is the chain of residual sums, repeated once for every block. XLA drops
  `lax.optimization_barrier`, but it fuses nothing with the result of a loop, and it cannot know
  that this loop is only entered if `parameter` is NaN.

  Args:
    x: any array.
    parameter: a scalar that XLA does not know to be constant.
  """
  return _through_a_loop(x, parameter)


def _through_a_loop(x, parameter):
  return lax.while_loop(
    lambda carry: carry[0], lambda carry: (False, -carry[1]), (jnp.isnan(parameter), x)
  )[1]


def _materialize_bwd(parameter, dy):
  return materialize(dy, parameter), jnp.zeros_like(parameter)


materialize.defvjp(lambda x, parameter: (materialize(x, parameter), parameter), _materialize_bwd)
