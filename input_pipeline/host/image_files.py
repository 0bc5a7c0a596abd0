"""Decodes image files to RGB pixels, and cuts the patch of an image that a crop needs."""

import io
import pathlib
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image
from PIL import UnidentifiedImageError

from mrpose_jax import errors

MAX_PIXELS = 80_000_000  # larger images are refused by their header, before memory is allocated


def decode(data: bytes, where: str) -> np.ndarray:
  """Decodes an image file to uint8 [H, W, 3] RGB.

  Grayscale, palette, CMYK and 16-bit images are converted, transparency is dropped, and an EXIF
  orientation is ignored, because annotations refer to the pixels as stored.

  Args:
    data: the file's bytes; any format that Pillow reads.
    where: names the image in errors.

  Raises:
    DataError: not an image, truncated, or more than MAX_PIXELS pixels.
  """
  pixels = _decode_colour_jpeg(data)
  if pixels is not None:
    return pixels
  try:
    image = Image.open(io.BytesIO(data))
    if image.width * image.height > MAX_PIXELS:
      raise errors.DataError(
        f'{where}: {image.width}x{image.height} pixels, more than {MAX_PIXELS}; scale it down'
      )
    if image.mode.startswith('I') or image.mode == 'F':
      gray = np.asarray(image, np.float32)
      deep = image.mode.startswith('I;16') or gray.max() > 255
      gray = np.clip(gray / (257 if deep else 1), 0, 255).astype(np.uint8)
      return np.repeat(gray[..., None], 3, -1)
    if image.mode != 'RGB':  # converting RGB would copy it
      image.info.pop('transparency', None)  # Pillow would warn about a palette's
      image = image.convert('RGB')
    return np.asarray(image)
  except (OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
      reason = 'not of a known image format' if data else 'the file is empty'
    raise errors.DataError(f'{where}: not a readable image ({reason})') from error


def _decode_colour_jpeg(data):
  """Decodes an intact colour JPEG like Pillow, but faster and without Python's lock; else None."""
  try:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours == 'YCbCr' and height * width <= MAX_PIXELS:
      return simplejpeg.decode_jpeg(data)
  except ValueError:  # even for minor damage; Pillow decides whether the file is readable
    pass
  return None


def read(path) -> np.ndarray:
  """Reads the image file at `path` as uint8 [H, W, 3] RGB; raises DataError."""
  return decode(read_bytes(path), str(path))


def read_bytes(path) -> bytes:
  """Reads the file's content; raises DataError."""
  try:
    return pathlib.Path(path).read_bytes()
  except OSError as error:
    raise errors.DataError(f'{path}: cannot be read ({error.strerror})') from error


def encode_jpeg(pixels: np.ndarray, quality: int, subsampling: int = 0) -> bytes:
  """Encodes uint8 [H, W, 3] as JPEG; chroma subsampling is 0 for none (4:4:4), 2 for 4:2:0."""
  buffer = io.BytesIO()
  options = {'quality': quality, 'subsampling': subsampling, 'optimize': True}
  Image.fromarray(pixels).save(buffer, 'JPEG', **options)
  return buffer.getvalue()


class Patch(NamedTuple):
  """A rectangle of an image, perhaps scaled down.

  Attributes:
    pixels: uint8 [h, w, 3].
    origin: [2] x, y of its first pixel in the image.
    zoom: [2] patch pixels per image pixel, at most 1.
  """

  pixels: np.ndarray
  origin: np.ndarray
  zoom: np.ndarray


# A patch shows up to this many more image pixels along each axis than it was cut for.
MARGIN = 5


def cut_patch(image: np.ndarray, low, high, canvas: int, max_zoom: float = 1.0) -> Patch:
  """Cuts the part of an image between two corners, no larger than the canvas.

  Args:
    image: uint8 [H, W, 3].
    low, high: [2] xy corners in image pixels, inside the image or not. One more pixel is cut on
      each side, so that bilinear sampling up to the corners gives the same values as in the image.
    canvas: longest side in pixels; a larger patch is averaged down to it.
    max_zoom: upper limit of the patch's zoom, in patch pixels per image pixel.
  """
  limit = np.array(image.shape[1::-1])
  low = np.clip(np.floor(low) - 1, 0, limit - 1).astype(np.int64)
  high = np.clip(np.ceil(high) + 2, low + 1, limit).astype(np.int64)
  pixels = image[low[1] : high[1], low[0] : high[0]]
  size = high - low
  zoom = np.full(2, min(1.0, max_zoom, canvas / size.max()))
  if zoom[0] < 1:
    # Rounded down, so that the zoom of neither axis exceeds the requested one.
    small = np.maximum(np.floor(size * zoom + 1e-6).astype(np.int64), 1)
    # Pillow's BOX adds each pixel as a whole to one average, which moves dots by up to 0.4 pixels.
    shrunk = Image.fromarray(pixels).resize(tuple(small.tolist()), Image.Resampling.HAMMING)
    pixels = np.asarray(shrunk)
    zoom = np.minimum(small / size, zoom)  # a side raised to one pixel would exceed the zoom
  return Patch(pixels, low.astype(np.float32), zoom.astype(np.float32))
