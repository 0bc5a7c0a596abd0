"""Patches -> network inputs, on the accelerator, by a single affine resampling per person."""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import photometric
from mrpose_jax.input_pipeline.device import warp

# ImageNet's RGB mean and standard deviation in units of 0..1, as torchvision's weights expect.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


# Half-body augmentation (HRNet's code: Sun et al., CVPR 2019; MMPose's RandomHalfBody): the upper
# half is preferred with this probability, and its extent is enlarged by this factor.
UPPER_PROBABILITY = 0.7
HALF_BODY_PADDING = 1.5
# A half needs this number of labelled keypoints.
FEWEST_OF_HALF = 3
# Smallest and largest side of a rectangle of coarse dropout, as a fraction of the crop's side
# (RTMPose: Jiang et al. 2023, arXiv 2303.07399).
DROPOUT_SIDES = (0.2, 0.4)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random variation of the training crops.

  Attributes:
    rotation: in degrees.
    scale: as a fraction of the region's size.
    flip: probability of mirroring; None is 0.5 where flip pairs are known, else 0, see
      `Skeleton.mirroring`.
    draw: distribution of rotation and scale. 'uniform' is uniform in +-rotation and +-scale (the
      paper's text). 'normal' uses them as standard deviations and clips at 2 rotation and 1 scale
      (the released code).
    rotation_probability: probability that a crop is rotated at all; None is 1 for 'uniform', and
      0.6 for 'normal', as in the released code.
    scale_range: (smallest, largest) factor on the region's size, drawn uniformly in the place of
      `scale`; () for none. MMPose uses (0.5, 1.5), RTMPose (0.6, 1.4).
    shift: the region's centre moves by up to this fraction of the region's size along each axis.
      MMPose moves it by up to 0.16 with probability 0.3; here every crop is moved.
    half_body: probability that only the upper or lower half of a person with more than half of its
      keypoints labelled is cropped (Wang et al. 2018, COCO keypoint challenge).
    brightness, contrast, saturation, hue: see `photometric.draw`.
    dropout: probability that a rectangle of the crop becomes the mean colour (coarse dropout; AID:
      Huang et al. 2020, arXiv 2008.07139).
  """

  rotation: float
  scale: float
  flip: float | None
  draw: str
  rotation_probability: float | None = None
  scale_range: tuple[float, ...] = ()
  shift: float = 0.0
  half_body: float = 0.0
  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0
  dropout: float = 0.0

  def __post_init__(self):
    if self.draw not in ('uniform', 'normal'):
      raise ValueError(f"augment.draw {self.draw!r}: use 'uniform' or 'normal'")
    for name in ('rotation_probability', 'half_body', 'dropout', 'flip'):
      value = getattr(self, name)
      if value is not None and not 0 <= value <= 1:
        raise ValueError(f'augment.{name}={value}: a probability is needed, 0 to 1')
    limits = {'scale': 1, 'brightness': 1, 'contrast': 1, 'saturation': 1, 'hue': 0.5, 'shift': 1}
    for name, limit in limits.items():
      if not 0 <= getattr(self, name) <= limit:
        raise ValueError(f'augment.{name}={getattr(self, name)}: must be 0 to {limit}')
    if self.scale == 1:
      raise ValueError('augment.scale=1: must be below 1, or some crops have no size')
    bounds = self.scale_range
    are_numbers = all(isinstance(bound, int | float) for bound in bounds)
    if bounds and not (are_numbers and len(bounds) == 2 and 0 < bounds[0] <= bounds[1]):
      raise ValueError(f'augment.scale_range={bounds}: give (smallest, largest), above 0, or ()')
    if bounds and self.draw != 'uniform':
      raise ValueError("augment.scale_range: is drawn uniformly, so augment.draw must be 'uniform'")

  @property
  def largest_scale(self) -> float:
    """Fraction by which the region may grow."""
    return max(self.scale_range[1] - 1, 0.0) if self.scale_range else self.scale


class Draw(NamedTuple):
  """Random values per person; those of an augmentation that is off are None.

  Attributes:
    scale: [N] factors on the region's size.
    rotation: [N] in degrees.
    flip: [N] bool.
    shift: [N, 2] xy, fractions of the region's size.
    half_body: [N] int32: 0 for the whole person, 1 preferably the upper half, 2 the lower half.
    colour: [N, 4], see `photometric.draw`.
    dropout: [N, 4] rectangle that is dropped: left, top, right, bottom, fractions of the crop's
      sides; empty where nothing is dropped.
  """

  scale: jax.Array
  rotation: jax.Array
  flip: jax.Array
  shift: jax.Array | None = None
  half_body: jax.Array | None = None
  colour: jax.Array | None = None
  dropout: jax.Array | None = None


def draw(key: jax.Array, n: int, augmentation: Augmentation) -> Draw:
  """Draws values for n people; a key gives the same values on every platform and sharding."""
  scale_key, rotation_key, rotate_key, flip_key = jax.random.split(key, 4)
  probability = augmentation.rotation_probability
  if augmentation.draw == 'uniform':
    scale = jax.random.uniform(scale_key, (n,), jnp.float32, minval=-1.0, maxval=1.0)
    rotation = jax.random.uniform(rotation_key, (n,), jnp.float32, minval=-1.0, maxval=1.0)
  else:
    scale = jnp.clip(jax.random.normal(scale_key, (n,), jnp.float32), -1.0, 1.0)
    rotation = jnp.clip(jax.random.normal(rotation_key, (n,), jnp.float32), -2.0, 2.0)
    probability = 0.6 if probability is None else probability
  if probability is not None:
    rotated = jax.random.bernoulli(rotate_key, jnp.float32(probability), (n,))
    rotation *= rotated.astype(jnp.float32)
  if augmentation.scale_range:
    low, high = augmentation.scale_range
    scale = 0.5 * (low + high) + 0.5 * (high - low) * scale
  else:
    scale = 1.0 + augmentation.scale * scale
  drawn = Draw(
    scale=scale,
    rotation=augmentation.rotation * rotation,
    flip=jax.random.bernoulli(flip_key, jnp.float32(augmentation.flip), (n,)),
  )
  # Each further augmentation has a key that does not depend on which of the others are on.
  shift_key, half_key, colour_key, dropout_key = jax.random.split(jax.random.fold_in(key, 1), 4)
  if augmentation.shift:
    shift = jax.random.uniform(shift_key, (n, 2), jnp.float32, minval=-1.0, maxval=1.0)
    drawn = drawn._replace(shift=augmentation.shift * shift)
  if augmentation.half_body:
    is_half, is_upper = jax.random.uniform(half_key, (2, n), jnp.float32)
    half = jnp.where(is_upper < UPPER_PROBABILITY, 1, 2)
    half = jnp.where(is_half < augmentation.half_body, half, 0)
    drawn = drawn._replace(half_body=half.astype(jnp.int32))
  if any(
    (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
  ):
    drawn = drawn._replace(colour=photometric.draw(colour_key, n, augmentation))
  if augmentation.dropout:
    drawn = drawn._replace(dropout=_draw_rectangles(dropout_key, n, augmentation.dropout))
  return drawn


def _draw_rectangles(key, n, probability):
  """Rectangles [N, 4] in fractions of the crop's sides; empty where nothing is dropped."""
  key, dropped_key = jax.random.split(key)
  side, position = jax.random.uniform(key, (2, n, 2), jnp.float32)
  smallest, largest = DROPOUT_SIDES
  side = smallest + (largest - smallest) * side
  dropped = jax.random.bernoulli(dropped_key, jnp.float32(probability), (n, 1))
  side = jnp.where(dropped, side, 0.0)
  low = position * (1.0 - side)
  return jnp.concatenate([low, low + side], -1)


def crop_people(
  batch, drawn: Draw | None, codec, skeleton: skeletons.Skeleton, channel_order: str = 'rgb'
):
  """Returns the network's inputs, and the keypoints in their pixels.

  Args:
    batch: PersonBatch.
    drawn: from `draw`, or None for no augmentation.
    codec: from `mrpose_jax.codecs`; it decides the size and the geometry of the crops.
    skeleton: the keypoints of the batch.
    channel_order: 'rgb', or 'bgr' for weights that were trained with it.

  Returns:
    inputs [N, height, width, 3] float32 normalised, keypoints [N, K, 2] in their pixels, and
    visible [N, K].
  """
  center, size, rotation, flip = batch.center, batch.size, 0.0, False
  if drawn is not None:
    if drawn.half_body is not None:
      center, size = _half_body(batch, drawn.half_body, skeleton)
    if drawn.shift is not None:
      center = center + drawn.shift * size
    size, rotation, flip = size * drawn.scale[:, None], drawn.rotation, drawn.flip
  image_to_crop = codec.region_to_crop(center, size, rotation, flip)
  patch_to_crop = geometry.compose(image_to_crop, _patch_to_image(batch.origin, batch.zoom))
  if drawn is None:
    crops = warp.scale_and_shift(batch.patches, patch_to_crop, codec.image_size)
  else:
    # A training patch shows the diagonal of the largest possible region in at most `canvas` pixels;
    # the one per cent allows for rounding to whole pixels.
    canvas = max(batch.patches.shape[1:3])
    max_step = 1.01 * canvas / math.hypot(*codec.crop_extent)
    crops = warp.affine(batch.patches, patch_to_crop, codec.image_size, max_step)
    if drawn.colour is not None:
      crops = photometric.adjust(crops, drawn.colour)
  inputs = normalize(crops, channel_order)
  keypoints, visible = geometry.transform(image_to_crop, batch.keypoints), batch.visible
  if drawn is not None:
    if drawn.dropout is not None:
      inputs = _drop(inputs, drawn.dropout)
    flip_order = skeletons.flip_order(skeleton.flip_pairs, skeleton.num_keypoints)
    keypoints = jnp.where(flip[:, None, None], keypoints[:, flip_order], keypoints)
    visible = jnp.where(flip[:, None], visible[:, flip_order], visible)
  return inputs, keypoints, visible


def _half_body(batch, half, skeleton):
  """Centre [N, 2] and size [N, 2] of the regions, around half of the person where one is drawn."""
  lower = np.array(skeleton.lower_body())[None]
  labelled = batch.visible > 0
  enough = 2 * labelled.sum(-1) > skeleton.num_keypoints
  has_upper = (labelled & ~lower).sum(-1) >= FEWEST_OF_HALF
  has_lower = (labelled & lower).sum(-1) >= FEWEST_OF_HALF
  takes_upper = has_upper & ((half == 1) | ~has_lower)
  chosen = labelled & jnp.where(takes_upper[:, None], ~lower, lower)
  center, size = geometry.keypoint_region(batch.keypoints, chosen, batch.size, HALF_BODY_PADDING)
  is_half = ((half > 0) & enough & (has_upper | has_lower))[:, None]
  return jnp.where(is_half, center, batch.center), jnp.where(is_half, size, batch.size)


def _drop(inputs, rectangles):
  """Sets the pixels of normalised inputs in the rectangles to zero, which is the mean colour."""
  _, height, width, _ = inputs.shape
  left, top, right, bottom = (edge[:, None] for edge in rectangles.T)
  columns = jnp.arange(width, dtype=jnp.float32)[None] + 0.5
  rows = jnp.arange(height, dtype=jnp.float32)[None] + 0.5
  in_columns = (columns >= left * width) & (columns < right * width)  # [N, width]
  in_rows = (rows >= top * height) & (rows < bottom * height)
  dropped = in_rows[:, :, None, None] & in_columns[:, None, :, None]
  return jnp.where(dropped, 0.0, inputs)


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
