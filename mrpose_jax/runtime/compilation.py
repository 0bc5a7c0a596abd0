"""How this project's own programs are compiled; the one place that knows the CPU forms.

Training, evaluation and the Predictor compile through here. Exported and planned programs, and
`Predictor.predict_fn`, are plain functions for `jax.jit`.
"""

import functools
import importlib.util
from collections.abc import Callable

import jax
from flax import linen as nn

from mrpose_jax import paths
from mrpose_jax.cpu import door
from mrpose_jax.cpu import memory

_ACCELERATORS = ('libtpu', 'jax_cuda12_plugin', 'jax_cuda13_plugin', 'jax_rocm7_plugin')


def jit(function: Callable, **arguments) -> Callable:
  """`jax.jit`, on a CPU with the forms of layers that are fast there (`mrpose_jax.cpu`)."""
  compile_function = door.jit if jax.default_backend() == 'cpu' else jax.jit
  return compile_function(function, **arguments)


def jit_prediction(model: nn.Module, variables: dict) -> Callable[[Callable], Callable]:
  """Returns a `jit` for functions of (variables, ...), which binds these variables.

  On a CPU it also binds kernels that are laid out for predictions, once for all functions.

  Args:
    model, variables: the network, with batch norm folded into its convolutions.
  """
  if jax.default_backend() != 'cpu':
    return lambda function: functools.partial(jax.jit(function), variables)
  kernels = jax.jit(functools.partial(door.prepare_kernels, model))(variables)
  return functools.partial(door.jit_prediction, kernels=kernels, variables=variables)


def set_up(keep_programs: bool):
  """Settings of a process that trains or evaluates. Call it before JAX starts.

  Args:
    keep_programs: store compiled programs in the user's cache folder for the next start, unless
      JAX is configured to use another folder, or the user has no home folder.
  """
  set_up_memory()
  if not keep_programs:
    jax.config.update('jax_enable_compilation_cache', False)
  elif not jax.config.jax_compilation_cache_dir:
    folder = paths.cache_folder('compiled')
    if folder:
      jax.config.update('jax_compilation_cache_dir', str(folder))


def set_up_memory():
  """On a machine where JAX can only use the CPU, lets the process keep the memory that it frees."""
  if not any(importlib.util.find_spec(name) for name in _ACCELERATORS):
    memory.keep_freed_memory()
