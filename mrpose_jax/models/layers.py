"""Convolutions, their transposes and batch normalisation, as the networks use them."""

from flax import linen as nn
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models import convolution
from mrpose_jax.models import pixels
from mrpose_jax.models import winograd

MOMENTUM, EPSILON = 0.9, 1e-5  # of batch norm

# He et al. 2015 over the fan-out, as torchvision starts its ResNets.
encoder_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# SimpleBaseline's start for every layer after the encoder.
decoder_init = nn.initializers.normal(0.001)
FOR_CPU = 'for_cpu'  # a collection: kernels laid out for predictions on a CPU


class Conv(nn.Module):
  """Convolution with torch's symmetric padding (size - 1) / 2.

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
      return convolution.project(x, kernel[0, 0]) + bias[None, None, None]
    if self.size == 1:
      transposed = _for_cpu(self, lambda: kernel[0, 0].T)
      x = x[:, :: self.stride, :: self.stride]
      if transposed is not None:
        return convolution.project_prepared(x, kernel, transposed)
      return convolution.convolve(x, kernel, 1, 0)
    padding = (self.size - 1) // 2
    if self.stride == 1 and winograd.saves(kernel):
      prepared = _for_cpu(self, lambda: winograd.prepare(kernel, few=True))
      if prepared is not None and winograd.divides(x):
        [y] = winograd.correlate_prepared(x, [prepared], [((padding, padding),) * 2])
        return y
    elif (self.size, self.stride) == (3, 2) and winograd.saves(kernel):
      prepared = _for_cpu(self, lambda: winograd.prepare_strided(kernel))
      few_pixels = pixels.fewer_than(x, 4 * winograd.FEW_PIXELS)
      if prepared is not None and winograd.divides(x, 2) and not few_pixels:
        return winograd.correlate_strided(x, prepared)
    return convolution.convolve(x, kernel, self.stride, padding)


class Deconv(nn.Module):
  """4x4 transposed convolution, stride 2, padding 1, no bias: doubles height and width."""

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    shape = (4, 4, self.features, x.shape[-1])
    kernel = self.param('kernel', decoder_init, shape, jnp.float32).astype(self.dtype)
    x = x.astype(self.dtype)
    few_pixels = pixels.fewer_than(x, winograd.FEW_PIXELS)
    if winograd.saves(kernel):
      phases = convolution.phases_of(kernel, 2, 1)
      prepared = _for_cpu(self, lambda: [winograd.prepare(k, few=False) for k, _ in phases])
      if prepared is not None and winograd.divides(x) and not few_pixels:
        found = winograd.correlate_prepared(x, prepared, [pads for _, pads in phases])
        return pixels.interleave(found, 2)
    return convolution.convolve_transposed(x, kernel, 2, 1, (2 * x.shape[1], 2 * x.shape[2]))


def _for_cpu(module, make):
  """What `pose_network.prepare_for_cpu` stores beside a module's kernel; None where it did not."""
  if module.is_initializing() or module.dtype != jnp.float32:
    return None
  if module.has_variable(FOR_CPU, 'kernel') or module.is_mutable_collection(FOR_CPU):
    return module.variable(FOR_CPU, 'kernel', make).value
  return None


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
