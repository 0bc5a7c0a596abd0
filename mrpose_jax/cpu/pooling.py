"""The stem's max-pool: forwards axis by axis, backwards by phases."""

import jax
from jax import lax
from jax import numpy as jnp

from mrpose_jax.cpu import pixels


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
  """`layers.MaxPool`: 3x3, stride 2, padding 1, for even H and W.

  As in XLA's own rule, the first of several equal maxima receives the gradient.
  """
  for axis in (1, 2):
    even, odd = (lax.slice_in_dim(x, start, None, 2, axis) for start in (0, 1))
    x = jnp.maximum(jnp.maximum(even, odd), pixels.move(odd, axis, 1, -jnp.inf))
  return x


def _max_pool_fwd(x):
  y = max_pool(x)
  return y, (x, y)


def _max_pool_bwd(saved, dy):
  """A pixel of an odd row was seen by the window of its pair of rows and by the next window."""
  x, y = saved
  height, width = y.shape[1:3]
  edges = (0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)
  padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
  winner = jnp.full(
    y.shape, 9, jnp.int32
  )  # place in its window of the pixel that receives the gradient
  for place in reversed(range(9)):
    i, j = divmod(place, 3)
    tap = padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
    winner = jnp.where(tap == y, place, winner)
  winner = pixels.materialize(winner, x.ravel()[0])
  phases = []
  for rows in ((1, 0),), ((2, 0), (0, -1)):  # place in the window, and which window, backwards
    for columns in ((1, 0),), ((2, 0), (0, -1)):
      parts = [
        pixels.move(pixels.move(jnp.where(winner == 3 * i + j, dy, 0), 1, down, 0), 2, right, 0)
        for i, down in rows
        for j, right in columns
      ]
      phases.append(sum(parts[1:], parts[0]))
  return (pixels.interleave(phases, 2),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
