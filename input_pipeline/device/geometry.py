"""Boxes -> crop geometry, and back. Pure functions of arrays, for NumPy and JAX alike.

Pixel centres lie at integers. A region is a rectangle of the image around `center` [.., 2], `size`
[.., 2] (width, height) in pixels; a crop is that region resampled to the network's input. Matrices
[.., 2, 3] map xy points: p' = M[:, :2] p + M[:, 2].
"""

import jax
import numpy as np
from jax import numpy as jnp


def box_to_region(box, aspect: float, padding: float):
  """The region to crop around a person's box.

  The box is widened or heightened to the aspect ratio of the network's input, then padded, as
  SimpleBaseline does.

  Args:
    box: [.., 4] x, y, width, height in pixels.
    aspect: width / height of the crop.
    padding: factor on both sides, 1.25 in the paper's recipes.

  Returns:
    center [.., 2] and size [.., 2].
  """
  xp = _numpy_of(box)
  x, y, width, height = xp.moveaxis(xp.asarray(box), -1, 0)
  center = xp.stack([x + 0.5 * width, y + 0.5 * height], -1)
  size = xp.stack([xp.maximum(width, height * aspect), xp.maximum(height, width / aspect)], -1)
  return center, size * padding


def region_to_crop(center, size, crop_size, rotation=0.0, flip=False):
  """Matrix from image xy to crop xy.

  The centre goes to the crop's middle (width / 2, height / 2) and the region's width to the crop's
  width; as in the released code, the crop's height follows from its width, so a region of another
  aspect ratio is not squeezed.

  Args:
    center: [.., 2] of the region.
    size: [.., 2] of the region; only the width is used.
    crop_size: (height, width) in pixels.
    rotation: [..] degrees; the picture turns anticlockwise on the screen for positive angles.
    flip: [..] whether the crop is mirrored left to right, about the region's centre.

  Returns:
    [.., 2, 3].
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
  """Heatmap pixels -> image pixels.

  The inverse of `region_to_crop` without rotation, for a crop of the heatmap's size: like the
  released code it takes heatmap (0, 0) for the region's corner.

  Args:
    points: [.., K, 2] xy in heatmap pixels.
    center: [.., 2] of the region.
    size: [.., 2] of the region; only the width is used.
    heatmap_size: (height, width).
  """
  xp = _numpy_of(points, center, size)
  points, center, size = xp.asarray(points), xp.asarray(center), xp.asarray(size)
  height, width = heatmap_size
  x, y = points[..., 0] - 0.5 * width, points[..., 1] - 0.5 * height  # [.., K]
  return xp.stack([x, y], -1) * (size[..., None, :1] / width) + center[..., None, :]


def reach(center, size, scale: float = 0.0, rotated: bool = False):
  """The rectangle that crops of a region can show when scale and rotation are drawn around it.

  Args:
    center, size: [.., 2] of the region.
    scale: the region may grow by this fraction.
    rotated: whether it may turn, by any angle: then half the diagonal bounds both directions.

  Returns:
    low [.., 2] and high [.., 2], xy corners in image pixels.
  """
  xp = _numpy_of(center, size)
  center, half = xp.asarray(center), xp.asarray(size) * (0.5 * (1 + scale))
  if rotated:
    half = xp.sqrt(xp.square(half).sum(-1, keepdims=True)) * xp.ones_like(half)
  return center - half, center + half


# Written out by coordinates: a matrix product would run in bfloat16 on TPU, which knows a position
# near pixel 500 to two pixels.


def compose(outer, inner):
  """The matrix [.., 2, 3] of outer(inner(p))."""
  xp = _numpy_of(outer, inner)
  product = outer[..., :1] * inner[..., :1, :] + outer[..., 1:2] * inner[..., 1:, :]
  return xp.concatenate([product[..., :2], product[..., 2:] + outer[..., 2:]], -1)


def invert(matrix):
  """The inverse map of [.., 2, 3]."""
  xp = _numpy_of(matrix)
  (a, b, x), (c, d, y) = xp.moveaxis(matrix, (-2, -1), (0, 1))
  adjugate = xp.stack([d, -b, b * y - d * x, -c, a, c * x - a * y], -1)
  return adjugate.reshape(matrix.shape) / (a * d - b * c)[..., None, None]


def transform(matrix, points):
  """Maps points [.., K, 2] by [.., 2, 3]."""
  xp = _numpy_of(matrix, points)
  x_axis, y_axis, shift = xp.moveaxis(matrix, -1, 0)[..., None, :]  # [.., 1, 2] each
  return points[..., :1] * x_axis + points[..., 1:] * y_axis + shift


def _numpy_of(*arrays):
  return jnp if any(isinstance(a, jax.Array) for a in arrays) else np
