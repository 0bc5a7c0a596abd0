"""`nn.ConvTranspose` with a kernel gradient that moves fewer bytes."""

import functools

import jax
from flax import linen as nn
from jax import lax


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
    return _deconvolve(self.strides, x.astype(self.dtype), kernel.astype(self.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _deconvolve(strides, x, kernel):
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
  )


@_deconvolve.defjvp
def _deconvolve_jvp(strides, primals, tangents):
  (x, kernel), (x_dot, kernel_dot) = primals, tangents
  y = _deconvolve(strides, x, kernel)

  def kernel_gradient(dy):
    return jax.linear_transpose(lambda kernel: _convolve(strides, dy, kernel), kernel)(x)[0]

  # In reverse mode JAX transposes this transpose, which gives `kernel_gradient` again.
  [y_dot] = jax.linear_transpose(kernel_gradient, y)(kernel_dot)
  return y, _deconvolve(strides, x_dot, kernel) + y_dot


def _convolve(strides, y, kernel):
  """The convolution whose transpose `_deconvolve` is."""
  return lax.conv_general_dilated(
    y, kernel, strides, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
