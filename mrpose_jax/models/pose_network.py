"""The whole network: images in, heatmaps out."""

import difflib

import jax
from flax import linen as nn
from flax import traverse_util
from jax import lax
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
  width: int = 64
  dtype: jnp.dtype = jnp.float32
  norm_groups: int = 1
  remat: bool = False
  deterministic: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Heatmaps of normalised images.

    Args:
      images: [N, H, W, 3] normalised RGB; H and W multiples of 32.
      train: normalise by the batch's statistics and update the running ones (collection
        'batch_stats', which must then be mutable).

    Returns:
      [N, H/4, W/4, K] float32.

    Raises:
      ValueError: the image size is no multiple of 32, or the batch none of norm_groups.
    """
    height, width = images.shape[1:3]
    if height % 32 or width % 32:
      raise ValueError(f'image size {height}x{width}: both must be multiples of 32')
    if train and images.shape[0] % self.norm_groups:
      raise ValueError(f'{images.shape[0]} images: no multiple of {self.norm_groups} norm_groups')
    encoder = resnet.ResNet(
      self.depth,
      self.width,
      self.dtype,
      self.norm_groups,
      self.remat,
      self.deterministic,
      name='encoder',
    )
    encoded = encoder(images, train)
    decoder, variant = decoders.DECODERS[self.network]
    heatmaps = decoder(
      num_keypoints=self.num_keypoints,
      features=resnet.stage_features(self.depth, self.width),
      deconv_features=4 * self.width,
      dtype=self.dtype,
      norm_groups=self.norm_groups,
      remat=self.remat,
      name='decoder',
      **variant,
    )(encoded, train)
    return heatmaps.astype(jnp.float32)


def create_model(
  name: str,
  depth: int = 50,
  num_keypoints: int = 17,
  dtype: str = 'float32',
  width: int = 64,
  norm_groups: int = 1,
  remat: bool = False,
  deterministic: bool = False,
) -> PoseNetwork:
  """One of the paper's networks as a Flax module.

  Args:
    name: 'simple_baseline', 'mrheatnet1', 'mrheatnet2', 'mrfeanet1' or 'mrfeanet2'.
    depth: of the ResNet: 18, 34, 50, 101 or 152.
    num_keypoints: K, heatmaps to predict.
    dtype: of the computation, 'float32' or 'bfloat16'; parameters, statistics and heatmaps stay
      float32.
    width: channels of the stem, 64 in the paper; less for small runs.
    norm_groups: parts of a training batch with statistics of their own, see `layers.BatchNorm`.
    remat: less memory in training for more arithmetic, see `resnet.ResNet`.
    deterministic: a max-pool for XLA's deterministic mode, see `pooling.max_pool`.

  Raises:
    ConfigError: a value that is none of these; a misspelt name is told the nearest.
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
  for what, number in (
    ('num_keypoints', num_keypoints),
    ('width', width),
    ('norm_groups', norm_groups),
  ):
    if number < 1:
      raise errors.ConfigError(f'{what}={number}: must be positive')
  return PoseNetwork(
    name, depth, num_keypoints, width, jnp.dtype(dtype), norm_groups, remat, deterministic
  )


def fold_batch_norm(variables: dict) -> dict:
  """The same network for prediction, with its running statistics in the convolutions' kernels.

  Each batch norm of a convolution y is factor y + shift then; the factor goes into the kernel, and
  the norm keeps the shift as its only parameter.

  Args:
    variables: 'params' and 'batch_stats' of a `PoseNetwork`.

  Returns:
    {'params'}, for the same `PoseNetwork` with train=False.
  """
  params, stats = (traverse_util.flatten_dict(variables[c]) for c in ('params', 'batch_stats'))
  for *path, name in list(params):
    if name != 'scale':
      continue
    norm = tuple(path)
    conv = *norm[:-1], norm[-1].replace('norm', 'conv')
    factor = params.pop((*norm, 'scale')) * lax.rsqrt(stats[*norm, 'var'] + layers.EPSILON)
    shift = params[*norm, 'bias'] - stats[*norm, 'mean'] * factor
    transposed = 'up' in norm[-2]  # of a layers.Up: [kh, kw, output, input]
    kernel = params[*conv, 'kernel']
    params[*conv, 'kernel'] = kernel * factor.reshape(
      (1, 1, -1, 1) if transposed else (1, 1, 1, -1)
    )
    if (*conv, 'bias') in params:
      shift += params[*conv, 'bias'] * factor
      params[*conv, 'bias'] = jnp.zeros_like(shift)
    params[*norm, 'bias'] = shift
  return {'params': traverse_util.unflatten_dict(params)}


def prepare_for_cpu(model: PoseNetwork, variables: dict) -> dict:
  """Stores kernels as predictions on a CPU read them best, beside those that are there.

  1x1 kernels are transposed; those of 3x3 convolutions and of deconvolutions are transformed by
  Winograd's rule. A network of bfloat16 has none of them.

  Args:
    model, variables: a network, and its variables from `fold_batch_norm`.

  Returns:
    {'params', 'for_cpu'}, for the same network with train=False on a CPU, in programs of any image
    and batch size.
  """
  images = jnp.zeros((1, 64, 64, 3))  # the kernels do not depend on them
  _, stored = model.apply(variables, images, train=False, mutable=[layers.FOR_CPU])
  return {**variables, **stored}
