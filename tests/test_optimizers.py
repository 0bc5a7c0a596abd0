"""Learning rate schedule and Adam, by hand."""

import jax.numpy as jnp
import numpy as np

from mrpose_jax import optimizers


def test_the_papers_schedule():
  schedule = optimizers.piecewise_schedule(1e-3, 0.1, (120, 150))
  rates = [float(schedule(step)) for step in (0, 119, 120, 149, 150, 169)]
  np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)


def test_adam_by_hand():
  """Gradients 1 and then 3: m = 0.1, 0.39; v = 0.001, 0.009999; both bias-corrected."""
  adam = optimizers.adam(optimizers.piecewise_schedule(0.1, 0.1, (1,)))
  state = adam.init(jnp.zeros(()))
  first, state = adam.update(jnp.ones(()), state)
  # 1 - 0.999 has five correct digits in float32.
  np.testing.assert_allclose(first, -0.1 * 1 / (1 + 1e-8), rtol=1e-5)
  second, _ = adam.update(jnp.full((), 3.0), state)
  m, v = 0.39 / (1 - 0.9**2), 0.009999 / (1 - 0.999**2)
  np.testing.assert_allclose(second, -0.01 * m / (np.sqrt(v) + 1e-8), rtol=1e-5)


def test_two_drops_at_one_step_both_count():
  """As when a short run rounds both drops of the paper to its last step."""
  schedule = optimizers.piecewise_schedule(1.0, 0.1, (5, 5, 7))
  rates = [float(schedule(step)) for step in (4, 5, 7)]
  np.testing.assert_allclose(rates, [1, 1e-2, 1e-3], rtol=1e-6)
