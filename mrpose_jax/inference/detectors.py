"""Finding people in whole images, to predict without boxes.

A detector is a function: image uint8 [H, W, 3] RGB -> boxes float32 [N, 4] x, y, width, height in
pixels, and scores float32 [N], the best first. `load` makes one of an ONNX file; anything else of
that form does as well.
"""

import math
import pathlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image

from mrpose_jax import errors

Detector: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# What is subtracted from the blue, green and red of 0..255, and what they are divided by.
STATISTICS = {
  'yolox': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
  'rtmdet': ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
}
GRAY = 114  # beside and below an image that does not fill the network's input
STRIDES = (8, 16, 32)
SCORE = 0.3
OVERLAP = 0.45  # intersection over union above which the lower of two boxes goes
LOG_SIZE = 20  # no logarithm of a box's size in cells is as large; e^20 cells are 4e9 pixels
SIZE = 640  # of the input, where the file leaves it open


def load(name: str) -> Detector:
  """The detector that --detector names.

  Args:
    name: FILE.onnx or yolox:FILE.onnx for YOLOX, rtmdet:FILE.onnx for RTMDet; rtmlib:lightweight,
      rtmlib:balanced or rtmlib:performance for the YOLOX that rtmlib (pip install rtmlib)
      downloads.

  Raises:
    ConfigError: a kind that is none of these, or a package that is not installed.
    CheckpointError: not a file that onnxruntime reads, or not a detector.
  """
  kind, _, rest = name.rpartition(':')
  if kind == 'rtmlib':
    return OnnxDetector(_download(rest), 'yolox')
  if kind not in ('', *STATISTICS):
    raise errors.ConfigError(
      f'--detector={name}: unknown kind {kind!r}; use FILE.onnx, rtmdet:FILE.onnx or '
      'rtmlib:balanced'
    )
  return OnnxDetector(rest, kind or 'yolox')


class OnnxDetector:
  """YOLOX or RTMDet as an ONNX file: MMDeploy's, with its own suppression, or YOLOX's without."""

  def __init__(self, path, kind: str):
    try:
      import onnxruntime
    except ImportError as error:
      raise errors.ConfigError(
        "--detector needs onnxruntime; pip install 'mrpose_jax[detect]'"
      ) from error
    self.path = pathlib.Path(path).expanduser()
    if not self.path.is_file():
      raise errors.CheckpointError(f'--detector: there is no file {self.path}')
    there = onnxruntime.get_available_providers()
    wanted = [p for p in ('CUDAExecutionProvider', 'CPUExecutionProvider') if p in there]
    try:
      self._session = onnxruntime.InferenceSession(self.path, providers=wanted)
    except Exception as error:  # of many kinds, none of which onnxruntime documents
      raise errors.CheckpointError(
        f'{self.path}: onnxruntime cannot read it ({_brief(error)})'
      ) from error
    inputs = self._session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
      raise self._not_a_detector(
        f'its inputs are {[i.shape for i in inputs]}, not one [1, 3, H, W]'
      )
    self._input = inputs[0].name
    self._size = tuple(n if isinstance(n, int) else SIZE for n in shape[2:])
    self._mean, self._std = (np.array(values, np.float32) for values in STATISTICS[kind])

  def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See the module.

    Raises:
      CheckpointError: the network's outputs are not those of a detector.
    """
    pixels, ratio = self._input_of(image)
    try:
      outputs = self._session.run(None, {self._input: pixels})
    except Exception as error:
      raise errors.CheckpointError(f'{self.path}: onnxruntime stopped ({_brief(error)})') from error
    corners, scores = self._people(outputs)
    corners = np.clip(corners / ratio, 0, np.tile(image.shape[1::-1], 2)).astype(np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    keep = (scores > SCORE) & (boxes[:, 2:] > 0).all(1)
    boxes, scores, corners = boxes[keep], scores[keep].astype(np.float32), corners[keep]
    order = _suppress(corners, scores)
    return boxes[order], scores[order]

  def _input_of(self, image):
    """[1, 3, H, W], the image scaled into its upper left corner, and the factor."""
    height, width = image.shape[:2]
    ratio = min(self._size[0] / height, self._size[1] / width)
    small = max(1, int(width * ratio)), max(1, int(height * ratio))
    canvas = np.full((*self._size, 3), GRAY, np.uint8)
    resized = Image.fromarray(image).resize(small, Image.Resampling.BILINEAR)
    canvas[: small[1], : small[0]] = np.asarray(resized)
    normalised = (canvas[..., ::-1] - self._mean) / self._std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None].astype(np.float32), ratio

  def _people(self, outputs):
    """Corners [N, 4] in pixels of the input and scores [N] of class 0, the person."""
    rows = outputs[0]
    cells = [(self._size[0] // s, self._size[1] // s) for s in STRIDES]
    if rows.ndim == 3 and rows.shape[0] == 1 and rows.shape[2] == 5 and len(outputs) == 2:
      labels = outputs[1]
      if labels.shape == rows.shape[:2]:
        people = rows[0][labels[0] == 0]
        return people[:, :4], people[:, 4]
    elif rows.ndim == 3 and rows.shape[2] > 5 and rows.shape[:2] == (1, sum(map(math.prod, cells))):
      # Of each cell of three grids: the box's centre and the logarithm of its size in cells, the
      # score of any object, and that of each class. Exported with --decode_in_inference, the first
      # four are pixels of the input.
      score = rows[0, :, 4] * rows[0, :, 5]
      if rows[0, :, 2:4].max() > LOG_SIZE:
        center, half = rows[0, :, :2], 0.5 * rows[0, :, 2:4]
        return np.concatenate([center - half, center + half], 1), score
      grid = np.concatenate([np.indices(c)[::-1].reshape(2, -1).T for c in cells])  # [A, 2] xy
      stride = np.repeat(STRIDES, [math.prod(c) for c in cells])[:, None]
      center = (rows[0, :, :2] + grid) * stride
      half = 0.5 * np.exp(rows[0, :, 2:4]) * stride
      return np.concatenate([center - half, center + half], 1), score
    raise self._not_a_detector(
      f'its outputs are {[list(output.shape) for output in outputs]}, not boxes [1, N, 5] and '
      f'labels [1, N], nor [1, {sum(map(math.prod, cells))}, 5 + classes]'
    )

  def _not_a_detector(self, reason):
    return errors.CheckpointError(f'{self.path}: not a YOLOX or RTMDet detector: {reason}')


def _suppress(corners, scores):
  """Indices of the boxes that stay, the best first."""
  order, kept = np.argsort(-scores, kind='stable'), []
  area = np.prod(corners[:, 2:] - corners[:, :2], 1)
  while order.size:
    best, rest = order[0], order[1:]
    kept.append(best)
    low = np.maximum(corners[best, :2], corners[rest, :2])
    high = np.minimum(corners[best, 2:], corners[rest, 2:])
    common = np.prod(np.maximum(high - low, 0), 1)
    order = rest[common <= OVERLAP * (area[best] + area[rest] - common)]
  return np.array(kept, np.int64)


def _download(mode):
  """The path of rtmlib's detector for people, which it downloads once."""
  try:
    import rtmlib
    import rtmlib.tools.file
  except ImportError as error:
    raise errors.ConfigError(
      f'--detector=rtmlib:{mode} needs rtmlib; pip install rtmlib, or name an ONNX file'
    ) from error
  if mode not in rtmlib.Body.MODE:
    raise errors.ConfigError(
      f'--detector=rtmlib:{mode}: use one of {", ".join(sorted(rtmlib.Body.MODE))}'
    )
  try:
    return rtmlib.tools.file.download_checkpoint(rtmlib.Body.MODE[mode]['det'])
  except OSError as error:
    raise errors.ConfigError(
      f'--detector=rtmlib:{mode}: cannot be downloaded ({_brief(error)}); name an ONNX file'
    ) from error


def _brief(error):
  """The error's first line."""
  return (str(error) or type(error).__name__).splitlines()[0][:200]
