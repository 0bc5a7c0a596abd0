"""Settings that make small mistakes fail: four devices, and no silent change of an array's rank."""

import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'
# What one test compiled, the next ones and the processes they start need not compile again.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(pathlib.Path(__file__).parents[1] / '.jax_cache')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.5'

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
