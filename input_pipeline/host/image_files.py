"""Decodes image files to RGB pixels, and cuts the patch of an image that a crop needs."""

import contextlib
import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags
from PIL import Image
from PIL import UnidentifiedImageError

from mrpose_jax import errors
from mrpose_jax import paths

MAX_PIXELS = 80_000_000  # larger images are refused by their header, before memory is allocated
# Pillow's other decoders are rarely tested, and the one for EPS starts another program.
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP', 'JPEG2000')


def decode(data: bytes, where: str, exif: bool = False) -> np.ndarray:
  """Decodes an image file to uint8 [H, W, 3] RGB.

  Grayscale, palette, CMYK and 16-bit images are converted, and transparency is dropped.

  Args:
    data: the file's bytes, in one of FORMATS.
    where: names the image in errors.
    exif: turn the image upright by its EXIF orientation. Annotations refer to the pixels as stored,
      so for annotated images the orientation is ignored.

  Raises:
    DataError: not an image, truncated, or more than MAX_PIXELS pixels.
  """
  with _named(where, data):
    pixels = _decode_colour_jpeg(data)
    if pixels is None:
      return _to_pixels(_open(data), exif)
    return _turn(pixels, _orientation(_open(data))) if exif else pixels


def from_pillow(image: Image.Image, exif: bool = False) -> np.ndarray:
  """Converts a Pillow image, whose file may be read only now, as `decode` converts a file.

  Raises:
    DataError: the image's file is damaged, or its mode cannot be converted to RGB.
  """
  with _named(getattr(image, 'filename', '') or 'a Pillow image'):
    return _to_pixels(image, exif)


def orientation(data: bytes) -> int:
  """Returns the EXIF orientation, 1 (upright) to 8, of an image file that `decode` accepts."""
  image = _open(data)
  return 1 if image.format == 'TIFF' else _orientation(image)  # Pillow always turns a TIFF


@contextlib.contextmanager
def _named(where, data=b'-'):
  """Turns everything that reading an image raises into a DataError of one line."""
  try:
    yield
  except Exception as error:  # for damaged files Pillow raises errors of many types
    reason = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
      reason = 'not of a known image format' if data else 'the file is empty'
    raise errors.DataError(f'{where}: not a readable image ({reason})') from error


def _open(data):
  image = Image.open(io.BytesIO(data), formats=FORMATS)
  if image.width * image.height > MAX_PIXELS:
    raise ValueError(f'{image.width}x{image.height} pixels, more than {MAX_PIXELS}; scale it down')
  return image


def _to_pixels(image, exif):
  """Converts a Pillow image to uint8 [H, W, 3], without changing it."""
  if image.mode.startswith('I') or image.mode == 'F':
    gray = np.nan_to_num(np.asarray(image, np.float32))
    deep = image.mode.startswith('I;16') or gray.max() > 255
    gray = np.clip(gray / (257 if deep else 1), 0, 255).astype(np.uint8)
    pixels = np.repeat(gray[..., None], 3, -1)
  elif image.mode == 'RGB':  # converting RGB would copy it
    pixels = np.asarray(image)
  elif 'transparency' in image.info:  # Pillow would warn about that of a palette
    pixels = np.asarray(image.convert('RGBA').convert('RGB'))
  else:
    pixels = np.asarray(image.convert('RGB'))
  # When Pillow loads the pixels of a TIFF it turns them, and it removes the orientation.
  return _turn(pixels, _orientation(image)) if exif else pixels


def _orientation(image):
  """The EXIF orientation of a Pillow image; 1 if there is none or it cannot be read."""
  try:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # as viewers do, a damaged description is ignored
    return 1
  return value if value in range(1, 9) else 1


def _turn(pixels, number):
  """Turns pixels [H, W, 3] upright, where `number` is their EXIF orientation, 1 to 8."""
  row_step, column_step = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(number - 1) % 4]
  turned = pixels if number <= 4 else pixels.swapaxes(0, 1)
  return np.ascontiguousarray(turned[::row_step, ::column_step])


def _decode_colour_jpeg(data):
  """Decodes an intact colour JPEG like Pillow, but faster and without Python's lock; else None."""
  try:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours == 'YCbCr' and height * width <= MAX_PIXELS:
      return simplejpeg.decode_jpeg(data)
  except ValueError:  # even for minor damage; Pillow decides whether the file is readable
    pass
  return None


def read(path, exif: bool = False) -> np.ndarray:
  """Reads the image file at `path` as `decode` does; raises DataError."""
  return decode(read_bytes(path), str(path), exif)


def read_bytes(path) -> bytes:
  """Reads the file's content; raises DataError."""
  try:
    return paths.parse_local(path).read_bytes()
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
