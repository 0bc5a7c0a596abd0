"""Settings that make small mistakes fail: four devices, and no silent change of an array's rank."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
