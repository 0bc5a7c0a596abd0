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
  height, width = crop_size
  scale = width / size[..., 0]
  angle = xp.deg2rad(xp.asarray(rotation, center.dtype))
  cos, sin = scale * xp.cos(angle), scale * xp.sin(angle)
  linear = xp.stack([xp.stack([cos, sin], -1), xp.stack([-sin, cos], -1)], -2)
  middle = xp.asarray([0.5 * width, 0.5 * height], center.dtype)
  shift = middle - (linear @ center[..., None])[..., 0]
  matrix = xp.concatenate([linear, shift[..., None]], -1)
  mirror = xp.asarray([[-1, 0, width], [0, 1, 0]], center.dtype)
  return xp.where(xp.asarray(flip)[..., None, None], compose(mirror, matrix), matrix)


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
  height, width = heatmap_size
  middle = xp.asarray([0.5 * width, 0.5 * height], xp.float32)
  scale = (xp.asarray(size)[..., :1] / width)[..., None, :]
  return (xp.asarray(points) - middle) * scale + xp.asarray(center)[..., None, :]


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


def compose(outer, inner):
  """The matrix [.., 2, 3] of outer(inner(p))."""
  linear = outer[..., :2] @ inner[..., :2]
  shift = (outer[..., :2] @ inner[..., 2:]) + outer[..., 2:]
  return _numpy_of(outer, inner).concatenate([linear, shift], -1)


def invert(matrix):
  """The inverse map of [.., 2, 3]."""
  xp = _numpy_of(matrix)
  (a, b), (c, d) = xp.moveaxis(matrix[..., :2], (-2, -1), (0, 1))
  determinant = a * d - b * c
  linear = xp.stack([xp.stack([d, -b], -1), xp.stack([-c, a], -1)], -2)
  linear = linear / determinant[..., None, None]
  return xp.concatenate([linear, -(linear @ matrix[..., 2:])], -1)


def transform(matrix, points):
  """Maps points [.., K, 2] by [.., 2, 3]."""
  xp = _numpy_of(matrix, points)
  return points @ xp.swapaxes(matrix[..., :2], -1, -2) + xp.swapaxes(matrix[..., 2:], -1, -2)


def _numpy_of(*arrays):
  return jnp if any(isinstance(a, jax.Array) for a in arrays) else np
