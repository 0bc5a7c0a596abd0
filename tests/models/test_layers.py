"""Convolutions and batch norm as modules."""

import jax
import numpy as np
from jax import numpy as jnp

from mrpose_jax.models import layers


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
  np.testing.assert_allclose(y, x[:, ::2, ::2] @ kernel[0, 0], rtol=1e-5, atol=1e-6)


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
