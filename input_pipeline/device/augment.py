"""Patches -> network inputs, on the accelerator, by a single affine resampling per person."""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp

# ImageNet's RGB mean and standard deviation in units of 0..1, as torchvision's weights expect.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random variation of the training crops.

  Attributes:
    rotation: in degrees.
    scale: as a fraction of the region's size.
    flip: probability of mirroring; None is 0.5 where flip pairs are known, else 0, see
      `Skeleton.mirroring`.
    draw: distribution of rotation and scale. 'uniform' is uniform in +-rotation and +-scale (the
      paper's text). 'normal' uses them as standard deviations, clips at 2 rotation and 1 scale, and
      rotates with probability 0.6 (the released code).
  """

  rotation: float
  scale: float
  flip: float | None
  draw: str

  def __post_init__(self):
    if self.draw not in ('uniform', 'normal'):
      raise ValueError(f"augment.draw {self.draw!r}: use 'uniform' or 'normal'")


class Draw(NamedTuple):
  """Random values per person: region `scale` [N], `rotation` [N] in degrees, `flip` [N] bool."""

  scale: jax.Array
  rotation: jax.Array
  flip: jax.Array


def draw(key: jax.Array, n: int, augmentation: Augmentation) -> Draw:
  """Draws values for n people; a key gives the same values on every platform and sharding."""
  scale_key, rotation_key, rotate_key, flip_key = jax.random.split(key, 4)
  if augmentation.draw == 'uniform':
    scale = jax.random.uniform(scale_key, (n,), jnp.float32, minval=-1.0, maxval=1.0)
    rotation = jax.random.uniform(rotation_key, (n,), jnp.float32, minval=-1.0, maxval=1.0)
  else:
    scale = jnp.clip(jax.random.normal(scale_key, (n,), jnp.float32), -1.0, 1.0)
    rotation = jnp.clip(jax.random.normal(rotation_key, (n,), jnp.float32), -2.0, 2.0)
    rotation *= jax.random.bernoulli(rotate_key, jnp.float32(0.6), (n,)).astype(jnp.float32)
  flip = jax.random.bernoulli(flip_key, jnp.float32(augmentation.flip), (n,))
  return Draw(1.0 + augmentation.scale * scale, augmentation.rotation * rotation, flip)


def crop_people(batch, drawn: Draw | None, crop_size, flip_order, channel_order: str = 'rgb'):
  """Returns the network's inputs, and the keypoints in their pixels.

  Args:
    batch: PersonBatch.
    drawn: from `draw`, or None for no augmentation.
    crop_size: (height, width) of the network's input.
    flip_order: [K], see `skeletons.flip_order`.
    channel_order: 'rgb', or 'bgr' for weights that were trained with it.

  Returns:
    inputs [N, height, width, 3] float32 normalised, keypoints [N, K, 2] in their pixels, and
    visible [N, K].
  """
  size, rotation, flip = batch.size, 0.0, False
  if drawn is not None:
    size, rotation, flip = size * drawn.scale[:, None], drawn.rotation, drawn.flip
  image_to_crop = geometry.region_to_crop(batch.center, size, crop_size, rotation, flip)
  patch_to_crop = geometry.compose(image_to_crop, _patch_to_image(batch.origin, batch.zoom))
  if drawn is None:
    crops = warp.scale_and_shift(batch.patches, patch_to_crop, crop_size)
  else:
    # A training patch shows the diagonal of the largest possible region in at most `canvas` pixels;
    # the one per cent allows for rounding to whole pixels.
    canvas = max(batch.patches.shape[1:3])
    max_step = 1.01 * canvas / math.hypot(*crop_size)
    crops = warp.affine(batch.patches, patch_to_crop, crop_size, max_step)
  inputs = normalize(crops, channel_order)
  keypoints, visible = geometry.transform(image_to_crop, batch.keypoints), batch.visible
  if drawn is not None:
    keypoints = jnp.where(flip[:, None, None], keypoints[:, flip_order], keypoints)
    visible = jnp.where(flip[:, None], visible[:, flip_order], visible)
  return inputs, keypoints, visible


def normalize(crops: jax.Array, channel_order: str) -> jax.Array:
  """Normalises [.., 3] RGB in 0..255; 'bgr' swaps the channels, but not the statistics."""
  if channel_order == 'bgr':
    crops = crops[..., ::-1]
  mean, std = (jnp.broadcast_to(255 * values, crops.shape) for values in (MEAN, STD))
  return (crops - mean) / std


def to_pixels(crops: np.ndarray, channel_order: str) -> np.ndarray:
  """The inverse of `normalize` for crops [.., H, W, 3], as uint8 RGB."""
  crops = 255 * (crops * STD + MEAN)
  crops = crops[..., ::-1] if channel_order == 'bgr' else crops
  return np.clip(np.rint(crops), 0, 255).astype(np.uint8)


def _patch_to_image(origin, zoom):
  """Matrices [N, 2, 3] of image = origin + (patch + 1/2) / zoom - 1/2, which align pixel areas."""
  linear = jnp.eye(2, dtype=jnp.float32)[None] / zoom[:, None, :]
  shift = origin + 0.5 / zoom - 0.5
  return jnp.concatenate([linear, shift[..., None]], -1)
