"""From the encoder's c2..c5 to K heatmaps: SimpleBaseline and the paper's four decoders.

Each takes (c2, c3, c4, c5) at 1/4, 1/8, 1/16, 1/32 of the image and returns [N, H/4, W/4, K].
`features` is C, the channels of c2; the heatmap decoders use `deconv_features` instead, 256 in the
paper whatever the encoder.
"""

import jax
from flax import linen as nn
from jax import numpy as jnp

from mrpose_jax.models import layers


class Decoder(nn.Module):
  num_keypoints: int
  features: int
  deconv_features: int
  dtype: jnp.dtype = jnp.float32
  norm_groups: int = 1
  remat: bool = False

  def up(self, name: str, features: int) -> layers.Up:
    up = nn.remat(layers.Up, static_argnums=2) if self.remat else layers.Up
    return up(features, self.dtype, self.norm_groups, name=name)

  def to_heatmaps(self, name: str) -> layers.Conv:
    return layers.Conv(
      self.num_keypoints,
      use_bias=True,
      kernel_init=layers.decoder_init,
      dtype=self.dtype,
      name=name,
    )


class SimpleBaseline(Decoder):
  """Three Ups on c5, then heatmaps (paper section II; Xiao et al. 2018)."""

  @nn.compact
  def __call__(self, encoded, train: bool) -> jax.Array:
    x = encoded[-1]
    for name in ('up1', 'up2', 'up3'):
      x = self.up(name, self.deconv_features)(x, train)
    return self.to_heatmaps('head')(x)


class MRHeatNet(Decoder):
  """Heatmaps at each resolution of the deconvolutions (paper section III-A, figure 3).

  `joined`: MRHeatNet1, the lowest resolution joins the middle one before the last deconvolution;
  otherwise MRHeatNet2, each goes up by itself and they meet at the end.
  """

  joined: bool = True

  @nn.compact
  def __call__(self, encoded, train: bool) -> jax.Array:
    d1 = self.up('up1', self.deconv_features)(encoded[-1], train)  # 1/16
    d2 = self.up('up2', self.deconv_features)(d1, train)  # 1/8
    d3 = self.up('up3', self.deconv_features)(d2, train)  # 1/4
    low = self.up('low_up', self.num_keypoints)(self.side('low_side', d1, train), train)  # 1/8
    middle = self.side('middle_side', d2, train)
    middle_up = layers.Deconv(self.num_keypoints, dtype=self.dtype, name='middle_deconv')
    heatmaps = self.to_heatmaps('head')(d3)
    if self.joined:
      return heatmaps + middle_up(middle + low)
    low_up = layers.Deconv(self.num_keypoints, dtype=self.dtype, name='low_deconv')
    return heatmaps + middle_up(middle) + low_up(low)

  def side(self, name, x, train):
    x = self.to_heatmaps(f'{name}_conv')(x)
    return nn.relu(layers.BatchNorm(self.norm_groups, name=f'{name}_norm')(x, train))


class MRFeaNet(Decoder):
  """Each resolution of the encoder goes up to 1/4, and heatmaps come from the mean of the four.

  Paper section III-B, figure 4, which sums the branches; the released code takes their mean.
  `halving`: MRFeaNet2, each Up halves the channels; otherwise MRFeaNet1, each Up gives C.
  """

  halving: bool = False

  @nn.compact
  def __call__(self, encoded, train: bool) -> jax.Array:
    total = encoded[0]
    for level, x in enumerate(encoded[1:], 1):
      for step in range(level):
        features = self.features * (2 ** (level - step - 1) if self.halving else 1)
        x = self.up(f'c{level + 2}_up{step + 1}', features)(x, train)
      total += x
    return self.to_heatmaps('head')(total / len(encoded))


DECODERS = {
  'simple_baseline': (SimpleBaseline, {}),
  'mrheatnet1': (MRHeatNet, {'joined': True}),
  'mrheatnet2': (MRHeatNet, {'joined': False}),
  'mrfeanet1': (MRFeaNet, {'halving': False}),
  'mrfeanet2': (MRFeaNet, {'halving': True}),
}
