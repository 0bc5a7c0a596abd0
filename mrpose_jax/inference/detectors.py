"""Person detectors, which supply the bounding boxes when the user gives none.

A detector is a function: image uint8 [H, W, 3] RGB -> boxes float32 [N, 4] (x, y, width, height in
pixels) and scores float32 [N], sorted by descending score. `load` creates one from an ONNX file;
any other function with this signature also works.
"""

import math
import pathlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image

from mrpose_jax import errors

Detector: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# Mean and standard deviation of the blue, green and red channels, for pixel values 0..255.
STATISTICS = {
  'yolox': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
  'rtmdet': ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
}
GRAY = 114  # padding value where the image does not fill the network's input
STRIDES = (8, 16, 32)
SCORE = 0.3  # boxes with lower scores are dropped
OVERLAP = 0.45  # intersection over union above which the box with the lower score is dropped
LOG_SIZE = 20  # larger than the logarithm of any box size in cells; e^20 cells are 4e9 pixels
SIZE = 640  # input height and width if the file does not fix them


def load(name: str) -> Detector:
  """Returns the detector named by --detector.

  Args:
    name: FILE.onnx or yolox:FILE.onnx for YOLOX, rtmdet:FILE.onnx for RTMDet; rtmlib:lightweight,
      rtmlib:balanced or rtmlib:performance for the YOLOX that rtmlib (pip install rtmlib)
      downloads.

  Raises:
    ConfigError: the kind is none of these, or a package is not installed.
    CheckpointError: onnxruntime cannot read the file, or the file is not a detector.
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
  """YOLOX or RTMDet from an ONNX file.

  The file comes from MMDeploy and includes non-maximum suppression, or from YOLOX and does not.
  """

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
    available = onnxruntime.get_available_providers()
    providers = [p for p in ('CUDAExecutionProvider', 'CPUExecutionProvider') if p in available]
    try:
      self._session = onnxruntime.InferenceSession(self.path, providers=providers)
    except Exception as error:  # onnxruntime does not document the types that it raises
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
    """Returns boxes [N, 4] and scores [N]; see the module's docstring.

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
    """Network input [1, 3, H, W] with the scaled image at the top left, and the scale factor."""
    height, width = image.shape[:2]
    ratio = min(self._size[0] / height, self._size[1] / width)
    new_size = max(1, int(width * ratio)), max(1, int(height * ratio))
    canvas = np.full((*self._size, 3), GRAY, np.uint8)
    resized = Image.fromarray(image).resize(new_size, Image.Resampling.BILINEAR)
    canvas[: new_size[1], : new_size[0]] = np.asarray(resized)
    normalised = (canvas[..., ::-1] - self._mean) / self._std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None].astype(np.float32), ratio

  def _people(self, outputs):
    """Corners [N, 4] in input pixels and scores [N] of class 0, which is the person class."""
    rows = outputs[0]
    cells = [(self._size[0] // s, self._size[1] // s) for s in STRIDES]
    if rows.ndim == 3 and rows.shape[0] == 1 and rows.shape[2] == 5 and len(outputs) == 2:
      labels = outputs[1]
      if labels.shape == rows.shape[:2]:
        people = rows[0][labels[0] == 0]
        return people[:, :4], people[:, 4]
    elif rows.ndim == 3 and rows.shape[2] > 5 and rows.shape[:2] == (1, sum(map(math.prod, cells))):
      # Each cell of the three grids predicts the box's centre and the logarithm of its size in
      # cells, an objectness score, and a score per class. If the file was exported with
      # --decode_in_inference, the first four numbers are in input pixels.
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
  """Non-maximum suppression: indices of the boxes to keep, sorted by descending score."""
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
  """Returns the path of rtmlib's person detector, which rtmlib downloads once."""
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
  """First line of an error's message."""
  return (str(error) or type(error).__name__).splitlines()[0][:200]
