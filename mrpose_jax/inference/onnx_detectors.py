"""Person detectors in ONNX files, of the kinds in `KINDS`.

The kind is recognised from the file's inputs and from the outputs for one blank image, because many
files do not declare the shapes of their outputs.
"""

import ast
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from mrpose_jax import box_inputs
from mrpose_jax import errors
from mrpose_jax import paths

log = logging.getLogger(__name__)

GRAY = 114  # padding value where the image does not fill the network's input
STRIDES = (8, 16, 32)
SCORE = 0.3  # boxes with lower scores are dropped
OVERLAP = 0.45  # intersection over union above which the box with the lower score is dropped
LOG_SIZE = 20  # larger than the logarithm of any box size in cells; e^20 cells are 4e9 pixels
SIZE = 640  # input height and width if the file does not fix them
FRACTION = 2  # corners up to this value are fractions of the image, not pixels
TYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16, 'tensor(uint8)': np.uint8}
# Usual names of outputs in files with suppression inside, without a suffix such as ':0'.
NAMES = {
  'boxes': ('detection_boxes', 'boxes', 'bboxes'),
  'scores': ('detection_scores', 'scores'),
  'classes': ('detection_classes', 'classes', 'labels'),
}


class Kind(NamedTuple):
  """One family of detectors.

  Attributes:
    name: for the log.
    outputs: description of the outputs.
    fits: function (outputs by name, input size) -> whether the outputs are of this kind.
    read: function (outputs by name, input size, person) -> corners [N, 4] in input pixels and
      scores [N] of the class `person`.
    person: the class of people, if the file's metadata does not name it.
    mean, std: of blue, green and red, for networks that take BGR; None for RGB in 0..1.
    padded: the image keeps its shape and the rest of the input is gray; otherwise the image is
      stretched to the input's size, or keeps its own size if the file does not fix one.
  """

  name: str
  outputs: str
  fits: Callable[[dict, tuple[int, int]], bool]
  read: Callable[[dict, tuple[int, int], int], tuple[np.ndarray, np.ndarray]]
  person: int = 0
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] = ()
  padded: bool = True


class OnnxDetector:
  """A detector from an ONNX file; call it with an image."""

  def __init__(self, path, rtmdet: bool = False):
    """Reads the file; `rtmdet` says that a file from MMDeploy is an RTMDet.

    Raises:
      ConfigError: onnxruntime is missing.
      CheckpointError: onnxruntime cannot read the file, or the file is of no known kind.
    """
    try:
      import onnxruntime
    except ImportError as error:
      raise errors.ConfigError(
        "--detector needs onnxruntime; pip install 'mrpose_jax[detect]'"
      ) from error
    self.path = paths.parse_local(path, '--detector')
    if not self.path.is_file():
      raise errors.CheckpointError(f'--detector: there is no file {self.path}')
    available = onnxruntime.get_available_providers()
    providers = [p for p in ('CUDAExecutionProvider', 'CPUExecutionProvider') if p in available]
    try:
      self._session = onnxruntime.InferenceSession(self.path, providers=providers)
    except Exception as error:  # onnxruntime does not document the types that it raises
      raise errors.CheckpointError(
        f'{self.path}: onnxruntime cannot read it ({brief(error)})'
      ) from error
    self._read_input()
    self.kind = self._recognise(rtmdet)
    names = _class_names(self._session.get_modelmeta().custom_metadata_map)
    self._person = names.get('person', self.kind.person)
    any_size = self._any_size and not self.kind.padded
    size = 'of any size' if any_size else '{}x{}'.format(*self._size)
    log.info(
      *('%s: %s; input %s; people are class %d', self.path.name, self.kind.name),
      *(size, self._person),
    )

  def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes float32 [N, 4] xywh in pixels and scores float32 [N], best first.

    Args:
      image: uint8 [H, W, 3] RGB.

    Raises:
      CheckpointError: onnxruntime stops, or the classes are not numbered as expected.
    """
    canvas, scale = self._fit(image)
    try:
      outputs = self._run(self._normalise(canvas))
      corners, scores = self.kind.read(outputs, canvas.shape[:2], self._person)
    except ValueError as error:
      raise errors.CheckpointError(f'{self.path}: {error}') from error
    corners = np.clip(corners / np.tile(scale, 2), 0, np.tile(image.shape[1::-1], 2))
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    keep = (scores > SCORE) & (boxes[:, 2:] > 0).all(1)
    order = np.flatnonzero(keep)[_suppress(corners[keep], scores[keep])]
    return boxes[order].astype(np.float32), scores[order].astype(np.float32)

  def _read_input(self):
    """Reads the name, the type and the shape of the input; [1, ...] is a batch of one image."""
    inputs = self._session.get_inputs()
    shape = inputs[0].shape
    self._batched = len(shape) == 4 and (shape[0] == 1 or not isinstance(shape[0], int))
    image = shape[1:] if self._batched else shape
    axes = [axis for axis in (0, 2) if len(image) == 3 and image[axis] == 3]
    if len(inputs) != 1 or not axes or inputs[0].type not in TYPES:
      raise self._unknown()
    self._name, self._type, self._channels = inputs[0].name, TYPES[inputs[0].type], axes[0]
    size = image[1:] if self._channels == 0 else image[:2]
    self._size = tuple(n if isinstance(n, int) else SIZE for n in size)
    self._any_size = any(not isinstance(n, int) for n in size)

  def _recognise(self, rtmdet):
    """The kind of the file, from its outputs for a blank image."""
    try:
      outputs = self._run(np.zeros((*self._size, 3), self._type))
    except ValueError as error:
      raise errors.CheckpointError(f'{self.path}: {error}') from error
    for kind in (RTMDET,) if rtmdet else KINDS:
      if kind.fits(outputs, self._size):
        return kind
    raise self._unknown(outputs)

  def _run(self, pixels):
    """Outputs by name (without a suffix such as ':0') for an image [H, W, 3]."""
    pixels = pixels.transpose(2, 0, 1) if self._channels == 0 else pixels
    pixels = np.ascontiguousarray(pixels[None] if self._batched else pixels)
    try:
      arrays = self._session.run(None, {self._name: pixels})
    except Exception as error:
      raise ValueError(f'onnxruntime stopped ({brief(error)})') from error
    names = (output.name.partition(':')[0] for output in self._session.get_outputs())
    return {
      name: array.astype(np.float32) if array.dtype == np.float16 else array
      for name, array in zip(names, arrays)
    }

  def _fit(self, image):
    """The image in the input's size, uint8 [H, W, 3], and its scale (x, y)."""
    height, width = image.shape[:2]
    if not self.kind.padded:
      size = image.shape[:2] if self._any_size else self._size
      resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
      return np.asarray(resized), (size[1] / width, size[0] / height)
    scale = min(self._size[0] / height, self._size[1] / width)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    canvas = np.full((*self._size, 3), GRAY, np.uint8)
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    canvas[: size[1], : size[0]] = np.asarray(resized)
    return canvas, (scale, scale)

  def _normalise(self, canvas):
    """Pixels as the network takes them: uint8 RGB, or numbers by the kind's rule."""
    if self._type == np.uint8:
      return canvas
    if self.kind.mean is None:
      return (canvas / np.float32(255)).astype(self._type)
    mean, std = np.float32(self.kind.mean), np.float32(self.kind.std)
    return ((canvas[..., ::-1] - mean) / std).astype(self._type)

  def _unknown(self, outputs=None):
    """The error that lists what the file has and what would be understood."""
    inputs = ', '.join(f'{i.name} {i.type} {i.shape}' for i in self._session.get_inputs())
    if outputs is None:
      has = ', '.join(f'{o.name} {o.shape}' for o in self._session.get_outputs())
    else:
      has = ', '.join(f'{n} {a.dtype} {list(a.shape)}' for n, a in outputs.items())
    known = '; '.join(f'{kind.name}: {kind.outputs}' for kind in KINDS)
    return errors.CheckpointError(
      f'{self.path}: not a known detector: its inputs are {inputs}, its outputs {has}; known are '
      f'one image [1, 3, H, W] or [1, H, W, 3], float or uint8, with the outputs of {known}'
    )


def _is_yolox(outputs, size):
  cells, columns = _only_output(outputs).shape
  return cells == sum(map(math.prod, _grids(size))) and columns > 5


def _yolox(outputs, size, person):
  """Each cell of three grids predicts a box, an objectness score, and a score for each class.

  A box is its centre and the logarithm of its size in cells. If the file was exported with
  --decode_in_inference, these four numbers are in input pixels.
  """
  rows = _only_output(outputs)
  center, shape, score = rows[:, :2], rows[:, 2:4], rows[:, 4] * rows[:, 5 + person]
  if shape.max() <= LOG_SIZE:
    grids = _grids(size)
    corner = np.concatenate([np.indices(grid)[::-1].reshape(2, -1).T for grid in grids])  # [A, 2]
    stride = np.repeat(STRIDES, [math.prod(grid) for grid in grids])[:, None]
    center, shape = (center + corner) * stride, np.exp(shape) * stride
  return _corners(center, shape), score


def _is_ultralytics(outputs, size):
  numbers, cells = _only_output(outputs).shape
  return 5 <= numbers < cells


def _ultralytics(outputs, size, person):
  rows = _only_output(outputs).T
  return _corners(rows[:, :2], rows[:, 2:4]), rows[:, 4 + person]


def _is_end_to_end(outputs, size):
  return _only_output(outputs).shape[1] == 6


def _end_to_end(outputs, size, person):
  rows = _only_output(outputs)
  people = rows[rows[:, 5] == person]
  return people[:, :4], people[:, 4]


def _is_mmdeploy(outputs, size):
  shapes = [array.shape for array in outputs.values()]
  return len(shapes) == 2 and shapes[0] == (1, *shapes[1][1:], 5) and len(shapes[1]) == 2


def _mmdeploy(outputs, size, person):
  rows, labels = outputs.values()
  people = rows[0][labels[0] == person]
  return people[:, :4], people[:, 4]


def _is_suppressed(outputs, size):
  return _boxes_scores_classes(outputs) is not None


def _suppressed(outputs, size, person):
  boxes, scores, classes = _boxes_scores_classes(outputs)
  if person == box_inputs.PERSON and (classes[scores > SCORE] == 0).any():
    raise ValueError(f'it finds class 0, but people should be class {person} in files like this')
  if 'detection_boxes' in outputs:
    boxes = boxes[:, [1, 0, 3, 2]]  # TensorFlow's order is top, left, bottom, right
  people = classes == person
  if boxes.max(initial=0) <= FRACTION:
    boxes = boxes * np.tile(size[::-1], 2)
  return boxes[people], scores[people]


def _boxes_scores_classes(outputs):
  """Arrays [N, 4], [N] and [N], found by their names or else by their types; None if one lacks."""
  arrays = [next((outputs[n] for n in names if n in outputs), None) for names in NAMES.values()]
  if any(array is None for array in arrays):
    arrays = sorted(
      outputs.values(), key=lambda array: (array.shape[-1:] != (4,), array.dtype.kind)
    )
    if [array.dtype.kind for array in arrays] != ['f', 'f', 'i']:
      return None
  boxes, scores, classes = (
    array[0] if array.ndim > rank and len(array) == 1 else array
    for array, rank in zip(arrays, (2, 1, 1))
  )
  n = len(boxes)
  fits = (boxes.shape, scores.shape, classes.shape) == ((n, 4), (n,), (n,))
  return (boxes, scores, classes) if fits else None


def _only_output(outputs):
  """The array [A, B] of a file with one output [1, A, B]; an empty array for other files."""
  array = next(iter(outputs.values()))
  single = len(outputs) == 1 and array.ndim == 3 and len(array) == 1
  return array[0] if single else np.zeros((0, 0), np.float32)


def _grids(size):
  """Numbers of cells (y, x) of the three grids."""
  return [(size[0] // stride, size[1] // stride) for stride in STRIDES]


def _corners(center, size):
  return np.concatenate([center - 0.5 * size, center + 0.5 * size], 1)


KINDS = (
  Kind(
    'YOLOX',
    '[1, cells, 5 + classes]',
    *(_is_yolox, _yolox),
    mean=(0, 0, 0),
    std=(1, 1, 1),
  ),
  Kind('end-to-end YOLO (Ultralytics)', '[1, N, 6]', _is_end_to_end, _end_to_end),
  Kind('YOLOv8 or 11 (Ultralytics)', '[1, 4 + classes, N]', _is_ultralytics, _ultralytics),
  Kind(
    'YOLOX (MMDeploy)',
    '[1, N, 5] and labels [1, N]',
    *(_is_mmdeploy, _mmdeploy),
    mean=(0, 0, 0),
    std=(1, 1, 1),
  ),
  Kind(
    'boxes, scores and classes (TensorFlow, torchvision, SSD)',
    'boxes [1, N, 4], scores [1, N] and classes [1, N]',
    *(_is_suppressed, _suppressed),
    person=box_inputs.PERSON,
    padded=False,
  ),
)
RTMDET = KINDS[3]._replace(
  name='RTMDet (MMDeploy)', mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)
)


def _class_names(metadata):
  """{name in lower case: class} from the metadata that Ultralytics writes; {} in other files."""
  try:
    return {name.lower(): n for n, name in ast.literal_eval(metadata['names']).items()}
  except (KeyError, ValueError, SyntaxError, AttributeError):
    return {}


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


def brief(error: Exception) -> str:
  """First line of an error's message."""
  return (str(error) or type(error).__name__).splitlines()[0][:200]
