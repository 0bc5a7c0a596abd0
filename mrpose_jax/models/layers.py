"""Convolutions, their transposes and batch normalisation, as the networks use them.

A convolution and a transposed convolution are one linear map and its transpose; both take the
kernel of the convolution, [kh, kw, input, output]. The functions carry their own gradient rules for
one reason: XLA's CPU backend is slow at 1x1 convolutions and at dilated inputs, so on CPU the
first are matrix products, gradients included, and the second one small dense convolution per output
phase. What is left of stride 1 makes half its products by Winograd's rule where nothing is
differentiated: gradients would feel its rounding. GPU and TPU keep XLA's own forms. Which one runs
is decided when the program is lowered for a platform.
"""

import functools

import jax
import numpy as np
from flax import linen as nn
from jax import lax
from jax import numpy as jnp

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
MOMENTUM, EPSILON = 0.9, 1e-5  # of batch norm
FEW_PIXELS = 1024  # for fewer the CPU forms spare the kernel, for more the pixels
FEW_CHANNELS = 64  # for fewer, Winograd's sums cost more than the products that they save

# He et al. 2015 over the fan-out, as torchvision starts its ResNets.
encoder_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# SimpleBaseline's start for every layer after the encoder.
decoder_init = nn.initializers.normal(0.001)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """Cross-correlation, padded alike all around.

  [N, H, W, C] and [kh, kw, C, D] -> [N, H', W', D].
  """
  return _convolve(x, kernel, stride, padding, _filter)


def _convolve(x, kernel, stride, padding, correlate):
  if kernel.shape[:2] == (1, 1):
    return x @ kernel[0, 0]
  if stride == 1:
    return correlate(x, kernel, ((padding, padding),) * 2)
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=DIMENSIONS
  )


def _convolve_fwd(x, kernel, stride, padding):
  return _convolve(x, kernel, stride, padding, _correlate), (x, kernel)


def _convolve_bwd(stride, padding, saved, dy):
  x, kernel = saved
  if kernel.shape[:2] == (1, 1):
    return dy @ kernel[0, 0].T, _kernel_gradient(x, dy, kernel.shape, stride, padding)
  x, dy = (materialize(a, kernel.ravel()[0]) for a in (x, dy))
  return (
    _transpose(dy, kernel, stride, padding, x.shape[1:3], _correlate),
    _kernel_gradient(x, dy, kernel.shape, stride, padding),
  )


convolve.defvjp(_convolve_fwd, _convolve_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_transposed(y: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """The transpose of `convolve`: [N, H, W, D] and [kh, kw, C, D] -> [N, stride H, stride W, C]."""
  return _transpose(y, kernel, stride, padding, _times(stride, y), _filter)


def _convolve_transposed_fwd(y, kernel, stride, padding):
  return _transpose(y, kernel, stride, padding, _times(stride, y), _correlate), (y, kernel)


def _convolve_transposed_bwd(stride, padding, saved, dx):
  y, kernel = saved
  y, dx = (materialize(a, kernel.ravel()[0]) for a in (y, dx))
  return (
    _convolve(dx, kernel, stride, padding, _correlate),
    _kernel_gradient(dx, y, kernel.shape, stride, padding),
  )


convolve_transposed.defvjp(_convolve_transposed_fwd, _convolve_transposed_bwd)


def _times(stride, y):
  return stride * y.shape[1], stride * y.shape[2]


def _transpose(y, kernel, stride, padding, out_size, correlate):
  """[N, P, Q, D] -> [N, *out_size, C]: x[s p + i - padding] += kernel[i] y[p]."""
  if stride == 1:
    pads = tuple((taps - 1 - padding,) * 2 for taps in kernel.shape[:2])
    return correlate(y, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), pads)
  dilated = functools.partial(_transpose_dilated, stride=stride, padding=padding, out_size=out_size)
  if any(n % stride for n in out_size):
    return dilated(y, kernel)
  form = functools.partial(_transpose_by_phases, correlate=correlate)
  form = _transpose_by_product if _few_pixels(y) else form
  form = functools.partial(form, stride=stride, padding=padding)
  return lax.platform_dependent(y, kernel, cpu=form, default=dilated)


def _transpose_dilated(y, kernel, stride, padding, out_size):
  pads = []
  for length, taps, out in zip(y.shape[1:3], kernel.shape[:2], out_size):
    low = taps - 1 - padding
    pads.append((low, out + taps - 1 - low - (stride * (length - 1) + 1)))
  return lax.conv_general_dilated(
    y,
    jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
    (1, 1),
    pads,
    lhs_dilation=(stride, stride),
    dimension_numbers=DIMENSIONS,
  )


def _transpose_by_phases(y, kernel, stride, padding, correlate):
  """Output pixels u = stride m + a of one phase a see only every stride-th tap of the kernel."""
  kernel = kernel.swapaxes(2, 3)  # [kh, kw, D, C]
  rows, columns = (_phases(taps, stride, padding) for taps in kernel.shape[:2])
  phases = [
    correlate(y, kernel[i][:, j], (row_pads, column_pads))
    for i, row_pads in rows
    for j, column_pads in columns
  ]
  return _interleave(phases, stride)


def _transpose_by_product(y, kernel, stride, padding):
  """One product with the whole kernel as it lies in memory; its parts are added where they meet."""
  height, width = y.shape[1:3]
  rows, columns = (_phases(taps, stride, padding) for taps in kernel.shape[:2])
  reach = max(max(pads) for phases in (rows, columns) for _, pads in phases)
  products = lax.dot_general(kernel, y, (((3,), (3,)), ((), ())), preferred_element_type=y.dtype)
  edges = (*((0, 0),) * 4, (reach, reach), (reach, reach))
  products = jnp.pad(products, edges)  # [kh, kw, C, N, H, W]
  phases = []
  for i, (above, _) in rows:
    for j, (left, _) in columns:
      seen = [
        products[row, column, :, :, r : r + height, c : c + width]
        for r, row in enumerate(range(kernel.shape[0])[i], reach - above)
        for c, column in enumerate(range(kernel.shape[1])[j], reach - left)
      ]
      phases.append(sum(seen[1:], seen[0]))
  phases = materialize(jnp.stack(phases), kernel.ravel()[0])
  return _interleave(list(jnp.moveaxis(phases, 1, -1)), stride)


def _correlate(x, kernel, pads):
  """Of stride 1: [N, H, W, C] and [kh, kw, C, D] -> [N, H', W', D]."""
  return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=DIMENSIONS)


def _filter(x, kernel, pads):
  """`_correlate` to the same size, on CPU by Winograd's F(4, kh) where that is less work."""
  few = _few_pixels(x) or min(kernel.shape[2:]) < FEW_CHANNELS
  if few or kernel.shape[0] not in (2, 3) or x.shape[1] % 4 or x.dtype != jnp.float32:
    return _correlate(x, kernel, pads)
  winograd, plain = (functools.partial(f, pads=pads) for f in (_filter_by_winograd, _correlate))
  return lax.platform_dependent(x, kernel, cpu=winograd, default=plain)


def _filter_by_winograd(x, kernel, pads):
  """kh + 3 products for 4 rows rather than 4 kh (Lavin and Gray 2016).

  In float32 it is off by some 3e-6 of the largest output.
  """
  inputs, kernels, outputs = _winograd(kernel.shape[0])
  rows = []
  for k in range(len(inputs)):  # the k-th row that a tile of 4 sees
    tile, row = divmod(k - pads[0][0], 4)
    rows.append(_move(x[:, row::4], 1, -tile, 0))
  kernel = jnp.tensordot(kernels, kernel, 1)[:, None]
  products = [
    _correlate(_combine(weights, rows), one, ((0, 0), pads[1]))
    for weights, one in zip(inputs, kernel)
  ]
  y = jnp.stack([_combine(weights, products) for weights in outputs], 2)
  return y.reshape(*x.shape[:3], -1)


def _winograd(taps):
  """Matrices for inputs [n, n], kernels [n, taps] and outputs [4, n] of F(4, taps), n = taps + 3.

  Toom and Cook's: a product of polynomials from its values at n - 1 points and at infinity.
  """
  points = np.array([0, 1, -1, 2, -2])[: taps + 2]
  others = [np.delete(points, k) for k in range(len(points))]
  inputs = np.zeros((taps + 3, taps + 3))
  for k, roots in enumerate([*others, points]):
    inputs[k, : len(roots) + 1] = np.poly(roots)[::-1]
  scale = np.array([np.prod(point - roots) for point, roots in zip(points, others)])
  kernels = np.vander(points, taps, increasing=True) / scale[:, None]
  outputs = np.vander(points, 4, increasing=True)
  kernels, outputs = (np.vstack([m, np.eye(m.shape[1])[-1]]) for m in (kernels, outputs))
  return inputs, kernels.astype(np.float32), outputs.T


def _combine(weights, arrays):
  return sum(weight * array for weight, array in zip(weights.tolist(), arrays) if weight)


def _move(x, axis, steps, fill):
  """Along an axis by `steps`, whose sign says where to; what comes in is `fill`."""
  edges = [(0, 0, 0)] * x.ndim
  edges[axis] = (steps, -steps, 0)
  return lax.pad(x, jnp.array(fill, x.dtype), edges)


def _few_pixels(x):
  n, height, width, _ = x.shape
  return isinstance(n, int) and n * height * width < FEW_PIXELS  # n is a symbol in an export


def _interleave(phases, stride):
  """Images [N, H, W, C] of the phases (0, 0), (0, 1), ... -> [N, stride H, stride W, C]."""
  n, height, width, _ = phases[0].shape
  x = jnp.stack(phases, 3).reshape(n, height, width, stride, stride, -1)
  x = x.swapaxes(2, 3)  # [N, H, a, W, b, C]
  return x.reshape(n, stride * height, stride * width, -1)


def _phases(taps, stride, padding):
  """For each phase: the slice of its taps, last first, and the padding that aligns them."""
  phases = []
  for a in range(stride):
    first = (a + padding) % stride
    used = range(first, taps, stride)
    shifts = [(a + padding - i) // stride for i in used]  # x[stride m + a] sees y[m + shift]
    backwards = slice(used[-1], first - stride if first >= stride else None, -stride)
    phases.append((backwards, (-min(shifts), max(shifts))))
  return phases


def _kernel_gradient(x, dy, shape, stride, padding):
  """Gradient of sum(dy * convolve(x, kernel)) with respect to the kernel."""
  form = functools.partial(_kernel_gradient_default, shape=shape, stride=stride, padding=padding)
  if shape[:2] != (1, 1):
    return form(x, dy)
  return lax.platform_dependent(x, dy, cpu=_kernel_gradient_by_product, default=form)


def _kernel_gradient_default(x, dy, shape, stride, padding):
  kernel = jax.ShapeDtypeStruct(shape, x.dtype)
  transpose = jax.linear_transpose(
    lambda k: lax.conv_general_dilated(
      x, k, (stride, stride), [(padding, padding)] * 2, dimension_numbers=DIMENSIONS
    ),
    kernel,
  )
  return transpose(dy)[0]


def _kernel_gradient_by_product(x, dy):
  """Of a 1x1 kernel. As matrices, or XLA moves the pixels in memory before it multiplies."""
  x, dy = (a.reshape(-1, a.shape[-1]) for a in (x, dy))
  return (x.T @ dy)[None, None]


@jax.custom_vjp
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[.., C] and [C, D] of one type -> float32 [.., D]; the gradients are computed in that type."""
  return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _project_fwd(x, kernel):
  return project(x, kernel), (x, kernel)


def _project_bwd(saved, dy):
  _, transpose = jax.vjp(jnp.matmul, *saved)
  return transpose(dy.astype(saved[0].dtype))


project.defvjp(_project_fwd, _project_bwd)


@jax.custom_vjp
def materialize(x: jax.Array, parameter: jax.Array) -> jax.Array:
  """x itself, and its gradient, in memory once; `parameter` is any number that is not constant.

  XLA's CPU backend computes what is cheap again for each operation that reads it: in a ResNet the
  chain of residual sums, once a block. It drops `lax.optimization_barrier`, but fuses nothing with
  what goes through a loop, and cannot know that only a NaN enters this one.
  """
  return lax.platform_dependent(x, parameter, cpu=_through_a_loop, default=lambda x, _: x)


def _through_a_loop(x, parameter):
  return lax.while_loop(
    lambda carry: carry[0], lambda carry: (False, -carry[1]), (jnp.isnan(parameter), x)
  )[1]


def _materialize_bwd(parameter, dy):
  return materialize(dy, parameter), jnp.zeros_like(parameter)


materialize.defvjp(lambda x, parameter: (materialize(x, parameter), parameter), _materialize_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, deterministic: bool = False) -> jax.Array:
  """3x3, stride 2, padding 1, for even H and W: [N, H, W, C] -> [N, H/2, W/2, C].

  Of equal pixels in a window the first has the gradient. On CPU, where that is faster, and if
  `deterministic`, it is added in a fixed order: XLA's own rule, select-and-scatter, is refused by
  its deterministic mode for GPUs.
  """
  return lax.platform_dependent(x, cpu=_max_pool_by_axes, default=_max_pool_default)


def _max_pool_default(x):
  return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _max_pool_by_axes(x):
  for axis in (1, 2):
    even, odd = (lax.slice_in_dim(x, start, None, 2, axis) for start in (0, 1))
    x = jnp.maximum(jnp.maximum(even, odd), _move(odd, axis, 1, -jnp.inf))
  return x


def _max_pool_fwd(x, deterministic):
  y = max_pool(x, deterministic)
  return y, (x, y)


def _max_pool_bwd(deterministic, saved, dy):
  def select_and_scatter(x, y, dy):
    return jax.vjp(_max_pool_default, x)[1](dy)[0]

  form = _max_pool_gradient if deterministic else select_and_scatter
  return (lax.platform_dependent(*saved, dy, cpu=_max_pool_gradient, default=form),)


def _max_pool_gradient(x, y, dy):
  """A pixel of an odd row was seen by the window of that row's pair and by the next one."""
  height, width = y.shape[1:3]
  edges = (0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)
  padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
  place = jnp.full(y.shape, 9)  # in its window of the pixel that has the gradient
  for k in reversed(range(9)):
    i, j = divmod(k, 3)
    seen = padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
    place = jnp.where(seen == y, k, place)
  place = materialize(place, x.ravel()[0])
  phases = []
  for rows in ((1, 0),), ((2, 0), (0, -1)):  # place in the window, and which window, back
    for columns in ((1, 0),), ((2, 0), (0, -1)):
      parts = [
        _move(_move(jnp.where(place == 3 * i + j, dy, 0), 1, down, 0), 2, right, 0)
        for i, down in rows
        for j, right in columns
      ]
      phases.append(sum(parts[1:], parts[0]))
  return _interleave(phases, 2)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


class Conv(nn.Module):
  """Convolution with torch's symmetric padding (size - 1) / 2; 1x1 ones are matrix products.

  With a bias it is one to heatmaps, 1x1, and returns float32 whatever `dtype` it computes in.
  """

  features: int
  size: int = 1
  stride: int = 1
  use_bias: bool = False
  kernel_init: nn.initializers.Initializer = encoder_init
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      return project(x, kernel[0, 0]) + bias[None, None, None]
    if self.size == 1:
      x = x[:, :: self.stride, :: self.stride]
      return convolve(x, kernel, 1, 0)
    return convolve(x, kernel, self.stride, (self.size - 1) // 2)


class Deconv(nn.Module):
  """4x4 transposed convolution, stride 2, padding 1, no bias: doubles height and width."""

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    shape = (4, 4, self.features, x.shape[-1])
    kernel = self.param('kernel', decoder_init, shape, jnp.float32)
    return convolve_transposed(x.astype(self.dtype), kernel.astype(self.dtype), 2, 1)


class BatchNorm(nn.Module):
  """Batch normalisation over N, H, W as PyTorch defines it, statistics in float32.

  Differs from flax.linen.BatchNorm in one thing: the running variance takes the unbiased estimate
  n / (n - 1), as the released checkpoints do. Momentum 0.9 and epsilon 1e-5 are the paper's.

  `groups`: into how many equal groups of neighbouring examples a batch is split; each is normalised
  by its own statistics, and the running ones take their mean. Where each device holds whole groups
  of a batch that is split over devices, no statistics travel between them.

  Of variables that `pose_network.fold_batch_norm` made it has the bias alone, and adds that.
  """

  groups: int = 1

  @nn.compact
  def __call__(self, x, train: bool):
    features = (x.shape[-1],)
    if self.has_variable('params', 'bias') and not self.has_variable('params', 'scale'):
      bias = self.get_variable('params', 'bias')
      return (x + bias.reshape(1, 1, 1, -1)).astype(x.dtype)
    scale = self.param('scale', nn.initializers.ones, features, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, features, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, features, jnp.float32)
    groups = self.groups if train else 1
    x32 = x.astype(jnp.float32)
    if groups > 1:
      x32 = x32.reshape(groups, -1, *x.shape[1:])
    axes = tuple(range(x32.ndim - 4, x32.ndim - 1))  # all but groups and channels
    if train:
      mean = x32.mean(axes)  # [C], or [groups, C]
      var = jnp.maximum(jnp.square(x32).mean(axes) - jnp.square(mean), 0.0)
      if not self.is_initializing():
        n = x.size // x.shape[-1] // groups
        keep = MOMENTUM
        whole_mean, whole_var = (m.reshape(groups, -1).mean(0) for m in (mean, var))
        running_mean.value = keep * running_mean.value + (1 - keep) * whole_mean
        running_var.value = keep * running_var.value + (1 - keep) * whole_var * (n / max(n - 1, 1))
    else:
      mean, var = running_mean.value, running_var.value
    scale, bias = (p.reshape((1,) * (mean.ndim - 1) + p.shape) for p in (scale, bias))
    factor = scale * lax.rsqrt(var + EPSILON)
    shift = bias - mean * factor
    y = x32 * jnp.expand_dims(factor, axes) + jnp.expand_dims(shift, axes)
    return y.reshape(x.shape).astype(x.dtype)


class Up(nn.Module):
  """Deconv, batch norm, ReLU: [N, H, W, C] -> [N, 2H, 2W, features]."""

  features: int
  dtype: jnp.dtype = jnp.float32
  norm_groups: int = 1

  @nn.compact
  def __call__(self, x, train: bool):
    x = Deconv(self.features, dtype=self.dtype, name='conv')(x)
    return nn.relu(BatchNorm(self.norm_groups, name='norm')(x, train))
