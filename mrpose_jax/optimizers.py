"""Adam with the paper's piecewise constant learning rate."""

import jax
import optax
from jax import numpy as jnp


def piecewise_schedule(
  learning_rate: float, drop_factor: float, drop_steps: tuple[int, ...]
) -> optax.Schedule:
  """Step -> learning rate, multiplied by drop_factor at each of drop_steps (paper section IV).

  Two drops at the same step multiply it twice.
  """
  factors = {step: drop_factor ** drop_steps.count(step) for step in drop_steps}
  schedule = optax.piecewise_constant_schedule(learning_rate, factors)
  # A step of type float32 gives a learning rate of that type whatever JAX's default types are.
  return lambda step: schedule(jnp.asarray(step, jnp.float32))


def adam(schedule: optax.Schedule) -> optax.GradientTransformation:
  """Adam (Kingma & Ba 2015) with PyTorch's defaults; epsilon is added outside the root."""
  transformation = optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)

  def update(gradients, state, params=None):
    with jax.numpy_dtype_promotion('standard'):  # optax mixes its count with floats
      return transformation.update(gradients, state, params)

  return optax.GradientTransformation(transformation.init, update)
