"""The door to the CPU forms: layers of a network answer with them while it is open.

The interceptor of `flax.linen` sees every call of a module while a program is traced. Here it
answers the convolutions, transposed convolutions and max-pools that it knows, and stores what a
residual block returns in memory once. All other calls go through unchanged.
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn
from jax import numpy as jnp

from mrpose_jax.cpu import convolution
from mrpose_jax.cpu import pixels
from mrpose_jax.cpu import pooling
from mrpose_jax.cpu import winograd
from mrpose_jax.models import layers
from mrpose_jax.models import resnet

# XLA can use two libraries on CPUs. YNNPACK, its default for everything, runs 64 channels on one
# core and a kernel's gradient at a quarter of Eigen's speed. It keeps products and sums only;
# convolutions go to Eigen. The results differ by rounding.
_YNNPACK = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  )
}


def jit(function: Callable, **arguments) -> Callable:
  """`jax.jit` of the function with the CPU forms and compiler options."""
  return _jit(
    functools.wraps(function)(lambda *args: _with_forms(function, {}, *args)), **arguments
  )


def jit_prediction(function: Callable, kernels: dict, variables: dict) -> Callable:
  """`jit` of function(variables, ...) with these variables, and kernels from `prepare_kernels`."""
  predict = _jit(lambda kernels, *args: _with_forms(function, kernels, *args))
  return functools.partial(predict, kernels, variables)


def prepare_kernels(model: nn.Module, variables: dict) -> dict:
  """Kernels as predictions on a CPU read them fastest.

  1x1 kernels are transposed. Kernels of 3x3 convolutions and of transposed convolutions are
  transformed by Winograd's rule. A bfloat16 network has no such kernels.

  Args:
    model, variables: a network, with batch norm folded into its convolutions.

  Returns:
    {path of a module: its kernels}, for programs of any image and batch size.
  """
  kernels = {}

  def record(next_fun, args, kwargs, context):
    module = context.module
    if _is_known(module) and (prepared := _prepared(module)) is not None:
      kernels['/'.join(module.path)] = prepared
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(record):
    model.apply(variables, jnp.zeros((1, 64, 64, 3)), train=False)
  return kernels


def _with_forms(function, kernels, *args):
  """Calls the function with the door open."""

  def answer(next_fun, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or module.is_initializing():
      return next_fun(*args, **kwargs)
    if _is_known(module):
      prepared = kernels.get('/'.join(module.path))
      form = _deconvolution if isinstance(module, nn.ConvTranspose) else _convolution
      return form(module, *args, prepared)
    if isinstance(module, layers.MaxPool):
      return pooling.max_pool(*args)
    output = next_fun(*args, **kwargs)
    if isinstance(module, resnet.Block):
      parameter = jax.tree.leaves(module.variables['params'])[0].ravel()[0]
      output = pixels.materialize(output, parameter)
    return output

  with nn.intercept_methods(answer):
    return function(*args)


def _is_known(module) -> bool:
  """Whether it is a convolution of the form that `layers.conv` and `layers.deconv` make."""
  if isinstance(module, nn.Conv):
    size = module.kernel_size[0]
    expected = layers.conv.keywords | {'kernel_size': (size, size), 'padding': (size - 1) // 2}
    expected |= dict.fromkeys(('input_dilation', 'kernel_dilation', 'feature_group_count'), 1)
  elif isinstance(module, nn.ConvTranspose):
    expected = layers.deconv.keywords
  else:
    return False
  return all(getattr(module, name) == value for name, value in expected.items())


def _kernel_of(module):
  return module.get_variable('params', 'kernel').astype(module.dtype)


def _prepared(module):
  """The forms of a module's kernel for predictions, or None."""
  kernel = _kernel_of(module)
  if kernel.dtype != jnp.float32:
    return None
  if isinstance(module, nn.ConvTranspose):
    if not winograd.saves(kernel):
      return None
    return [winograd.prepare(k, few=False) for k, _ in convolution.phases_of(kernel, 2, 1)]
  if len(kernel) == 1:
    return kernel[0, 0].T
  if module.strides == 1:
    return winograd.prepare(kernel, few=True) if winograd.saves(kernel) else None
  saves = (len(kernel), module.strides) == (3, 2) and winograd.saves(kernel)
  return winograd.prepare_strided(kernel) if saves else None


def _convolution(module, x, prepared):
  x, kernel = x.astype(module.dtype), _kernel_of(module)
  stride, padding = module.strides, module.padding
  if len(kernel) == 1:
    x = x[:, ::stride, ::stride]
    if prepared is not None:
      return convolution.project_prepared(x, kernel, prepared)
    return convolution.convolve(x, kernel, 1, 0)
  if prepared is not None and winograd.divides(x, stride):
    if stride == 1:
      [y] = winograd.correlate_prepared(x, [prepared], [((padding, padding),) * 2])
      return y
    if not pixels.fewer_than(x, 4 * winograd.FEW_PIXELS):
      return winograd.correlate_strided(x, prepared)
  return convolution.convolve(x, kernel, stride, padding)


def _deconvolution(module, x, prepared):
  x, kernel = x.astype(module.dtype), _kernel_of(module)
  few_pixels = pixels.fewer_than(x, winograd.FEW_PIXELS)
  if prepared is not None and winograd.divides(x) and not few_pixels:
    pads = [edges for _, edges in convolution.phases_of(kernel, 2, 1)]
    return pixels.interleave(winograd.correlate_prepared(x, prepared, pads), 2)
  return convolution.convolve_transposed(x, kernel, 2, 1, (2 * x.shape[1], 2 * x.shape[2]))


def _jit(function, **arguments):
  return jax.jit(function, compiler_options=_options(), **arguments)


@functools.cache
def _options():
  try:
    jax.jit(lambda: 0, compiler_options=_YNNPACK).lower().compile()
  except jax.errors.JaxRuntimeError:  # this version of XLA does not have the choice
    return None
  return _YNNPACK
