"""Layers of the networks: convolutions, heatmap head and batch norm."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import mrpose_jax
from mrpose_jax.models import layers


def test_deconv_by_hand():
  """One pixel of value 1, kernel 0..15: padding 1 leaves the kernel's middle rows and columns."""
  kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
  y = layers.deconv(1).apply({'params': {'kernel': kernel}}, jnp.ones((1, 1, 1, 1)))
  np.testing.assert_array_equal(y[0, :, :, 0], [[5, 6], [9, 10]])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_head_is_a_1x1_convolution_with_float32_output(dtype):
  r = np.random.default_rng(2)
  x = jnp.asarray(r.standard_normal((2, 4, 6, 3)), dtype)
  kernel = jnp.asarray(r.standard_normal((1, 1, 3, 2)), dtype).astype(jnp.float32)
  bias = jnp.array([1e-4, 2.0])
  head = layers.HeatmapHead(2, jnp.dtype(dtype))
  y = head.apply({'params': {'kernel': kernel, 'bias': bias}}, x)
  assert y.dtype == jnp.float32
  expected = np.asarray(x, np.float64) @ np.asarray(kernel[0, 0], np.float64) + np.asarray(bias)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_forward_and_reverse_mode_agree():
  """Both modes give the same <u, J v> for a whole training pass."""
  model = mrpose_jax.create_model('mrfeanet2', depth=50, num_keypoints=3, width=4)
  images = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
  variables = model.init(jax.random.key(0), images, train=False)

  def heatmaps_of(params):
    variables_of = variables | {'params': params}
    return model.apply(variables_of, images, train=True, mutable=['batch_stats'])[0]

  keys = iter(jax.random.split(jax.random.key(2), 1000))
  v = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), variables['params'])
  heatmaps, jv = jax.jvp(heatmaps_of, (variables['params'],), (v,))
  u = jax.random.normal(next(keys), heatmaps.shape)
  [uj] = jax.vjp(heatmaps_of, variables['params'])[1](u)
  forward = jnp.vdot(u, jv)
  backward = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(uj), jax.tree.leaves(v)))
  np.testing.assert_allclose(forward, backward, rtol=1e-3)


def test_batch_norm_by_hand():
  """Values 1, 3 in one channel: mean 2, batch variance 1, unbiased running variance 2."""
  norm = layers.BatchNorm(use_running_average=False)
  x = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
  variables = norm.init(jax.random.key(0), x)
  y, updated = norm.apply(variables, x, mutable=['batch_stats'])
  np.testing.assert_allclose(y.ravel(), np.array([-1, 1]) / np.sqrt(1 + 1e-5), rtol=1e-6)
  stats = updated['batch_stats']
  np.testing.assert_allclose(stats['mean'], [0.9 * 0 + 0.1 * 2], rtol=1e-6)
  np.testing.assert_allclose(stats['var'], [0.9 * 1 + 0.1 * 2], rtol=1e-6)
  y = layers.BatchNorm(use_running_average=True).apply({**variables, **updated}, x)
  np.testing.assert_allclose(y.ravel(), (np.array([1, 3]) - 0.2) / np.sqrt(1.1 + 1e-5), rtol=1e-6)


def test_bfloat16_keeps_statistics_in_float32():
  deconv = functools.partial(layers.deconv, dtype=jnp.bfloat16)
  up = layers.Up(4, deconv, functools.partial(layers.BatchNorm, use_running_average=False))
  x = jnp.ones((1, 2, 2, 3))
  y, variables = up.init_with_output(jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16
  assert y.shape == (1, 4, 4, 4)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
