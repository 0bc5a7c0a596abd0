"""ResNet encoder (He et al. 2016), v1.5: the stride of a bottleneck is on its 3x3 convolution."""

from collections.abc import Callable

import jax
from flax import linen as nn

from mrpose_jax.models import layers

# Number of blocks in each of the four stages, and whether they are bottlenecks.
STAGES = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
}


def stage_features(depth: int, width: int) -> int:
  """C, the number of channels of c2: 4 x width for bottlenecks, width for basic blocks."""
  return width * (4 if STAGES[depth][1] else 1)


class Block(nn.Module):
  """A residual block: convolutions beside a shortcut."""

  features: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  def shortcut(self, x: jax.Array) -> jax.Array:
    """The block's input, or its 1x1 projection where the shape changes."""
    if x.shape[-1] == self.features and self.stride == 1:
      return x
    # The stride is a slice: the gradient of a strided convolution would write every pixel.
    x = x[:, :: self.stride, :: self.stride]
    x = self.conv(self.features, (1, 1), padding=0, name='shortcut_conv')(x)
    return self.norm(name='shortcut_norm')(x)


class BasicBlock(Block):
  """Two 3x3 convolutions and a shortcut (depths 18 and 34)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.features, (3, 3), self.stride, padding=1, name='conv1')(x)
    y = nn.relu(self.norm(name='norm1')(y))
    y = self.conv(self.features, (3, 3), padding=1, name='conv2')(y)
    y = self.norm(name='norm2')(y)
    return nn.relu(y + self.shortcut(x))


class Bottleneck(Block):
  """1x1, 3x3 and 1x1 convolutions, with a quarter of the channels inside (50, 101, 152)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.features // 4, (1, 1), padding=0, name='conv1')(x)
    y = nn.relu(self.norm(name='norm1')(y))
    y = self.conv(self.features // 4, (3, 3), self.stride, padding=1, name='conv2')(y)
    y = nn.relu(self.norm(name='norm2')(y))
    y = self.conv(self.features, (1, 1), padding=0, name='conv3')(y)
    y = self.norm(name='norm3')(y)
    return nn.relu(y + self.shortcut(x))


class ResNet(nn.Module):
  """[N, H, W, 3] -> c2, c3, c4, c5 with C, 2C, 4C, 8C channels at 1/4, 1/8, 1/16, 1/32.

  `width` is the number of channels of the stem. With `remat`, the backward pass recomputes each
  stage, so that its activations need not be kept. For `deterministic` see `layers.MaxPool`.
  """

  depth: int
  width: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  remat: bool = False
  deterministic: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    num_blocks, bottleneck = STAGES[self.depth]
    block = Bottleneck if bottleneck else BasicBlock
    x = self.conv(self.width, (7, 7), 2, padding=3, name='stem_conv')(x)
    x = nn.relu(self.norm(name='stem_norm')(x))
    x = layers.MaxPool(self.deterministic)(x)

    def run_stage(encoder, x, stage):
      features = stage_features(encoder.depth, encoder.width) * 2**stage
      for i in range(num_blocks[stage]):
        stride = 2 if stage > 0 and i == 0 else 1
        name = f'stage{stage + 1}_block{i + 1}'
        x = block(features, stride, encoder.conv, encoder.norm, name=name)(x)
      return x

    if self.remat:
      run_stage = nn.remat(run_stage, static_argnums=2)
    outputs = []
    for stage in range(len(num_blocks)):
      x = run_stage(self, x, stage)
      outputs.append(x)
    return tuple(outputs)
