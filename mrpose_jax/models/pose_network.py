"""The whole network: images in, heatmaps out."""

import difflib
import functools

import jax
from flax import linen as nn
from jax import numpy as jnp

from mrpose_jax import errors
from mrpose_jax.models import decoders
from mrpose_jax.models import layers
from mrpose_jax.models import resnet


class PoseNetwork(nn.Module):
  """ResNet encoder and one of the five decoders; build it with `create_model`."""

  network: str
  depth: int
  num_keypoints: int
  dtype: jnp.dtype = jnp.float32
  width: int = 64
  norm_groups: int = 1
  remat: bool = False
  deterministic: bool = False
  precision: str = 'default'

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Predicts heatmaps.

    Args:
      images: [N, H, W, 3] normalised RGB; H and W multiples of 32.
      train: normalise by the batch's statistics and update the running ones (collection
        'batch_stats', which must then be mutable).

    Returns:
      [N, H/4, W/4, K] float32.

    Raises:
      ValueError: H or W is not a multiple of 32, or N is not a multiple of norm_groups.
    """
    height, width = images.shape[1:3]
    if height % 32 or width % 32:
      raise ValueError(f'image size {height}x{width}: both must be multiples of 32')
    if train and images.shape[0] % self.norm_groups:
      raise ValueError(f'{images.shape[0]} images: no multiple of {self.norm_groups} norm_groups')

    arithmetic = {'dtype': self.dtype, 'precision': self.precision}
    conv = functools.partial(layers.conv, **arithmetic)
    deconv = functools.partial(layers.deconv, **arithmetic)
    norm = functools.partial(layers.BatchNorm, not train, self.norm_groups)
    up = nn.remat(layers.Up) if self.remat else layers.Up
    encoder = resnet.ResNet(
      self.depth, self.width, conv, norm, self.remat, self.deterministic, name='encoder'
    )
    decoder = decoders.DECODERS[self.network](
      self.num_keypoints,
      deconv_features=4 * self.width,
      deconv=deconv,
      norm=norm,
      up=functools.partial(up, deconv=deconv, norm=norm),
      head=functools.partial(layers.HeatmapHead, self.num_keypoints, **arithmetic),
      name='decoder',
    )
    return decoder(encoder(images))


def create_model(
  name: str,
  depth: int = 50,
  num_keypoints: int = 17,
  dtype: str = 'float32',
  width: int = 64,
  norm_groups: int = 1,
  remat: bool = False,
  deterministic: bool = False,
  precision: str = 'default',
) -> PoseNetwork:
  """One of the paper's networks as a Flax module.

  Args:
    name: 'simple_baseline', 'mrheatnet1', 'mrheatnet2', 'mrfeanet1' or 'mrfeanet2'.
    depth: depth of the ResNet: 18, 34, 50, 101 or 152.
    num_keypoints: K, the number of heatmaps to predict.
    dtype: type that the network computes in, 'float32' or 'bfloat16'. Parameters, statistics and
      heatmaps are always float32.
    width: number of channels of the stem: 64 in the paper, fewer for small runs.
    norm_groups: number of parts of a training batch that are normalised separately, see
      `layers.BatchNorm`.
    remat: recompute each stage and each `layers.Up` in the backward pass, to use less memory.
    deterministic: use a max-pool that XLA's deterministic mode accepts, see `layers.MaxPool`.
    precision: of float32 products on accelerators, see `jax.lax.Precision`. By 'default' they are
      computed in TF32 on recent GPUs and in bfloat16 on TPUs; 'highest' is float32 everywhere.

  Raises:
    ConfigError: any other value. For a misspelt name the message suggests the nearest one.
  """
  if name not in decoders.DECODERS:
    near = difflib.get_close_matches(str(name), decoders.DECODERS, n=1, cutoff=0.0)[0]
    raise errors.ConfigError(
      f'unknown network {name!r}: did you mean {near!r}? (there are {", ".join(decoders.DECODERS)})'
    )
  if depth not in resnet.STAGES:
    raise errors.ConfigError(f'unknown depth {depth!r}: a ResNet has {list(resnet.STAGES)}')
  if dtype not in ('float32', 'bfloat16'):
    raise errors.ConfigError(f"unknown dtype {dtype!r}: use 'float32' or 'bfloat16'")
  if precision not in ('default', 'high', 'highest'):
    raise errors.ConfigError(f"unknown precision {precision!r}: use 'default', 'high' or 'highest'")
  numbers = {'num_keypoints': num_keypoints, 'width': width, 'norm_groups': norm_groups}
  for what, number in numbers.items():
    if number < 1:
      raise errors.ConfigError(f'{what}={number}: must be positive')
  dtype = jnp.dtype(dtype)
  return PoseNetwork(
    name, depth, num_keypoints, dtype, width, norm_groups, remat, deterministic, precision
  )
