"""Keypoints to heatmaps and back. A codec is a pair of both, and the geometry that belongs to it.

| codec | targets | pixels of crop and heatmap | decoding | mirrored heatmaps |
|---|---|---|---|---|
| `Codec`, the paper's | Gaussian around the nearest pixel | sides of n | quarter offset | shifted |
| `DarkCodec` | Gaussian around the keypoint | sides of n | Taylor step | shifted |
| `UdpCodec` | Gaussian around the keypoint | sides of n - 1 | Taylor step | in place |
"""

import dataclasses

import jax
import numpy as np
from jax import numpy as jnp

from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp

OFFSETS = ('quarter', 'dark', 'none')
FARTHEST_STEP = 2.0  # heatmap pixels, of the Taylor step


@dataclasses.dataclass(frozen=True)
class Codec:
  """One Gaussian per keypoint (Tompson et al. 2014, as in SimpleBaseline), and its inverse.

  Attributes:
    image_size: (height, width) of the network's input.
    heatmap_size: (height, width) of the heatmaps, a quarter of it.
    sigma: standard deviation of the Gaussian in heatmap pixels.
    offset: how decoding refines a peak. 'quarter' moves it a quarter of a pixel towards its higher
      neighbour (paper section IV-A, Testing); 'dark' moves it to the maximum of a quadratic
      function that fits the logarithm of the smoothed heatmap (DARK: Zhang et al., CVPR 2020,
      section 3.2); 'none' leaves it on its pixel.
  """

  image_size: tuple[int, int]
  heatmap_size: tuple[int, int]
  sigma: float = 2.0
  offset: str = 'quarter'

  def __post_init__(self):
    if self.offset not in OFFSETS:
      raise ValueError(f'offset {self.offset!r}: use one of {", ".join(OFFSETS)}')
    if self.sigma <= 0:
      raise ValueError(f'sigma {self.sigma}: must be positive')

  @property
  def crop_extent(self) -> tuple[int, int]:
    """(height, width) of the crop in pixels, the size that a region is mapped to."""
    return self.image_size

  @property
  def heatmap_extent(self) -> tuple[int, int]:
    """(height, width) of the heatmap in its pixels, the size that `crop_extent` is mapped to."""
    return self.heatmap_size

  def region_to_crop(self, center, size, rotation=0.0, flip=False):
    """Matrix [.., 2, 3] from image xy to pixels of the crop, see `geometry.region_to_crop`."""
    return geometry.region_to_crop(center, size, self.crop_extent, rotation, flip)

  def heatmap_to_image(self, points, center, size):
    """Maps [.., K, 2] xy in heatmap pixels to image pixels, for the crop of an upright region."""
    height, width = np.divide(self.crop_extent, self.heatmap_extent, dtype=np.float32)
    on_crop = jnp.stack([points[..., 0] * width, points[..., 1] * height], -1)
    return geometry.heatmap_to_image(on_crop, center, size, self.crop_extent)

  def flip(self, heatmaps: jax.Array, flip_pairs) -> jax.Array:
    """Mirrors the heatmaps [.., H, W, K] of a mirrored crop back, see `flip_heatmaps`."""
    return flip_heatmaps(heatmaps, flip_pairs)

  def rescale(self, heatmaps: jax.Array, scale: float) -> jax.Array:
    """Brings heatmaps [N, H, W, K] of regions of `scale` times the size to those of the regions.

    Pixels outside the larger regions are zero. Heatmaps of several scales can then be averaged, as
    HigherHRNet does (Cheng et al., CVPR 2020).
    """
    height, width = self.heatmap_extent
    shift = 0.5 * (1.0 - scale) * np.array([width, height])
    matrix = np.concatenate([scale * np.eye(2), shift[:, None]], 1, dtype=np.float32)
    matrices = jnp.broadcast_to(matrix, (heatmaps.shape[0], 2, 3))
    return warp.scale_and_shift(heatmaps, matrices, self.heatmap_size)

  def encode(self, keypoints: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws target heatmaps.

    Args:
      keypoints: [..., K, 2] x, y in pixels of the network's input.
      visible: [..., K], above 0 where the keypoint is labelled.

    Returns:
      heatmaps [..., H, W, K], Gaussians of height 1, and weights [..., K]: 1, or 0 where the
      keypoint is not labelled or lies more than 3 sigma outside the heatmap (those heatmaps are
      zero).
    """
    keypoints = jnp.asarray(keypoints, jnp.float32)
    rows, in_rows = self._profile(keypoints[..., 1], axis=0)  # [..., H, K], [..., K]
    columns, in_columns = self._profile(keypoints[..., 0], axis=1)
    weights = ((visible > 0) & in_rows & in_columns).astype(jnp.float32)
    rows *= weights[..., None, :]
    return rows[..., :, None, :] * columns[..., None, :, :], weights

  def _profile(self, position, axis):
    """The Gaussians along one axis, [..., size, K], and whether each touches the heatmap."""
    size = self.heatmap_size[axis]
    radius = int(3 * self.sigma)
    center = self._on_heatmap(position, axis)
    pixels = jnp.arange(size, dtype=jnp.float32).reshape((1,) * (center.ndim - 1) + (size, 1))
    distance = pixels - center[..., None, :]
    gaussian = jnp.exp(-jnp.square(distance) / (2 * self.sigma**2))
    touches = (center - radius < size) & (center + radius + 1 >= 0)
    return self._cut(gaussian, distance, radius), touches

  def _on_heatmap(self, position, axis):
    """Centre of the Gaussian along one axis, in heatmap pixels: here the nearest pixel."""
    # The released code rounds like this: towards zero, after adding a half.
    return jnp.trunc(position * (self.heatmap_size[axis] / self.image_size[axis]) + 0.5)

  def _cut(self, gaussian, distance, radius):
    """The paper's targets are zero beyond 3 sigma."""
    return jnp.where(jnp.abs(distance) <= radius, gaussian, 0.0)

  def decode(self, heatmaps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the peaks of heatmaps.

    Args:
      heatmaps: [..., H, W, K].

    Returns:
      keypoints [..., K, 2] x, y in heatmap pixels, and scores [..., K], the heights of the peaks. A
      keypoint whose heatmap is nowhere positive is at (0, 0).
    """
    heatmaps = jnp.asarray(heatmaps)
    # First the row of the peak, then the pixel in it: reductions along one axis are fast.
    rows = heatmaps.max(-2)  # [..., H, K]
    y = rows.argmax(-2)  # [..., K]
    row = jnp.take_along_axis(heatmaps, y[..., None, None, :], -3)[..., 0, :, :]  # [..., W, K]
    x = row.argmax(-2)
    scores = row.max(-2)
    keypoints = jnp.stack([x, y], -1).astype(jnp.float32)
    if self.offset == 'quarter':
      keypoints += _quarter_offset(heatmaps, x, y)
    elif self.offset == 'dark':
      keypoints += _taylor_offset(_smooth(heatmaps, self.sigma), x, y)
    return jnp.where(scores[..., None] > 0, keypoints, 0.0), scores


@dataclasses.dataclass(frozen=True)
class DarkCodec(Codec):
  """Unbiased targets and decoding (DARK: Zhang et al., CVPR 2020, section 3).

  The Gaussians lie around the keypoints themselves, not around the nearest pixel, and are not cut
  off (section 3.3); peaks are refined by a Taylor expansion (section 3.2).
  """

  offset: str = 'dark'

  def _on_heatmap(self, position, axis):
    return position * (self.heatmap_extent[axis] / self.crop_extent[axis])

  def _cut(self, gaussian, distance, radius):
    return gaussian


@dataclasses.dataclass(frozen=True)
class UdpCodec(DarkCodec):
  """Unbiased data processing (UDP: Huang et al., CVPR 2020) with Gaussian targets.

  Sizes are distances between the first and the last pixel centre, n - 1 for n pixels, so the crop,
  its mirror image and their heatmaps are related exactly, and mirrored heatmaps need no shift
  (sections 3.1 and 3.2).
  """

  @property
  def crop_extent(self):
    return self.image_size[0] - 1, self.image_size[1] - 1

  @property
  def heatmap_extent(self):
    return self.heatmap_size[0] - 1, self.heatmap_size[1] - 1

  def flip(self, heatmaps, flip_pairs):
    return flip_heatmaps(heatmaps, flip_pairs, shift=False)


CODECS = {'paper': Codec, 'dark': DarkCodec, 'udp': UdpCodec}


def flip_heatmaps(heatmaps: jax.Array, flip_pairs, shift: bool = True) -> jax.Array:
  """Mirrors heatmaps of a mirrored image back.

  Args:
    heatmaps: [..., H, W, K] of the mirrored image.
    flip_pairs: pairs of keypoints that change places, e.g. `skeletons.COCO.flip_pairs`.
    shift: move them one pixel to the right (column 0 stays), as the released code's test does. At a
      stride of 4 the mirrored grid is off by a part of a pixel.
  """
  order = skeletons.flip_order(flip_pairs, heatmaps.shape[-1])
  flipped = jnp.asarray(heatmaps)[..., ::-1, order]
  if shift:
    flipped = jnp.concatenate([flipped[..., :1, :], flipped[..., :-1, :]], -2)
  return flipped


def _values_around(heatmaps, x, y):
  """Returns a function of (dx, dy): the values [..., K] at this distance from the peaks."""
  height, width, num_keypoints = heatmaps.shape[-3:]
  flat = heatmaps.reshape(*heatmaps.shape[:-3], height * width, num_keypoints)
  peak = y * width + x

  def value(dx, dy):
    index = jnp.clip(peak + dy * width + dx, 0, height * width - 1)
    return jnp.take_along_axis(flat, index[..., None, :], -2)[..., 0, :]

  return value


def _quarter_offset(heatmaps, x, y):
  """A quarter of a pixel from each peak [..., K] towards the higher neighbour: [..., K, 2]."""
  height, width, _ = heatmaps.shape[-3:]
  value = _values_around(heatmaps, x, y)
  slope = jnp.stack([value(1, 0) - value(-1, 0), value(0, 1) - value(0, -1)], -1)
  # As in the released code, peaks on the first two rows and columns or on the last stay.
  inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
  return jnp.where(inside[..., None], 0.25 * jnp.sign(slope), 0.0)


def _taylor_offset(heatmaps, x, y):
  """-H^-1 g of the log-heatmaps at the peaks [..., K], equation 7 of DARK: [..., K, 2].

  The gradient g and the Hessian H are central differences, which are exact for a Gaussian. Peaks on
  the border, and those where the Hessian has no maximum, stay. No peak moves by more than
  FARTHEST_STEP along an axis: where a heatmap is nearly flat, H is a rounding error.
  """
  height, width, _ = heatmaps.shape[-3:]
  value = _values_around(jnp.log(jnp.maximum(heatmaps, 1e-10)), x, y)
  middle = value(0, 0)
  g_x, g_y = (value(1, 0) - value(-1, 0)) / 2, (value(0, 1) - value(0, -1)) / 2
  h_xx = value(1, 0) - 2 * middle + value(-1, 0)
  h_yy = value(0, 1) - 2 * middle + value(0, -1)
  h_xy = (value(1, 1) - value(1, -1) - value(-1, 1) + value(-1, -1)) / 4
  determinant = h_xx * h_yy - h_xy * h_xy
  inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
  has_maximum = inside & (h_xx < 0) & (determinant > 0)
  determinant = jnp.where(has_maximum, determinant, 1.0)
  offset = jnp.stack([h_xy * g_y - h_yy * g_x, h_xy * g_x - h_xx * g_y], -1)
  offset = jnp.clip(offset / determinant[..., None], -FARTHEST_STEP, FARTHEST_STEP)
  return jnp.where(has_maximum[..., None], offset, 0.0)


def _smooth(heatmaps, sigma):
  """Convolves heatmaps [..., H, W, K] with a Gaussian that is cut off at 4 sigma; zero outside."""
  rows, columns = (smoothing_matrix(size, sigma) for size in heatmaps.shape[-3:-1])
  return jnp.einsum('yh,xw,...hwk->...yxk', rows, columns, heatmaps, precision='highest')


def smoothing_matrix(size: int, sigma: float) -> np.ndarray:
  """[size, size] float32, which convolves a row with a Gaussian that is cut off at 4 sigma."""
  distance = np.subtract.outer(np.arange(size), np.arange(size))
  kernel = np.exp(-np.square(distance) / (2 * sigma**2)) * (np.abs(distance) <= 4 * sigma)
  return np.float32(kernel / (sigma * np.sqrt(2 * np.pi)))
