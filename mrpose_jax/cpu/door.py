"""The door to the CPU forms: while it is open, they answer the calls of some layers.

The interceptor of `flax.linen` sees every call of a module while a program is traced. Here it
answers the convolutions, transposed convolutions and max-pools that it knows, and stores the output
of a residual block in memory once. All other calls go through unchanged.
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
from mrpose_jax.models import linear_maps
from mrpose_jax.models import resnet

# XLA can use two libraries on CPUs. YNNPACK, its default for everything, runs 64 channels on one
# core and a kernel's gradient at a quarter of Eigen's speed. It keeps products and sums only;
# convolutions go to Eigen. The results differ by rounding.
_YNNPACK = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  )
}


# JAX caches what an inner `jit` traced. With a value of its own for each opening of the door, no
# plain program finds a trace that was made while it was open, nor the other way round.
_opening = jax.make_user_context(None)


def jit(function: Callable, **arguments) -> Callable:
  """`jax.jit` of the function with the CPU forms and compiler options."""
  opened = functools.partial(_call_opened, function, None)
  return jax.jit(functools.wraps(function)(opened), compiler_options=_options(), **arguments)


def jit_prediction(function: Callable, kernels: dict, variables: dict) -> Callable:
  """`jit` of function(variables, ...) with these variables bound to it.

  Args:
    function: the function to compile.
    kernels: from `prepare_kernels`.
    variables: of the network, with batch norm folded into its convolutions.
  """
  opened = functools.partial(_call_opened, function)
  return functools.partial(jax.jit(opened, compiler_options=_options()), kernels, variables)


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
    model.apply(variables, jnp.zeros((1, 64, 64, 3), jnp.float32), train=False)
  return kernels


def _call_opened(function, kernels, *args, **kwargs):
  """Calls the function with the door open; `kernels` is None for training."""

  def answer(next_fun, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or module.is_initializing():
      return next_fun(*args, **kwargs)
    if _is_known(module):
      prepared = (kernels or {}).get('/'.join(module.path))
      form = _deconvolution if isinstance(module, nn.ConvTranspose) else _convolution
      return form(module, *args, prepared)
    if isinstance(module, layers.MaxPool):
      return pooling.max_pool(*args)
    if isinstance(module, layers.BatchNorm) and kernels is not None:
      [x] = args
      return (x + module.get_variable('params', 'bias').reshape(1, 1, 1, -1)).astype(x.dtype)
    output = next_fun(*args, **kwargs)
    if isinstance(module, resnet.Block):
      parameter = jax.tree.leaves(module.variables['params'])[0].ravel()[0]
      output = pixels.materialize(output, parameter)
    return output

  with _opening(object()), nn.intercept_methods(answer):
    return function(*args, **kwargs)


def _is_known(module) -> bool:
  """Whether it is a float32 convolution as `layers.conv` and `layers.deconv` make it, square, 2-D.

  XLA computes bfloat16 convolutions on a CPU as fast as float32 ones, but the products that the
  forms consist of hundreds of times slower.
  """
  if isinstance(module, nn.Conv):
    size = module.kernel_size[0]
    fields = {'kernel_size': (size, size), 'padding': (size - 1) // 2, 'mask': None}
    fields |= dict.fromkeys(('input_dilation', 'kernel_dilation', 'feature_group_count'), 1)
    known = module.strides in (1, 2)
  elif isinstance(module, linear_maps.Deconv):
    fields = {'kernel_size': (4, 4), 'strides': (2, 2)}
    known = True
  else:
    return False
  return (
    known
    and module.dtype == jnp.float32
    and not module.use_bias
    and all(getattr(module, name) == value for name, value in fields.items())
  )


def _kernel_of(module):
  return module.get_variable('params', 'kernel').astype(module.dtype)


def _prepared(module):
  """The forms of a module's kernel for predictions, or None."""
  kernel = _kernel_of(module)
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
    if not pixels.fewer_than(x, 4 * winograd.FEW_PIXELS):  # of the input, four for each output
      return winograd.correlate_strided(x, prepared)
  return convolution.convolve(x, kernel, stride, padding)


def _deconvolution(module, x, prepared):
  x, kernel = x.astype(module.dtype), _kernel_of(module)
  few_pixels = pixels.fewer_than(x, winograd.FEW_PIXELS)
  if prepared is not None and winograd.divides(x) and not few_pixels:
    pads = [edges for _, edges in convolution.phases_of(kernel, 2, 1)]
    return pixels.interleave(winograd.correlate_prepared(x, prepared, pads), 2)
  return convolution.convolve_transposed(x, kernel, 2, 1, (2 * x.shape[1], 2 * x.shape[2]))


@functools.cache
def _options():
  try:
    jax.jit(lambda: 0, compiler_options=_YNNPACK).lower().compile()
  except jax.errors.JaxRuntimeError:  # this version of XLA does not have the choice
    return None
  return _YNNPACK
