"""The CPU forms of the convolutions are the same functions as XLA's own."""

import functools

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models import layers


def plain_convolve(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=layers.DIMENSIONS
  )


@pytest.mark.parametrize(
  ('size', 'stride', 'channels', 'pixels'),
  [
    *((3, 1, 5, 8), (3, 2, 5, 8), (7, 2, 3, 16), (4, 2, 6, 8), (3, 2, 5, 7)),
    # On CPU the products' form depends on the numbers of pixels and of channels.
    *((3, 1, 16, 24), (4, 2, 16, 48), (1, 1, 3, 24), (1, 1, 5, 24), (1, 1, 5, 8)),
  ],
)
def test_convolution_and_its_gradients_equal_xlas_own(size, stride, channels, pixels):
  r = np.random.default_rng(0)
  x = jnp.asarray(r.standard_normal((2, pixels, pixels + 2 * stride, channels)), jnp.float32)
  kernel = jnp.asarray(r.standard_normal((size, size, channels, 4)), jnp.float32)
  padding = (size - 1) // 2
  y, pull = jax.vjp(lambda x, k: layers.convolve(x, k, stride, padding), x, kernel)
  expected, expected_pull = jax.vjp(lambda x, k: plain_convolve(x, k, stride, padding), x, kernel)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  dy = jnp.asarray(r.standard_normal(y.shape), jnp.float32)
  for got, want in zip(pull(dy), expected_pull(dy)):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('few', [0, 1024])  # which of the CPU forms
def test_transposed_convolution_is_the_transpose(few, monkeypatch):
  monkeypatch.setattr(layers, 'FEW_PIXELS', few)
  r = np.random.default_rng(1)
  kernel = jnp.asarray(r.standard_normal((4, 4, 3, 5)), jnp.float32)
  y = jnp.asarray(r.standard_normal((2, 3, 4, 5)), jnp.float32)
  x_shape = jax.ShapeDtypeStruct((2, 6, 8, 3), jnp.float32)
  transpose = jax.linear_transpose(lambda x: plain_convolve(x, kernel, 2, 1), x_shape)
  got, pull = jax.vjp(lambda y, k: layers.convolve_transposed(y, k, 2, 1), y, kernel)
  np.testing.assert_allclose(got, transpose(y)[0], rtol=1e-5, atol=1e-5)
  # d/dy and d/dk of <dx, transposed(y, k)> = <convolve(dx, k), y>.
  dx = jnp.asarray(r.standard_normal(got.shape), jnp.float32)
  dy, dk = pull(dx)
  np.testing.assert_allclose(dy, plain_convolve(dx, kernel, 2, 1), rtol=1e-5, atol=1e-5)
  want = jax.grad(lambda k: (plain_convolve(dx, k, 2, 1) * y).sum())(kernel)
  np.testing.assert_allclose(dk, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('kernel', 'want'), [([5, -2], [1, 4, 7, 10]), ([5, -2, 3], [10, 16, 22, 28])]
)
def test_winograds_rule_by_hand(kernel, want):
  """5 a - 2 (a + 1) + 3 (a + 2) of a = 1, 2, 3, 4."""
  inputs, kernels, outputs = layers._winograd(len(kernel))
  row = np.arange(1.0, len(kernel) + 4)
  np.testing.assert_allclose(outputs @ ((inputs @ row) * (kernels @ kernel)), want, rtol=1e-6)


@pytest.mark.parametrize('transposed', [False, True])
def test_predictions_are_filtered_by_winograds_rule_and_steps_are_not(transposed):
  r = np.random.default_rng(3)
  x = jnp.asarray(r.standard_normal((2, 32, 16, 64)), jnp.float32)
  if transposed:
    kernel = jnp.asarray(r.standard_normal((4, 4, 66, 64)) / 32, jnp.float32)
    function = functools.partial(layers.convolve_transposed, stride=2, padding=1)
    y_shape = jax.ShapeDtypeStruct((2, 64, 32, 66), jnp.float32)
    (want,) = jax.linear_transpose(lambda y: plain_convolve(y, kernel, 2, 1), y_shape)(x)
  else:
    kernel = jnp.asarray(r.standard_normal((3, 3, 64, 65)) / 24, jnp.float32)
    function = functools.partial(layers.convolve, stride=1, padding=1)
    want = plain_convolve(x, kernel, 1, 1)
  predicted, (of_a_step, _) = function(x, kernel), jax.vjp(function, x, kernel)
  np.testing.assert_allclose(predicted, want, rtol=0, atol=1e-5 * np.abs(want).max())
  np.testing.assert_allclose(of_a_step, want, rtol=0, atol=1e-6 * np.abs(want).max())
  assert (np.asarray(predicted) != np.asarray(of_a_step)).any()


def test_what_is_materialized_stays_what_it_is():
  x = jnp.array([[1.0, -2.0], [jnp.inf, 0.0]])
  y, pull = jax.vjp(lambda x: layers.materialize(x, jnp.float32(3)), x)
  np.testing.assert_array_equal(y, x)
  np.testing.assert_array_equal(pull(2 * x)[0], 2 * x)


def test_deconv_by_hand():
  """One pixel of 1 under a kernel 0..15: padding 1 cuts the kernel's first row and column."""
  deconv = layers.Deconv(1)
  kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
  y = deconv.apply({'params': {'kernel': kernel}}, jnp.ones((1, 1, 1, 1)))
  np.testing.assert_array_equal(y[0, :, :, 0], [[5, 6], [9, 10]])


def test_one_by_one_convolution_equals_a_convolution():
  r = np.random.default_rng(2)
  x = jnp.asarray(r.standard_normal((1, 4, 6, 3)), jnp.float32)
  kernel = jnp.asarray(r.standard_normal((1, 1, 3, 2)), jnp.float32)
  y = layers.Conv(2, stride=2).apply({'params': {'kernel': kernel}}, x)
  np.testing.assert_allclose(y, plain_convolve(x, kernel, 2, 0), rtol=1e-5, atol=1e-6)


def test_batch_norm_by_hand():
  """Values 1, 3 of one channel: mean 2, variance 1 in the batch, 2 unbiased in the statistics."""
  norm = layers.BatchNorm()
  x = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
  variables = norm.init(jax.random.key(0), x, train=True)
  y, updated = norm.apply(variables, x, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(y.ravel(), np.array([-1, 1]) / np.sqrt(1 + 1e-5), rtol=1e-6)
  stats = updated['batch_stats']
  np.testing.assert_allclose(stats['mean'], [0.9 * 0 + 0.1 * 2], rtol=1e-6)
  np.testing.assert_allclose(stats['var'], [0.9 * 1 + 0.1 * 2], rtol=1e-6)
  y = norm.apply({**variables, **updated}, x, train=False)
  np.testing.assert_allclose(y.ravel(), (np.array([1, 3]) - 0.2) / np.sqrt(1.1 + 1e-5), rtol=1e-6)


def test_bfloat16_keeps_statistics_in_float32():
  up = layers.Up(4, dtype=jnp.bfloat16)
  x = jnp.ones((1, 2, 2, 3))
  y, variables = up.init_with_output(jax.random.key(0), x, train=True)
  assert y.dtype == jnp.bfloat16
  assert y.shape == (1, 4, 4, 4)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
