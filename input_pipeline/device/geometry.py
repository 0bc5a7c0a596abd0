"""Boxes -> crop geometry, and back: pure functions of NumPy or JAX arrays.

Pixel centres lie at integers. A region is a rectangle of the image around `center` [.., 2], `size`
[.., 2] (width, height) in pixels; a crop is that region resampled to the network's input. Matrices
[.., 2, 3] map xy points: p' = M[:, :2] p + M[:, 2].
"""

import jax
import numpy as np
from jax import numpy as jnp


def box_to_region(box, aspect: float, padding: float):
  """Returns the region to crop around a person's box.

  The box is extended to the aspect ratio of the network's input and then padded, as in
  SimpleBaseline.

  Args:
    box: [.., 4] x, y, width, height in pixels.
    aspect: width / height of the crop.
    padding: factor on width and height, 1.25 in the paper's recipes.

  Returns:
    center [.., 2] and size [.., 2], in pixels.
  """
  xp = _numpy_of(box)
  x, y, width, height = xp.moveaxis(xp.asarray(box), -1, 0)
  center = xp.stack([x + 0.5 * width, y + 0.5 * height], -1)
  size = xp.stack([xp.maximum(width, height * aspect), xp.maximum(height, width / aspect)], -1)
  return center, size * padding


def keypoint_region(keypoints, chosen, region_size, padding: float):
  """Returns the region to crop around some of a person's keypoints.

  It is centred on the mean of the keypoints, and contains their extent times the padding. Its size
  is at least a quarter of the person's own region, and at most all of it.

  Args:
    keypoints: [.., K, 2] xy in pixels.
    chosen: [.., K] bool, the keypoints to crop around. Where none is chosen, the result is finite,
      but has no meaning.
    region_size: [.., 2] size of the person's own region.
    padding: factor on the extent.

  Returns:
    center [.., 2] and size [.., 2], in pixels.
  """
  xp = _numpy_of(keypoints, chosen, region_size)
  chosen = chosen[..., None]
  count = xp.maximum(chosen.astype(keypoints.dtype).sum(-2), 1)
  center = xp.where(chosen, keypoints, 0).sum(-2) / count
  # Keypoints that are not chosen take the place of the centre.
  points = xp.where(chosen, keypoints, center[..., None, :])
  extent = (points.max(-2) - points.min(-2)) * padding / region_size
  # The larger side decides; the region keeps its aspect ratio.
  fraction = xp.clip(extent.max(-1, keepdims=True), 0.25, 1.0)
  return center, (region_size * fraction).astype(region_size.dtype)


def region_to_crop(center, size, crop_size, rotation=0.0, flip=False):
  """Returns the matrix from image xy to crop xy.

  The centre is mapped to the crop's middle (width / 2, height / 2) and the region's width to the
  crop's width. As in the released code, the height is scaled by the same factor, so a region of
  another aspect ratio is not distorted.

  Args:
    center: [.., 2] centre of the region.
    size: [.., 2] size of the region; only the width is used.
    crop_size: (height, width) in pixels.
    rotation: [..] in degrees; positive angles turn the picture anticlockwise on the screen.
    flip: [..] whether the crop is mirrored left to right, about the region's centre.

  Returns:
    matrix [.., 2, 3].
  """
  xp = _numpy_of(center, size, rotation, flip)
  center, size = xp.asarray(center), xp.asarray(size)
  dtype = xp.result_type(center, size, xp.float32)
  height, width = crop_size
  scale = width / size[..., 0]
  angle = xp.deg2rad(xp.asarray(rotation, dtype))
  cos, sin = scale * xp.cos(angle), scale * xp.sin(angle)
  mirror = xp.where(xp.asarray(flip), -1, 1).astype(dtype)
  x, y = center[..., 0], center[..., 1]
  to_x = [mirror * cos, mirror * sin, 0.5 * width - mirror * (cos * x + sin * y)]
  to_y = [-sin, cos, 0.5 * height - (cos * y - sin * x)]
  entries = xp.stack(xp.broadcast_arrays(*to_x, *to_y), -1)
  return entries.reshape(*entries.shape[:-1], 2, 3)


def heatmap_to_image(points, center, size, heatmap_size):
  """Maps heatmap pixels to image pixels.

  This is the inverse of `region_to_crop` without rotation, for a crop of the heatmap's size. As in
  the released code, heatmap (0, 0) is the region's corner.

  Args:
    points: [.., K, 2] xy in heatmap pixels.
    center: [.., 2] centre of the region.
    size: [.., 2] size of the region; only the width is used.
    heatmap_size: (height, width).

  Returns:
    [.., K, 2] xy in image pixels.
  """
  xp = _numpy_of(points, center, size)
  points, center, size = xp.asarray(points), xp.asarray(center), xp.asarray(size)
  height, width = heatmap_size
  x, y = points[..., 0] - 0.5 * width, points[..., 1] - 0.5 * height  # [.., K]
  return xp.stack([x, y], -1) * (size[..., None, :1] / width) + center[..., None, :]


def reach(center, size, scale: float = 0.0, rotated: bool = False, shift: float = 0.0):
  """Returns the rectangle that contains all crops of a region under augmentation.

  Args:
    center, size: [.., 2] centre and size of the region.
    scale: fraction by which the region may grow.
    rotated: whether it may be rotated, by any angle; half the diagonal then bounds both directions.
    shift: fraction of the size by which the centre may move along each axis.

  Returns:
    low [.., 2] and high [.., 2], xy corners in image pixels.
  """
  xp = _numpy_of(center, size)
  center, size = xp.asarray(center), xp.asarray(size)
  half = size * (0.5 * (1 + scale))
  if rotated:
    half = xp.sqrt(xp.square(half).sum(-1, keepdims=True)) * xp.ones_like(half)
  half = half + shift * size
  return center - half, center + half


# The following functions are written out by coordinates, because a TPU computes matrix products in
# bfloat16, which resolves a position near pixel 500 only to two pixels.


def compose(outer, inner):
  """Matrix [.., 2, 3] of the map outer(inner(p))."""
  xp = _numpy_of(outer, inner)
  product = outer[..., :1] * inner[..., :1, :] + outer[..., 1:2] * inner[..., 1:, :]
  return xp.concatenate([product[..., :2], product[..., 2:] + outer[..., 2:]], -1)


def invert(matrix):
  """Matrix [.., 2, 3] of the inverse map."""
  xp = _numpy_of(matrix)
  (a, b, x), (c, d, y) = xp.moveaxis(matrix, (-2, -1), (0, 1))
  adjugate = xp.stack([d, -b, b * y - d * x, -c, a, c * x - a * y], -1)
  return adjugate.reshape(matrix.shape) / (a * d - b * c)[..., None, None]


def transform(matrix, points):
  """Maps points [.., K, 2] by the matrix [.., 2, 3]."""
  xp = _numpy_of(matrix, points)
  x_axis, y_axis, shift = xp.moveaxis(matrix, -1, 0)[..., None, :]  # [.., 1, 2] each
  return points[..., :1] * x_axis + points[..., 1:] * y_axis + shift


def _numpy_of(*arrays):
  """The module that computes with these arrays: jnp if any of them is a JAX array, else np."""
  return jnp if any(isinstance(a, jax.Array) for a in arrays) else np
