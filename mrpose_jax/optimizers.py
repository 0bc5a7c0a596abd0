"""Adam with the paper's piecewise constant learning rate."""

import optax


def piecewise_schedule(
  learning_rate: float, drop_factor: float, drop_steps: tuple[int, ...]
) -> optax.Schedule:
  """Step -> learning rate, multiplied by drop_factor at each of drop_steps (paper section IV).

  Two drops at the same step multiply it twice.
  """
  factors = {step: drop_factor ** drop_steps.count(step) for step in drop_steps}
  return optax.piecewise_constant_schedule(learning_rate, factors)


def adam(schedule: optax.Schedule) -> optax.GradientTransformation:
  """Adam (Kingma & Ba 2015) with PyTorch's defaults; epsilon is added outside the root."""
  return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
