"""How this project's own programs are compiled."""

import functools
from collections.abc import Callable

import jax

# Not among them are convolutions, which go to Eigen then.
YNNPACK = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  )
}


def jit(function: Callable, **arguments) -> Callable:
  """`jax.jit` for a program of this project, with the choice of libraries that is fast on CPUs.

  XLA has two there. YNNPACK, which gets all by default, works on 64 channels with one core, and on
  a kernel's gradient at a quarter of Eigen's speed. The results differ by rounding.
  """
  return jax.jit(function, compiler_options=_options(), **arguments)


@functools.cache
def _options():
  if jax.default_backend() != 'cpu':
    return None
  try:
    jax.jit(lambda: 0, compiler_options=YNNPACK).lower().compile()
  except jax.errors.JaxRuntimeError:  # a version of XLA without this choice
    return None
  return YNNPACK
