"""Image files -> RGB pixels, and the patch of an image that a crop needs."""

import io
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import UnidentifiedImageError

from mrpose_jax import errors

MAX_PIXELS = 80_000_000  # beyond it an image is refused by its header, before any memory is taken


def decode(data: bytes, where: str) -> np.ndarray:
  """Decodes an image file to uint8 [H, W, 3] RGB.

  Grayscale, palette, CMYK and 16-bit images are converted, transparency is dropped, and an EXIF
  orientation is ignored: annotations are in the pixels as stored.

  Args:
    data: the file's bytes; any format that Pillow reads.
    where: names the image in errors.

  Raises:
    DataError: not an image, truncated, or more than MAX_PIXELS.
  """
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
    image.info.pop('transparency', None)  # of a palette; Pillow warns before it drops it
    return np.asarray(image.convert('RGB'))
  except (OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
      reason = 'not of a known image format' if data else 'the file is empty'
    raise errors.DataError(f'{where}: not a readable image ({reason})') from error


def read(path) -> np.ndarray:
  """The image file at `path` as uint8 [H, W, 3] RGB; raises DataError."""
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise errors.DataError(f'{path}: cannot be read ({error.strerror})') from error
  return decode(data, str(path))


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
  """uint8 [H, W, 3] -> JPEG without chroma subsampling."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', quality=quality, subsampling=0)
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


def cut_patch(image: np.ndarray, low, high, canvas: int) -> Patch:
  """The part of an image between two corners, no larger than the canvas.

  Args:
    image: uint8 [H, W, 3].
    low, high: [2] xy corners in image pixels, outside the image or not. One pixel more is cut all
      around, so that bilinear sampling up to the corners sees what it would see in the image.
    canvas: longest side in pixels; a larger patch is averaged down to it.
  """
  limit = np.array(image.shape[1::-1])
  low = np.clip(np.floor(low) - 1, 0, limit - 1).astype(np.int64)
  high = np.clip(np.ceil(high) + 2, low + 1, limit).astype(np.int64)
  pixels = image[low[1] : high[1], low[0] : high[0]]
  size = high - low
  longest = size.max()
  zoom = np.ones(2, np.float32)
  if longest > canvas:
    small = np.maximum(np.round(size * (canvas / longest)).astype(np.int64), 1)
    # Pillow's BOX gives each pixel to one average as a whole, which moves dots by up to 0.4 pixels.
    shrunk = Image.fromarray(pixels).resize(tuple(small.tolist()), Image.Resampling.HAMMING)
    pixels = np.asarray(shrunk)
    zoom = (small / size).astype(np.float32)
  return Patch(pixels, low.astype(np.float32), zoom)
