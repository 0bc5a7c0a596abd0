"""Small steps on images [N, H, W, C] that the CPU's forms of layers are made of."""

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
  """Along an axis by `steps`, whose sign says where to; what comes in is `fill`."""
  low, high = max(steps, 0), max(-steps, 0)
  # Not one pad with a negative edge, which XLA makes larger first, in memory.
  kept = lax.slice_in_dim(x, high, x.shape[axis] - low, axis=axis)
  edges = [(0, 0, 0)] * x.ndim
  edges[axis] = (low, high, 0)
  return lax.pad(kept, jnp.array(fill, x.dtype), edges)


def phases(x: jax.Array, stride: int) -> list[jax.Array]:
  """Every stride-th pixel: [N, H, W, C] -> [N, H / stride, W / stride, C] of (0, 0), (0, 1), .."""
  return [x[:, i::stride, j::stride] for i in range(stride) for j in range(stride)]


def interleave(phases: list[jax.Array], stride: int) -> jax.Array:
  """The inverse of `phases`."""
  n, height, width, _ = phases[0].shape
  x = jnp.stack(phases, 3).reshape(n, height, width, stride, stride, -1)
  x = x.swapaxes(2, 3)  # [N, H, a, W, b, C]
  return x.reshape(n, stride * height, stride * width, -1)


def fewer_than(x: jax.Array, limit: int) -> bool:
  """Whether x has fewer pixels; no, if N is a symbol, as in an export."""
  n, height, width, _ = x.shape
  return isinstance(n, int) and n * height * width < limit


@jax.custom_vjp
def materialize(x: jax.Array, parameter: jax.Array) -> jax.Array:
  """x itself, and its gradient, in memory once; `parameter` is any number that is not constant.

  XLA's CPU backend computes what is cheap again for each operation that reads it: in a ResNet the
  chain of residual sums, once a block. It drops `lax.optimization_barrier`, but fuses nothing with
  what goes through a loop, and cannot know that only a NaN enters this one.
  """
  return lax.platform_dependent(x, parameter, cpu=_through_a_loop, default=lambda x, _: x)


def _through_a_loop(x, parameter):
  return lax.while_loop(
    lambda carry: carry[0], lambda carry: (False, -carry[1]), (jnp.isnan(parameter), x)
  )[1]


def _materialize_bwd(parameter, dy):
  return materialize(dy, parameter), jnp.zeros_like(parameter)


materialize.defvjp(lambda x, parameter: (materialize(x, parameter), parameter), _materialize_bwd)
