"""`nn.ConvTranspose` with a kernel gradient that moves fewer bytes."""

import functools

import jax
from flax import linen as nn
from jax import lax


class Deconv(nn.ConvTranspose):
  """`nn.ConvTranspose`, whose fields it has, for images without bias.

  The gradient with respect to the kernel is computed as that of the convolution whose transpose
  this is: the output's gradient is convolved by the input. JAX's own rule convolves the input,
  filled up with zeros, by the output's gradient, which moves a hundredth more bytes in a training
  step on a TPU (docs/planning.md).
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel_size, self.features, x.shape[-1])
    kernel = self.param('kernel', self.kernel_init, shape, self.param_dtype)
    return _deconvolve(self.strides, self.padding, x.astype(self.dtype), kernel.astype(self.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _deconvolve(strides, padding, x, kernel):
  return lax.conv_transpose(x, kernel, strides, padding, transpose_kernel=True)


@_deconvolve.defjvp
def _deconvolve_jvp(strides, padding, primals, tangents):
  x, kernel = primals
  x_dot, kernel_dot = tangents
  deconvolve = functools.partial(_deconvolve.fun, strides, padding)
  y = _deconvolve(strides, padding, x, kernel)

  def kernel_gradient(dy):
    def convolve(kernel):
      return jax.linear_transpose(lambda x: deconvolve(x, kernel), x)(dy)[0]

    return jax.linear_transpose(convolve, kernel)(x)[0]

  # The transpose of this transpose, which JAX takes for a gradient, is `kernel_gradient` again.
  [y_dot] = jax.linear_transpose(kernel_gradient, y)(kernel_dot)
  return y, deconvolve(x_dot, kernel) + y_dot
