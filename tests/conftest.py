"""Settings that make small mistakes fail: four devices, and no silent change of an array's rank."""

import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'
# What one test compiled, the next ones and the processes they start need not compile again.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(pathlib.Path(__file__).parents[1] / '.jax_cache')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.5'
# Most tests run a program for less time than compiling it takes. This halves the latter.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'

import jax
import pytest
from flax import linen as nn

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def optimized_programs():
  """Programs are compiled as users compile them, for comparisons with other implementations."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture
def softplus_networks(monkeypatch):
  """Networks have softplus in the place of ReLU, for comparisons of gradients.

  Where the input of a ReLU is nearly zero, rounding decides which way it goes. Programs and
  processors round differently, so gradients of small networks may differ by per cents. Those of
  smooth networks differ by no more than rounding errors.
  """
  monkeypatch.setattr(nn, 'relu', nn.softplus)
