"""The stem's max-pool, with gradients that suit XLA's backends."""

import functools

import jax
from flax import linen as nn
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models.pixels import interleave
from mrpose_jax.models.pixels import materialize
from mrpose_jax.models.pixels import move


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, deterministic: bool = False) -> jax.Array:
  """3x3, stride 2, padding 1, for even H and W: [N, H, W, C] -> [N, H/2, W/2, C].

  Of equal pixels in a window the first has the gradient. On CPU, where that is faster, and if
  `deterministic`, it is added in a fixed order: XLA's own rule, select-and-scatter, is refused by
  its deterministic mode for GPUs.
  """
  return lax.platform_dependent(x, cpu=_max_pool_by_axes, default=_max_pool_default)


def _max_pool_default(x):
  return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _max_pool_by_axes(x):
  for axis in (1, 2):
    even, odd = (lax.slice_in_dim(x, start, None, 2, axis) for start in (0, 1))
    x = jnp.maximum(jnp.maximum(even, odd), move(odd, axis, 1, -jnp.inf))
  return x


def _max_pool_fwd(x, deterministic):
  y = max_pool(x, deterministic)
  return y, (x, y)


def _max_pool_bwd(deterministic, saved, dy):
  def select_and_scatter(x, y, dy):
    return jax.vjp(_max_pool_default, x)[1](dy)[0]

  form = _max_pool_gradient if deterministic else select_and_scatter
  return (lax.platform_dependent(*saved, dy, cpu=_max_pool_gradient, default=form),)


def _max_pool_gradient(x, y, dy):
  """A pixel of an odd row was seen by the window of that row's pair and by the next one."""
  height, width = y.shape[1:3]
  edges = (0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)
  padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
  place = jnp.full(y.shape, 9)  # in its window of the pixel that has the gradient
  for k in reversed(range(9)):
    i, j = divmod(k, 3)
    seen = padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
    place = jnp.where(seen == y, k, place)
  place = materialize(place, x.ravel()[0])
  phases = []
  for rows in ((1, 0),), ((2, 0), (0, -1)):  # place in the window, and which window, back
    for columns in ((1, 0),), ((2, 0), (0, -1)):
      parts = [
        move(move(jnp.where(place == 3 * i + j, dy, 0), 1, down, 0), 2, right, 0)
        for i, down in rows
        for j, right in columns
      ]
      phases.append(sum(parts[1:], parts[0]))
  return interleave(phases, 2)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
