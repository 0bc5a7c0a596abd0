"""`python -m mrpose_jax` of this checkout: see mrpose_jax/__main__.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('mrpose_jax', run_name='__main__')
