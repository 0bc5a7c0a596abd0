"""The CPU forms of convolutions and max-pooling compute the same functions as XLA's own."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from mrpose_jax.cpu import convolution
from mrpose_jax.cpu import pixels
from mrpose_jax.cpu import pooling
from mrpose_jax.models import layers

pytestmark = pytest.mark.usefixtures('optimized_programs')


def plain_convolve(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=pixels.DIMENSIONS
  )


@pytest.mark.parametrize(
  ('size', 'stride', 'channels', 'height'),
  [
    *((3, 1, 5, 8), (3, 2, 5, 8), (7, 2, 3, 16), (4, 2, 6, 8), (3, 2, 5, 7)),
    # The CPU form depends on the numbers of pixels and channels.
    *((3, 1, 16, 24), (4, 2, 16, 48), (1, 1, 3, 24), (1, 1, 5, 24), (1, 1, 5, 8)),
  ],
)
def test_convolution_and_its_gradients_equal_xlas_own(size, stride, channels, height):
  r = np.random.default_rng(0)
  x = jnp.asarray(r.standard_normal((2, height, height + 2 * stride, channels)), jnp.float32)
  kernel = jnp.asarray(r.standard_normal((size, size, channels, 4)), jnp.float32)
  padding = (size - 1) // 2
  y, pull = jax.vjp(lambda x, k: convolution.convolve(x, k, stride, padding), x, kernel)
  expected, expected_pull = jax.vjp(lambda x, k: plain_convolve(x, k, stride, padding), x, kernel)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  dy = jnp.asarray(r.standard_normal(y.shape), jnp.float32)
  for got, want in zip(pull(dy), expected_pull(dy)):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('few', [0, 500])  # selects the CPU form
def test_transposed_convolution_is_the_transpose(few, monkeypatch):
  monkeypatch.setattr(convolution, 'FEW_PIXELS', few)
  r = np.random.default_rng(1)
  kernel = jnp.asarray(r.standard_normal((4, 4, 3, 5)), jnp.float32)
  y = jnp.asarray(r.standard_normal((2, 3, 4, 5)), jnp.float32)
  x_shape = jax.ShapeDtypeStruct((2, 6, 8, 3), jnp.float32)
  transpose = jax.linear_transpose(lambda x: plain_convolve(x, kernel, 2, 1), x_shape)
  got, pull = jax.vjp(lambda y, k: convolution.convolve_transposed(y, k, 2, 1, (6, 8)), y, kernel)
  np.testing.assert_allclose(got, transpose(y)[0], rtol=1e-5, atol=1e-5)
  # d/dy and d/dk of <dx, transposed(y, k)> = <convolve(dx, k), y>.
  dx = jnp.asarray(r.standard_normal(got.shape), jnp.float32)
  dy, dk = pull(dx)
  np.testing.assert_allclose(dy, plain_convolve(dx, kernel, 2, 1), rtol=1e-5, atol=1e-5)
  want = jax.grad(lambda k: (plain_convolve(dx, k, 2, 1) * y).sum())(kernel)
  np.testing.assert_allclose(dk, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('narrow', [0, 64])  # selects the CPU form
@pytest.mark.parametrize('features', [3, 7])
def test_gradient_of_a_1x1_kernel_by_hand(narrow, features, monkeypatch):
  monkeypatch.setattr(convolution, 'NARROW', narrow)
  r = np.random.default_rng(4)
  x, dy = (r.standard_normal((2, 3, 4, c)).astype(np.float32) for c in (5, features))
  kernel = jnp.zeros((1, 1, 5, features))
  _, pull = jax.vjp(lambda k: convolution.convolve(x, k, 1, 0), kernel)
  want = sum(np.outer(p, q) for p, q in zip(x.reshape(-1, 5), dy.reshape(-1, features)))
  np.testing.assert_allclose(pull(dy)[0][0, 0], want, rtol=1e-5, atol=1e-5)


def test_what_is_materialized_stays_what_it_is():
  x = jnp.array([[1.0, -2.0], [jnp.inf, 0.0]])
  y, pull = jax.vjp(lambda x: pixels.materialize(x, jnp.float32(3)), x)
  np.testing.assert_array_equal(y, x)
  np.testing.assert_array_equal(pull(2 * x)[0], 2 * x)


def test_the_max_pool_is_the_same_function():
  x = jax.random.normal(jax.random.key(0), (2, 12, 8, 3))
  ties = jnp.round(x)  # windows contain many equal pixels
  for images in (x, ties, jax.nn.relu(ties)):
    dy = jax.random.normal(jax.random.key(1), (2, 6, 4, 3))
    y, pull = jax.vjp(pooling.max_pool, images)
    expected, expected_pull = jax.vjp(lambda x: layers.MaxPool().apply({}, x), images)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(pull(dy)[0], expected_pull(dy)[0], atol=1e-6)
