"""Learning rates, optimizers and the moving average, by hand and in float64."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from mrpose_jax import defaults
from mrpose_jax import errors
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


def test_warm_up_and_cosine_by_hand():
  """The rate rises by a quarter in each of four steps, then falls along half a cosine to 0."""
  schedule = optimizers.cosine_schedule(0.4, total_steps=12, warmup_steps=4)
  rates = [float(schedule(step)) for step in range(13)]
  np.testing.assert_allclose(rates[:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
  cosine = [0.2 * (1 + np.cos(np.pi * n / 8)) for n in range(9)]
  np.testing.assert_allclose(rates[4:], cosine, rtol=1e-5, atol=1e-8)
  drops = optimizers.piecewise_schedule(1.0, 0.1, (6,), warmup_steps=2)
  np.testing.assert_allclose(
    [float(drops(step)) for step in (0, 1, 5, 6)], [0.5, 1, 1, 0.1], rtol=1e-6
  )


def test_adamw_decays_kernels_alone():
  """Loshchilov & Hutter's algorithm 2 in float64; biases follow Adam."""
  r = np.random.default_rng(0)
  params = {'kernel': r.normal(size=(3, 2)), 'bias': r.normal(size=2)}
  gradients = [{name: r.normal(size=x.shape) for name, x in params.items()} for _ in range(5)]
  optimizer = optimizers.adamw(lambda step: 0.01, weight_decay=0.1)
  found = jax.tree.map(jnp.float32, params)
  state = optimizer.init(found)
  for gradient in gradients:
    updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, found)
    found = optax.apply_updates(found, updates)
  for name, x in params.items():
    m = v = 0.0
    for t, gradient in enumerate(gradients, start=1):
      m = 0.9 * m + 0.1 * gradient[name]
      v = 0.999 * v + 0.001 * gradient[name] ** 2
      step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
      x = x - 0.01 * (step + (0.1 * x if name == 'kernel' else 0.0))
    np.testing.assert_allclose(found[name], x, rtol=1e-5)


def test_large_gradients_are_scaled_down():
  """The norm of (3, 4) is 5: with a limit of 1, Adam's first moment is a tenth of (0.6, 0.8)."""
  optimizer = optimizers.adam(lambda step: 0.1, gradient_clip=1.0)
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  gradients = {'a': jnp.full(1, 3.0), 'b': jnp.full(1, 4.0)}
  _, state = optimizer.update(gradients, optimizer.init(params), params)
  moments = optax.tree.get(state, 'mu')
  np.testing.assert_allclose([moments['a'][0], moments['b'][0]], [0.06, 0.08], rtol=1e-6)


def test_moving_average_by_hand():
  """d = min(0.5, (1 + step) / (10 + step)): 2/11, 3/12, .., then 0.5 from step 8 on."""
  average = 0.0
  found = {'x': jnp.zeros(())}
  for step in range(1, 12):
    decay = min(0.5, (1 + step) / (10 + step))
    average = decay * average + (1 - decay) * step
    found = optimizers.moving_average(found, {'x': jnp.float32(step)}, jnp.int32(step), 0.5)
  np.testing.assert_allclose(found['x'], average, rtol=1e-6)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('optimizer', 'sgd', "train.optimizer='sgd': use one of adam, adamw"),
    ('schedule', 'step', 'use one of piecewise, cosine'),
    ('warmup_epochs', -1.0, 'must be 0 or more'),
    ('ema', 1.0, 'below 1'),
  ],
)
def test_settings_that_make_no_optimizer(name, value, message):
  config = defaults.get_config()
  config.train[name] = value
  with pytest.raises(errors.ConfigError, match=message):
    optimizers.check(config.train)
