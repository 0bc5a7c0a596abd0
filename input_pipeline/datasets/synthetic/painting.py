"""Paints soft-shaded shapes over each other, and records which one is on top at each pixel."""

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFilter

_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_COMPASS = np.stack([np.cos(_TURN), np.sin(_TURN)])  # [2, 40] unit vectors around the circle

# Edges are drawn larger by this factor and averaged down.
_FINER = 3


def outline(discs: np.ndarray) -> np.ndarray:
  """Convex hull of discs [N, 3] of (x, y, radius), as a polygon [40, 2].

  In each direction the hull reaches as far as the disc that reaches farthest.
  """
  farthest = (discs[:, :2] @ _COMPASS + discs[:, 2:]).argmax(0)
  return discs[farthest, :2] + discs[farthest, 2:] * _COMPASS.T


class Canvas:
  """A picture painted from back to front.

  Attributes:
    rgb: float32 [3, H, W] in 0..255; stored as planes, because NumPy is fastest along rows.
    ids: int16 [H, W], id of the shape painted last at each pixel; 0 is scenery.
    light: [2] unit vector in the image, towards the light.
  """

  def __init__(self, rgb: np.ndarray, light: np.ndarray):
    self.rgb = np.ascontiguousarray(rgb, np.float32)
    self.ids = np.zeros(rgb.shape[1:], np.int16)
    self.light = light

  def paint(self, outlines, colour, ident=0, soft=0.0, stripes=None, cap=None):
    """Paints the union of polygons.

    Args:
      outlines: polygons [N, 2] in pixels; pixel centres are integers.
      colour: RGB in 0..255.
      ident: the id to write into `ids`.
      soft: width in pixels over which the rim curves away; it shades the shape and casts a shadow.
      stripes: (colour, origin [2], direction [2], period in pixels), or None.
      cap: (centre [2], radius in pixels, axis [3], threshold): keep only the part of this ball's
        front on which the unit normal's product with the axis exceeds the threshold; or None.

    Returns:
      Slices of the painted window and a bool mask of the painted pixels in it; None if the shape
      lies outside the frame.
    """
    height, width = self.ids.shape
    points = np.concatenate(outlines)
    # The window reaches past the frame so that the frame's edge is not shaded like a rim.
    pad = int(1.5 * soft) + 2
    left, top = np.maximum(np.floor(points.min(0)).astype(int), 0) - pad
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 1, (width, height)) + pad
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x1 <= x0 or y1 <= y0:
      return None
    inside = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    frame = slice(y0, y1), slice(x0, x1)

    image = Image.new('L', (_FINER * int(right - left), _FINER * int(bottom - top)))
    pen = ImageDraw.Draw(image)
    for polygon in outlines:
      # Half a pixel because Pillow measures polygons from the corner of the first pixel.
      fine = (polygon - (left, top) + 0.5) * _FINER
      pen.polygon(fine.ravel().tolist(), fill=255)
    image = image.reduce(_FINER)
    cover = np.asarray(image)[inside] * np.float32(1 / 255)
    if cap is not None:
      cover *= _cap_cover(cap, frame)

    paint = np.asarray(colour, np.float32)[:, None, None]
    if stripes is not None:
      paint = _striped(paint, stripes, frame)
    keep, strength = 1 - cover, cover
    if soft:
      blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(float(0.55 * soft))))
      dx, dy = np.round(0.5 * soft * self.light).astype(int)
      lit = np.roll(blurred, (dy, dx), (0, 1))[inside]
      shadow = np.roll(blurred, (-dy, -dx), (0, 1))[inside]
      keep *= 1 - shadow * np.float32(0.25 / 255)
      strength = cover * (np.float32(0.66) + lit * np.float32(0.44 / 255))
    rgb = self.rgb[:, *frame]
    rgb *= keep
    rgb += strength * paint
    solid = cover >= 0.5
    self.ids[frame][solid] = ident
    return frame, solid


def _grid(frame):
  rows, columns = frame
  x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :]
  y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
  return x, y


def _cap_cover(cap, frame):
  (cx, cy), radius, axis, threshold = cap
  x, y = _grid(frame)
  nx, ny = (x - cx) / radius, (y - cy) / radius
  nz = np.sqrt(np.maximum(1 - nx**2 - ny**2, 0))
  along = nx * axis[0] + ny * axis[1] + nz * axis[2]
  return np.clip((along - threshold) * radius + 0.5, 0, 1)


def _striped(paint, stripes, frame):
  colour, (ox, oy), (dx, dy), period = stripes
  x, y = _grid(frame)
  wave = np.cos(((x - ox) * dx + (y - oy) * dy) * (2 * np.pi / period))
  mix = np.clip(wave * (period / 4) + 0.5, 0, 1).astype(np.float32)
  return paint + mix * (np.asarray(colour, np.float32)[:, None, None] - paint)
