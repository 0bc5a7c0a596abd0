"""From the encoder's c2..c5 to K heatmaps: SimpleBaseline and the paper's four decoders.

Each decoder takes (c2, c3, c4, c5) at 1/4, 1/8, 1/16, 1/32 of the image and returns heatmaps
[N, H/4, W/4, K].
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn


class Decoder(nn.Module):
  """The parts of all decoders.

  Attributes:
    num_keypoints: K, the number of heatmaps.
    deconv_features: channels of a deconvolution in the heatmap decoders, 256 in the paper.
    deconv: transposed convolution that doubles height and width, without bias.
    norm, up, head: `layers.BatchNorm`, `layers.Up` and `layers.HeatmapHead`.
  """

  num_keypoints: int
  deconv_features: int
  deconv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  up: Callable[..., nn.Module]
  head: Callable[..., nn.Module]


class SimpleBaseline(Decoder):
  """Three Ups on c5, then heatmaps (paper section II; Xiao et al. 2018)."""

  @nn.compact
  def __call__(self, encoded: tuple[jax.Array, ...]) -> jax.Array:
    x = encoded[-1]
    for name in ('up1', 'up2', 'up3'):
      x = self.up(self.deconv_features, name=name)(x)
    return self.head(name='head')(x)


class MRHeatNet(Decoder):
  """Heatmaps at each resolution of the deconvolutions (paper section III-A, figure 3).

  In MRHeatNet1 (`joined`) the lowest resolution joins the middle one before the last deconvolution.
  In MRHeatNet2 each resolution has a last deconvolution of its own.
  """

  joined: bool = True

  @nn.compact
  def __call__(self, encoded: tuple[jax.Array, ...]) -> jax.Array:
    d1 = self.up(self.deconv_features, name='up1')(encoded[-1])  # 1/16
    d2 = self.up(self.deconv_features, name='up2')(d1)  # 1/8
    d3 = self.up(self.deconv_features, name='up3')(d2)  # 1/4
    low = self.up(self.num_keypoints, name='low_up')(self.side('low_side', d1))  # 1/8
    middle = self.side('middle_side', d2)  # 1/8
    middle_deconv = self.deconv(self.num_keypoints, name='middle_deconv')
    heatmaps = self.head(name='head')(d3)
    if self.joined:
      return heatmaps + middle_deconv(middle + low)
    low_deconv = self.deconv(self.num_keypoints, name='low_deconv')
    return heatmaps + middle_deconv(middle) + low_deconv(low)

  def side(self, name, x):
    """Heatmaps of a lower resolution, with batch norm and ReLU."""
    x = self.head(name=f'{name}_conv')(x)
    return nn.relu(self.norm(name=f'{name}_norm')(x))


class MRFeaNet(Decoder):
  """Each resolution of the encoder goes up to 1/4; heatmaps come from the mean of the four.

  Paper section III-B, figure 4. The text sums the branches, the released code takes their mean.
  In MRFeaNet1 each Up gives C channels. In MRFeaNet2 (`halving`) each Up halves the channels.
  """

  halving: bool = False

  @nn.compact
  def __call__(self, encoded: tuple[jax.Array, ...]) -> jax.Array:
    total = encoded[0]
    for level, x in enumerate(encoded[1:], 1):
      for step in range(level):
        features = encoded[0].shape[-1] * (2 ** (level - step - 1) if self.halving else 1)
        x = self.up(features, name=f'c{level + 2}_up{step + 1}')(x)
      total += x
    return self.head(name='head')(total / len(encoded))


DECODERS = {
  'simple_baseline': SimpleBaseline,
  'mrheatnet1': functools.partial(MRHeatNet, joined=True),
  'mrheatnet2': functools.partial(MRHeatNet, joined=False),
  'mrfeanet1': functools.partial(MRFeaNet, halving=False),
  'mrfeanet2': functools.partial(MRFeaNet, halving=True),
}
