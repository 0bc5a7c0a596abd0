"""The choice of libraries on CPUs."""

import jax
import numpy as np
import pytest
from jax import lax

from mrpose_jax import compilation


@pytest.fixture
def fresh():
  compilation._options.cache_clear()
  yield
  compilation._options.cache_clear()


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
  monkeypatch.setattr(compilation, 'YNNPACK', {'xla_cpu_absent': 'x'})
  assert compilation.jit(lambda x: 2 * x)(3) == 6


def test_other_platforms_have_no_such_choice(fresh, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert compilation._options() is None
