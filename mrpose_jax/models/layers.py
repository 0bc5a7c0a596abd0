"""Layers in the form that the paper's networks need."""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models import linear_maps

MOMENTUM, EPSILON = 0.9, 1e-5  # of batch normalisation

# He et al. 2015 with the fan-out, as torchvision initialises its ResNets.
encoder_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# SimpleBaseline's initialisation of every layer after the encoder.
decoder_init = nn.initializers.normal(0.001)

conv = functools.partial(nn.Conv, use_bias=False, kernel_init=encoder_init)
# Doubles height and width; 'SAME' is PyTorch's padding of 1 here.
deconv = functools.partial(
  linear_maps.Deconv,
  kernel_size=(4, 4),
  strides=(2, 2),
  padding='SAME',
  transpose_kernel=True,
  use_bias=False,
  kernel_init=decoder_init,
)


class BatchNorm(nn.Module):
  """Batch normalisation over N, H, W as PyTorch defines it, with float32 statistics.

  It differs from flax.linen.BatchNorm in two ways. The running variance takes the unbiased estimate
  n / (n - 1), as in the released checkpoints. And the batch is normalised in `groups` equal parts
  of neighbouring examples: where each device holds whole groups, no statistics travel.
  """

  use_running_average: bool
  groups: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, features, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, features, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, features, jnp.float32)
    groups = 1 if self.use_running_average else self.groups
    x32 = x.astype(jnp.float32)
    if groups > 1:
      x32 = x32.reshape(groups, -1, *x.shape[1:])
    axes = tuple(range(x32.ndim - 4, x32.ndim - 1))  # all but groups and channels
    if self.use_running_average:
      mean, var = running_mean.value, running_var.value  # [C]
    else:
      mean = x32.mean(axes)  # [C], or [groups, C]
      var = jnp.maximum(jnp.square(x32).mean(axes) - jnp.square(mean), 0.0)
      if not self.is_initializing():
        n = x.size // x.shape[-1] // groups
        batch_mean, batch_var = (s.reshape(groups, -1).mean(0) for s in (mean, var))
        batch_var *= n / max(n - 1, 1)
        running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * batch_mean
        running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * batch_var
    scale, bias = (p.reshape((1,) * (mean.ndim - 1) + p.shape) for p in (scale, bias))
    factor = scale * lax.rsqrt(var + EPSILON)
    shift = bias - mean * factor
    y = x32 * jnp.expand_dims(factor, axes) + jnp.expand_dims(shift, axes)
    return y.reshape(x.shape).astype(x.dtype)


class Up(nn.Module):
  """Transposed convolution, batch norm and ReLU: [N, H, W, C] -> [N, 2H, 2W, features]."""

  features: int
  deconv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.deconv(self.features, name='conv')(x)
    return nn.relu(self.norm(name='norm')(x))


class HeatmapHead(nn.Module):
  """1x1 convolution with bias to one heatmap per keypoint: [N, H, W, C] -> [N, H, W, K].

  Its output is float32 regardless of `dtype`: bfloat16 is too coarse to locate a peak.
  """

  num_keypoints: int
  dtype: jnp.dtype = jnp.float32
  precision: str = 'default'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (1, 1, x.shape[-1], self.num_keypoints)
    kernel = self.param('kernel', decoder_init, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.num_keypoints,), jnp.float32)
    x, kernel = x.astype(self.dtype), kernel[0, 0].astype(self.dtype)
    return linear_maps.matmul_float32(self.precision, x, kernel) + bias.reshape(1, 1, 1, -1)


class MaxPool(nn.Module):
  """Max-pool of 3x3 with stride 2 and padding 1, for even H and W.

  The first of several equal maxima receives the gradient. With `deterministic` it does so without
  select_and_scatter, which XLA refuses in its deterministic mode for GPUs.
  """

  deterministic: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if not self.deterministic:
      return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    height, width = x.shape[1:3]
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = jnp.pad(x, edges, constant_values=-jnp.inf)
    taps = [padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return functools.reduce(lambda first, next_: jnp.where(first >= next_, first, next_), taps)
