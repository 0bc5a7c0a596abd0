"""Winograd convolutions: results by hand, equality to plain convolutions, and gradients."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mrpose_jax.cpu import convolution
from mrpose_jax.cpu import pixels
from mrpose_jax.cpu import winograd

pytestmark = pytest.mark.usefixtures('optimized_programs')


@pytest.mark.parametrize(
  ('kernel', 'want'), [([5, -2], [1, 4, 7, 10]), ([5, -2, 3], [10, 16, 22, 28])]
)
def test_by_hand(kernel, want):
  """5 a - 2 (a + 1) + 3 (a + 2) for a = 1, 2, 3, 4; the shorter kernel lacks the last term."""
  inputs, kernels, outputs = winograd.matrices(len(kernel))
  row = np.arange(1.0, len(kernel) + 4)
  np.testing.assert_allclose(outputs @ ((inputs @ row) * (kernels @ kernel)), want, rtol=1e-6)


@pytest.mark.parametrize(
  ('size', 'pads'), [(3, ((1, 1), (1, 1))), (2, ((1, 0), (0, 1))), (2, ((0, 1), (1, 0)))]
)
def test_it_is_the_same_function(size, pads):
  r = np.random.default_rng(3)
  x = jnp.asarray(r.standard_normal((2, 12, 8, 5)), jnp.float32)
  kernel = jnp.asarray(r.standard_normal((size, size, 5, 3)), jnp.float32)
  want = pixels.correlate(x, kernel, pads)
  kernels = winograd.transform(kernel)
  for result in (
    winograd.correlate(x, kernels, pads),
    winograd.correlate_few(x, winograd.join(kernels), pads),
    *winograd.correlate_both(x, [winograd.transform_both(kernel)], [pads]),
  ):
    np.testing.assert_allclose(result, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_several_kernels_share_the_rows(monkeypatch):
  stored, materialize = [], pixels.materialize
  monkeypatch.setattr(pixels, 'materialize', lambda x, p: stored.append(x) or materialize(x, p))
  r = np.random.default_rng(4)
  x = jnp.asarray(r.standard_normal((2, 12, 8, 5)), jnp.float32)
  kernels = jnp.asarray(r.standard_normal((4, 2, 2, 5, 3)), jnp.float32)
  pads = [(rows, columns) for rows in ((1, 0), (0, 1)) for columns in ((1, 0), (0, 1))]
  results = winograd.correlate_both(x, [winograd.transform_both(k) for k in kernels], pads)
  for got, kernel, kernel_pads in zip(results, kernels, pads, strict=True):
    want = pixels.correlate(x, kernel, kernel_pads)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
  assert len(stored) == 2 * 5  # row sums, with padding above and with padding below


def test_a_strided_convolution_is_the_same_function():
  r = np.random.default_rng(4)
  x = jnp.asarray(r.standard_normal((2, 16, 6, 5)), jnp.float32)
  kernel = jnp.asarray(r.standard_normal((3, 3, 5, 3)), jnp.float32)
  want = convolution.convolve(x, kernel, 2, 1)
  got = winograd.correlate_strided(x, winograd.prepare_strided(kernel))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
  ('size', 'pads'), [(3, ((1, 1), (1, 1))), (2, ((1, 0), (0, 1))), (2, ((0, 1), (1, 0)))]
)
def test_the_gradient_of_a_kernel(size, pads):
  r = np.random.default_rng(5)
  x = jnp.asarray(r.standard_normal((2, 12, 6, 5)), jnp.float32)
  dy = jnp.asarray(r.standard_normal((2, 12, 6, 3)), jnp.float32)
  _, pull = jax.vjp(lambda k: pixels.correlate(x, k, pads), jnp.zeros((size, size, 5, 3)))
  got = winograd.kernel_gradient(x, dy, size, pads)
  [want] = pull(dy)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(('size', 'stride'), [(3, 1), (4, 2)])
@pytest.mark.parametrize('few', [0, 10_000])  # number of pixels that selects the form
def test_gradients_with_and_without_the_rule(size, stride, few, monkeypatch):
  monkeypatch.setattr(convolution, 'FEW_PIXELS', few)
  r = np.random.default_rng(6)
  padding = (size - 1) // 2
  x = jnp.asarray(r.standard_normal((2, 8 * stride, 4 * stride, 128)), jnp.float32)
  y = jnp.asarray(r.standard_normal((2, 8, 4, 128)), jnp.float32)
  kernel = jnp.asarray(r.standard_normal((size, size, 128, 128)), jnp.float32)
  forms = (
    (lambda k, x: convolution.convolve(x, k, stride, padding), x, y),
    (lambda k, y: convolution.convolve_transposed(y, k, stride, padding, x.shape[1:3]), y, x),
  )

  def gradients():
    return [jax.vjp(form, kernel, a)[1](b) for form, a, b in forms]

  winograd_gradients = jax.tree.leaves(gradients())
  monkeypatch.setattr(convolution, '_suits_winograd', lambda *_: False)
  expected = jax.tree.leaves(gradients())
  for got, want in zip(winograd_gradients, expected):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())
  assert few or any((got != want).any() for got, want in zip(winograd_gradients, expected))
