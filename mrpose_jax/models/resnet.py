"""ResNet encoder (He et al. 2016), v1.5: a bottleneck's stride is on its 3x3 convolution."""

import jax
from flax import linen as nn
from jax import numpy as jnp

from mrpose_jax.models import convolution
from mrpose_jax.models import layers
from mrpose_jax.models import pooling

# Blocks in each of the four stages, and whether they are bottlenecks.
STAGES = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
}


def stage_features(depth: int, width: int) -> int:
  """C, the channels of c2: 4 x width for bottlenecks, width for basic blocks."""
  return width * (4 if STAGES[depth][1] else 1)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut (depths 18 and 34)."""

  features: int
  stride: int
  dtype: jnp.dtype
  norm_groups: int

  @nn.compact
  def __call__(self, x, train: bool):
    conv1 = layers.Conv(self.features, 3, self.stride, dtype=self.dtype, name='conv1')
    conv2 = layers.Conv(self.features, 3, dtype=self.dtype, name='conv2')
    y = nn.relu(layers.BatchNorm(self.norm_groups, name='norm1')(conv1(x), train))
    y = layers.BatchNorm(self.norm_groups, name='norm2')(conv2(y), train)
    return _joined(self, y, _shortcut(self, x, train))


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 with a quarter of the channels inside (depths 50, 101, 152)."""

  features: int
  stride: int
  dtype: jnp.dtype
  norm_groups: int

  @nn.compact
  def __call__(self, x, train: bool):
    inner = self.features // 4
    conv1 = layers.Conv(inner, dtype=self.dtype, name='conv1')
    conv2 = layers.Conv(inner, 3, self.stride, dtype=self.dtype, name='conv2')
    conv3 = layers.Conv(self.features, dtype=self.dtype, name='conv3')
    y = nn.relu(layers.BatchNorm(self.norm_groups, name='norm1')(conv1(x), train))
    y = nn.relu(layers.BatchNorm(self.norm_groups, name='norm2')(conv2(y), train))
    y = layers.BatchNorm(self.norm_groups, name='norm3')(conv3(y), train)
    return _joined(self, y, _shortcut(self, x, train))


def _shortcut(block, x, train):
  """The input itself where shapes allow, else a 1x1 projection; modules join the calling block."""
  if x.shape[-1] == block.features and block.stride == 1:
    return x
  x = layers.Conv(block.features, stride=block.stride, dtype=block.dtype, name='shortcut_conv')(x)
  return layers.BatchNorm(block.norm_groups, name='shortcut_norm')(x, train)


def _joined(block, y, shortcut):
  bias = block.variables['params']['norm2']['bias']
  return convolution.rectify(y + shortcut, bias[0])


class ResNet(nn.Module):
  """[N, H, W, 3] -> c2, c3, c4, c5 with C, 2C, 4C, 8C channels at 1/4, 1/8, 1/16, 1/32.

  `remat`: the backward pass computes each stage again rather than keep what it computed.
  `deterministic`: see `pooling.max_pool`.
  """

  depth: int
  width: int = 64
  dtype: jnp.dtype = jnp.float32
  norm_groups: int = 1
  remat: bool = False
  deterministic: bool = False

  @nn.compact
  def __call__(self, x, train: bool) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    counts, bottleneck = STAGES[self.depth]
    block = Bottleneck if bottleneck else BasicBlock
    x = layers.Conv(self.width, 7, 2, dtype=self.dtype, name='stem_conv')(x)
    x = nn.relu(layers.BatchNorm(self.norm_groups, name='stem_norm')(x, train))
    x = pooling.max_pool(x, self.deterministic)

    def run_stage(encoder, x, stage):
      features = stage_features(encoder.depth, encoder.width) * 2**stage
      for i in range(counts[stage]):
        stride = 2 if stage > 0 and i == 0 else 1
        name = f'stage{stage + 1}_block{i + 1}'
        x = block(features, stride, encoder.dtype, encoder.norm_groups, name=name)(x, train)
      return x

    if self.remat:
      run_stage = nn.remat(run_stage, static_argnums=2)
    outputs = []
    for stage in range(len(counts)):
      x = run_stage(self, x, stage)
      outputs.append(x)
    return tuple(outputs)
