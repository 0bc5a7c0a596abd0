"""`door` replaces layers by their CPU forms: same results, and other programs stay unchanged."""

import functools

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import mrpose_jax
from mrpose_jax.cpu import convolution
from mrpose_jax.cpu import door
from mrpose_jax.cpu import winograd
from mrpose_jax.models import decoders
from mrpose_jax.models import folding
from mrpose_jax.runtime import compilation

pytestmark = pytest.mark.usefixtures('optimized_programs')


def model_and_variables(network='mrfeanet2', depth=18, width=4, **options):
  model = mrpose_jax.create_model(network, depth=depth, num_keypoints=3, width=width, **options)
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  # The decoder's initial kernels are scaled up to get heatmaps of magnitude one.
  scaled = jax.tree.map(lambda p: 30 * p if p.ndim == 4 else p, variables['params']['decoder'])
  return model, variables | {'params': variables['params'] | {'decoder': scaled}}


def images_of(n, height=64, width=64):
  return jax.random.normal(jax.random.key(1), (n, height, width, 3))


def gradients_of(model):
  """Returns the function (variables, images) -> (loss, (heatmaps, statistics)), gradients."""

  def loss_of(params, variables, images):
    heatmaps, updated = model.apply(
      variables | {'params': params}, images, train=True, mutable=['batch_stats']
    )
    return jnp.square(heatmaps - 1).mean(), (heatmaps, updated['batch_stats'])

  gradient = jax.value_and_grad(loss_of, has_aux=True)
  return lambda variables, images: gradient(variables['params'], variables, images)


@pytest.mark.parametrize('network', decoders.DECODERS)
def test_a_training_pass_is_the_same_function(network, softplus_networks):
  model, variables = model_and_variables(network)
  images = images_of(4, 96, 64)
  opened = door.jit(gradients_of(model))(variables, images)
  expected = jax.jit(gradients_of(model))(variables, images)
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(opened), jax.tree.leaves(expected)):
    limit = 1e-4 * np.abs(y).max() + 1e-6  # biases before a batch norm have gradient 0
    np.testing.assert_allclose(x, y, rtol=0, atol=limit, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
  ('few', 'both', 'network', 'depth'),
  [
    *((0, 0, 'simple_baseline', 18), (0, 10_000, 'simple_baseline', 18)),
    (10_000, 10_000, 'mrfeanet2', 50),
  ],
)
def test_a_prediction_is_the_same_function(few, both, network, depth, monkeypatch):
  """These limits give every layer with more than two rows its CPU form."""
  monkeypatch.setattr(winograd, 'FEW_CHANNELS', 1)
  monkeypatch.setattr(winograd, 'FEW_PIXELS', few)
  monkeypatch.setattr(winograd, 'FEW_PIXELS_BOTH', both)
  monkeypatch.setattr(convolution, 'FEW_PIXELS', few)
  monkeypatch.setattr(convolution, 'FEWEST_PIXELS', few // 100)
  monkeypatch.setattr(convolution, 'MANY_PIXELS', few)
  model, variables = model_and_variables(network, depth)
  images = images_of(2, 128, 64)
  variables = folding.fold_batch_norm(model, variables)
  apply = functools.partial(model.apply, train=False)
  expected = jax.jit(apply)(variables, images)
  heatmaps = compilation.jit_prediction(model, variables)(apply)(images)
  assert jnp.abs(expected).max() > 1e-3
  np.testing.assert_allclose(heatmaps, expected, atol=2e-5 * float(jnp.abs(expected).max()))
  assert (heatmaps != expected).any()


def test_a_bfloat16_network_has_no_kernels_for_predictions():
  model, variables = model_and_variables('simple_baseline', dtype='bfloat16')
  assert not door.prepare_kernels(model, variables)


@pytest.mark.parametrize('network', ['simple_baseline', 'mrheatnet2'])
def test_bfloat16_convolutions_stay_convolutions(network):
  """XLA computes their products on a CPU hundreds of times slower."""
  model, variables = model_and_variables(network, dtype='bfloat16')
  opened, plain = (
    jit(gradients_of(model)).lower(variables, images_of(2)).as_text().count('.convolution(')
    for jit in (door.jit, jax.jit)
  )
  assert opened == plain > 60


@pytest.mark.parametrize('remat', [False, True])
def test_plain_programs_hold_no_trace_of_it(remat):
  """Holds in any order of tracing and with a nested `jit`, although JAX caches traces."""
  model, variables = model_and_variables(remat=remat)
  images = images_of(2)
  plain = jax.jit(gradients_of(model)).lower(variables, images).as_text()
  for open_first in (True, False):
    nested = jax.jit(gradients_of(model))
    call = functools.partial(lambda nested, *arguments: nested(*arguments), nested)
    inside, outside = door.jit(call), jax.jit(call)
    for function in (inside, outside) if open_first else (outside, inside):
      loops = function.lower(variables, images).as_text().count('while')
      assert (loops > 0) == (function is inside)
    assert 'while' not in nested.lower(variables, images).as_text()
  opened = door.jit(gradients_of(model)).lower(variables, images).as_text()
  again = jax.jit(gradients_of(model)).lower(variables, images).as_text()
  assert 'while' in opened and 'while' not in plain
  assert strip(again) == strip(plain)


def strip(text):
  """Lines of a program without the name of its module."""
  return [line for line in text.splitlines() if not line.startswith('module')]


@pytest.fixture
def fresh():
  door._options.cache_clear()
  yield
  door._options.cache_clear()


def convolve(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def test_convolutions_are_eigens():
  r = np.random.default_rng(0)
  x, kernel = r.normal(size=(2, 16, 16, 64)), r.normal(size=(3, 3, 64, 64))
  x, kernel = np.float32(x), np.float32(kernel)
  program = compilation.jit(convolve).lower(x, kernel).compile()
  assert 'ynn' not in program.as_text()
  np.testing.assert_allclose(program(x, kernel), jax.jit(convolve)(x, kernel), atol=1e-3)


def test_a_version_of_xla_without_the_choice(fresh, monkeypatch):
  monkeypatch.setattr(door, '_YNNPACK', {'xla_cpu_absent': 'x'})
  assert compilation.jit(lambda x: 2 * x)(3) == 6


def test_other_platforms_do_not_open_it(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  monkeypatch.setattr(door, '_call_opened', None)
  assert compilation.jit(lambda x: 2 * x)(3) == 6
  assert compilation.jit_prediction(None, {'a': 3})(lambda v, x: v['a'] * x)(2) == 6
