"""Linear maps with derivatives of our own, where JAX's move more bytes or use another type."""

import functools

import jax
from flax import linen as nn
from jax import lax
from jax import numpy as jnp


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def matmul_float32(precision, x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[..., C] and [C, K] of one type -> float32 [..., K].

  Its derivatives are products in the operands' own type, which JAX would compute in float32.
  """
  return jnp.matmul(x, kernel, precision=precision, preferred_element_type=jnp.float32)


@matmul_float32.defjvp
def _matmul_float32_jvp(precision, primals, tangents):
  (x, kernel), (x_dot, kernel_dot) = primals, tangents
  matmul = functools.partial(jnp.matmul, precision=precision)
  y_dot = matmul(x_dot, kernel) + matmul(x, kernel_dot)
  return matmul_float32(precision, x, kernel), y_dot.astype(jnp.float32)


class Deconv(nn.ConvTranspose):
  """`nn.ConvTranspose(transpose_kernel=True, use_bias=False)` with padding 'SAME', for images.

  The gradient with respect to the kernel is that of the convolution whose transpose this is: the
  output's gradient is convolved by the input. JAX's own rule convolves the input, filled up with
  zeros, by the output's gradient, which moves a hundredth more bytes in a training step on a TPU.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.use_bias or not self.transpose_kernel or self.padding != 'SAME':
      raise ValueError("Deconv needs use_bias=False, transpose_kernel=True and padding='SAME'")
    shape = (*self.kernel_size, self.features, x.shape[-1])
    kernel = self.param('kernel', self.kernel_init, shape, self.param_dtype)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return _deconvolve(self.strides, self.precision, x, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _deconvolve(strides, precision, x, kernel):
  """[N, H, W, D] and [kh, kw, C, D] -> [N, s H, s W, C]."""
  pads = []
  for taps, stride in zip(kernel.shape, strides):
    low = (taps - stride) // 2  # the padding 'SAME' of `_convolve`
    pads.append((taps - 1 - low, stride - 1 + low))
  return lax.conv_general_dilated(
    x,
    lax.rev(kernel, (0, 1)),
    (1, 1),
    pads,
    lhs_dilation=strides,
    dimension_numbers=('NHWC', 'HWOI', 'NHWC'),
    precision=precision,
  )


@_deconvolve.defjvp
def _deconvolve_jvp(strides, precision, primals, tangents):
  (x, kernel), (x_dot, kernel_dot) = primals, tangents
  y = _deconvolve(strides, precision, x, kernel)

  def kernel_gradient(dy):
    convolve = functools.partial(_convolve, strides, precision, dy)
    return jax.linear_transpose(convolve, kernel)(x)[0]

  # In reverse mode JAX transposes this transpose, which gives `kernel_gradient` again.
  [y_dot] = jax.linear_transpose(kernel_gradient, y)(kernel_dot)
  return y, _deconvolve(strides, precision, x_dot, kernel) + y_dot


def _convolve(strides, precision, y, kernel):
  """The convolution whose transpose `_deconvolve` is."""
  return lax.conv_general_dilated(
    y,
    kernel,
    strides,
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=precision,
  )
