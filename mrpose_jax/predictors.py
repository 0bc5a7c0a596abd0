"""Trained networks that take images: `load_predictor` and the `Predictor` that it returns."""

import itertools
import os
from collections.abc import Sequence
from typing import TypeAlias

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp
from PIL import Image

from mrpose_jax import box_inputs
from mrpose_jax import defaults
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.models import folding
from mrpose_jax.models import pose_network
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import compilation
from mrpose_jax.runtime import number_types
from mrpose_jax.weights import hub
from mrpose_jax.weights import published

# uint8 [H, W, 3] RGB, a Pillow image, or an image file: its bytes or its path.
ImageLike: TypeAlias = np.ndarray | jax.Array | Image.Image | bytes | str | os.PathLike


class Predictor:
  """A trained network that takes images; `load_predictor` or `from_variables` makes it.

  Attributes:
    config: configuration of the training run.
    skeleton: the keypoints that the network predicts.
    crops: shape of the region around a box, the arguments of `geometry.box_to_region`.
    step: step of the checkpoint; 0 for variables that are not from a checkpoint.
    variables: the network's variables on the device, with batch norm folded into convolutions.
    predict_fn: pure function (variables, images, boxes) -> people, see `predict.make_predict_fn`.
  """

  def __init__(
    self,
    variables: dict,
    config: ml_collections.ConfigDict,
    skeleton: skeletons.Skeleton,
    aspect: float,
    padding: float,
    step: int,
  ):
    self.config = config
    self.skeleton = skeleton
    self.step = step
    model = predict.model_of(config, skeleton.num_keypoints)
    self.variables = jax.jit(folding.fold_batch_norm, static_argnums=0)(model, variables)
    self.predict_fn = predict.make_predict_fn(config, skeleton, aspect, padding)
    self.crops = {'aspect': aspect, 'padding': padding}
    jit = compilation.jit_prediction(model, self.variables)
    self._predict = jit(predict.make_predict_people(config, skeleton))
    self._predict_heatmaps = jit(predict.make_predict_heatmaps(config, skeleton))

  @classmethod
  def from_variables(
    cls,
    model: pose_network.PoseNetwork,
    variables: dict,
    skeleton: skeletons.Skeleton,
    image_size: tuple[int, int] = (256, 192),
    channel_order: str = 'rgb',
    padding: float = 1.25,
    codec: str = 'paper',
    sigma: float = 2.0,
    flip_test: bool | None = None,
    offset: str | None = None,
    batch_size: int | None = None,
  ) -> 'Predictor':
    """Makes a predictor without a workdir, for example of imported PyTorch weights.

    Args:
      model: from `create_model`.
      variables: its variables {'params', 'batch_stats'}; JAX arrays stay on their device.
      skeleton: the keypoints that the network predicts.
      image_size: (height, width) of the network's input in pixels, multiples of 32.
      channel_order: 'rgb' or 'bgr', the order that the network was trained with.
      padding: factor on the sides of boxes that the network was trained with.
      codec, sigma: of the heatmaps that the network was trained with, see `mrpose_jax.codecs`.
      flip_test, offset, batch_size: replace the defaults of `config.eval`.

    Raises:
      ValueError: the skeleton has another number of keypoints than the network, the batch size is
        below 1, or the channel order or the offset is unknown.
      ConfigError: the codec is unknown.
    """
    if skeleton.num_keypoints != model.num_keypoints:
      raise ValueError(
        f'the skeleton has {skeleton.num_keypoints} keypoints, the network {model.num_keypoints}'
      )
    if channel_order not in ('rgb', 'bgr'):
      raise ValueError(f"channel_order {channel_order!r}: use 'rgb' or 'bgr'")
    config = defaults.get_config()
    fields = {name: getattr(model, name) for name in config.model if hasattr(model, name)}
    fields |= {'dtype': jnp.dtype(model.dtype).name, 'channel_order': channel_order}
    config.model.update(fields)
    config.data.update(image_size=tuple(image_size), codec=codec, sigma=sigma)
    _set(config.eval, flip_test=flip_test, offset=offset, batch_size=batch_size)
    height, width = image_size
    return cls(variables, config, skeleton, width / height, padding, step=0)

  def __call__(
    self,
    images: ImageLike | Sequence[ImageLike],
    boxes: box_inputs.Boxes | Sequence[box_inputs.Boxes] = None,
    box_format: str = 'xywh',
    exif: bool = True,
  ) -> np.ndarray | list[np.ndarray]:
    """Predicts the keypoints of the people in the boxes.

    The people of all images share batches of `eval.batch_size`. The last batch is filled up to 1,
    2, 4, ... people, so that few programs are compiled, whatever the sizes of the images. Files are
    read one by one.

    Args:
      images: one image or a list of images. An image is a uint8 array [H, W, 3] RGB of NumPy or
        JAX, a Pillow image, or an image file: its bytes or its path.
      boxes: [N, 4] pixels, each around one person; or a `supervision.Detections`; or a detector, a
        function of the image that returns either, perhaps with scores and classes, see
        `box_inputs`. None means that the whole image is one person. For a list of images, one of
        these for each of them, or None or a detector for all.
      box_format: 'xywh' (x, y, width, height) or 'xyxy' (left, top, right, bottom), the format of
        arrays, also of those that a detector returns.
      exif: turn Pillow images and files upright by their EXIF orientation, as viewers do. Boxes and
        keypoints are then in the upright image. Annotations refer to the pixels as stored: for
        annotated boxes use False.

    Returns:
      float32 [N, K, 3]: x, y in image pixels, score. For a list of images, a list of such arrays.

    Raises:
      ValueError: an image or boxes of another shape or type, or boxes without area; or a detector
        whose classes are not COCO's.
      DataError: a file or Pillow image cannot be read.

    >>> predictor = load_predictor('runs/quickstart')
    >>> predictor('photo.jpg', [[20, 10, 60, 90], [90, 15, 50, 80]]).shape
    (2, 17, 3)
    >>> image = np.zeros((120, 160, 3), np.uint8)
    >>> people = predictor(['photo.jpg', image], [[[20, 10, 80, 100]], None], box_format='xyxy')
    >>> [keypoints.shape for keypoints in people]
    [(1, 17, 3), (1, 17, 3)]
    """
    if not isinstance(images, list | tuple):
      return self([images], [boxes], box_format, exif)[0]
    boxes = [boxes] * len(images) if boxes is None or callable(boxes) else boxes
    if len(boxes) != len(images):
      raise ValueError(f'{len(images)} images and boxes for {len(boxes)}')
    counts = []

    def examples_of_all():
      for image, image_boxes in zip(images, boxes):
        pixels, image_boxes = _checked(image, image_boxes, box_format, exif)
        counts.append(len(image_boxes))
        yield from self._examples(pixels, image_boxes)

    people = [np.zeros((0, self.skeleton.num_keypoints, 3), np.float32)]
    examples = examples_of_all()
    while batch := list(itertools.islice(examples, self.config.eval.batch_size)):
      people[-1] = np.asarray(people[-1])  # the device computed it while this batch was read
      people.append(self._predict_batch(batch))
    people = np.concatenate(people)[: sum(counts)]  # the last batch was filled up
    return np.split(people, np.cumsum(counts)[:-1]) if counts else []

  def heatmaps(
    self, image: ImageLike, box: np.ndarray, exif: bool = True
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the crop of one person and its heatmaps, flip test included.

    Both show the box's region times the mean of `eval.scales`.

    Args:
      image, exif: see `__call__`.
      box: [4] x, y, width, height in pixels.

    Returns:
      The crop, uint8 [H, W, 3] RGB of the network's input size, and the heatmaps, float32
      [H/4, W/4, K].

    Raises:
      ValueError, DataError: see `__call__`.
    """
    pixels, boxes = _checked(image, np.reshape(box, (1, -1)), 'xywh', exif)
    examples = batching.stack(list(self._examples(pixels, boxes)), self.config.eval.canvas)
    inputs, heatmaps = self._predict_heatmaps(examples)
    crop = augment.to_pixels(np.asarray(inputs)[0], self.config.model.channel_order)
    return crop, np.asarray(heatmaps)[0]

  def _predict_batch(self, examples):
    count = len(examples)
    padded = min(1 << (count - 1).bit_length(), self.config.eval.batch_size)
    examples = batching.stack(examples + [examples[-1]] * (padded - count), self.config.eval.canvas)
    return self._predict(examples)

  def _examples(self, image, boxes):
    """Yields a PersonBatch row for each box."""
    center, size = geometry.box_to_region(boxes, **self.crops)
    low, high = geometry.reach(center, size * max(self.config.eval.scales))
    canvas = self.config.eval.canvas
    unknown = np.zeros((self.skeleton.num_keypoints, 2), np.float32)
    for i in range(len(boxes)):
      patch = image_files.cut_patch(image, low[i], high[i], canvas)
      yield batching.person_example(patch, center[i], size[i], unknown, unknown[:, 0])


def _checked(image, boxes, box_format, exif):
  """Returns uint8 [H, W, 3] and boxes [N, 4] xywh, or raises ValueError."""
  if isinstance(image, str | os.PathLike):
    image = image_files.read(image, exif)
  elif isinstance(image, bytes):
    image = image_files.decode(image, 'an image in bytes', exif)
  elif isinstance(image, Image.Image):
    image = image_files.from_pillow(image, exif)
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
    raise ValueError(
      f'image is {image.dtype} {image.shape}; it must be uint8 [H, W, 3] RGB, a Pillow image, '
      'the bytes or path of an image file, or a list of these'
    )
  return image, box_inputs.to_xywh(boxes, image, box_format)


def load_predictor(
  workdir: str | os.PathLike,
  flip_test: bool | None = None,
  offset: str | None = None,
  batch_size: int | None = None,
  dtype: str | None = None,
  device: jax.Device | None = None,
  ema: bool | None = None,
  scales: Sequence[float] | None = None,
) -> Predictor:
  """Makes the predictor of a trained network.

  Args:
    workdir: workdir of a training run, whose best checkpoint is used; or the folder
      WORKDIR/checkpoints/STEP of a checkpoint; or a folder that --mode=publish wrote; or
      hf://owner/name or hf://owner/name@revision, such a folder on the Hugging Face hub.
    flip_test, offset, batch_size, ema, scales: replace the values of the run's own `config.eval`.
    dtype: 'float32', 'bfloat16' or 'auto', see `number_types.choose`. None is the type that the run
      computed in, except that a CPU computes in float32, where bfloat16 would be slow.
    device: the device to predict on; by default the first of this process.

  Raises:
    CheckpointError: there is no usable checkpoint.
    ConfigError: an unknown dtype.
    ValueError: the offset is unknown, the batch size is below 1, or a scale is not 0.1 to 10.

  >>> predictor = load_predictor('runs/quickstart', flip_test=False, batch_size=16)
  >>> predictor.skeleton.keypoints[0]
  'nose'
  >>> images = np.zeros((1, 90, 120, 3), np.uint8)
  >>> boxes = np.array([[[9, 9, 50, 70]]], np.float32)
  >>> jax.jit(predictor.predict_fn)(predictor.variables, images, boxes).shape
  (1, 1, 17, 3)
  """
  variables, meta, step = restore(workdir, device, ema)
  config = ml_collections.ConfigDict(meta['config'])
  _set(config.eval, flip_test=flip_test, offset=offset, batch_size=batch_size)
  _set(config.eval, scales=None if scales is None else tuple(scales))
  device = device or jax.local_devices()[0]
  if dtype is None:
    dtype = number_types.AUTO if device.platform == 'cpu' else config.model.dtype
  config.model.dtype = number_types.choose(dtype, device)
  skeleton, crops = skeletons.from_dict(meta['skeleton']), meta['crops']
  return Predictor(variables, config, skeleton, crops['aspect'], crops['padding'], step)


def _set(section, **values):
  """Sets the fields of a section of the configuration whose value is not None."""
  section.update({name: value for name, value in values.items() if value is not None})
  if section.get('batch_size', 1) < 1:
    raise ValueError(f'batch_size {section.batch_size}: must be at least 1')


def restore(
  source: str | os.PathLike, device: jax.Device | None = None, ema: bool | None = None
) -> tuple[dict, dict, int]:
  """Restores the network that `load_predictor` uses, see there for `source`.

  Args:
    source, device: see `load_predictor`.
    ema: restore the moving average of the variables; None leaves it to the run's `config.eval.ema`.

  Returns:
    Its variables on `device` (by default this process's first device), its `meta`, and its step.

  Raises:
    CheckpointError: there is no usable checkpoint.
  """
  place = jax.sharding.SingleDeviceSharding(device or jax.local_devices()[0])
  folder = hub.download(source) if hub.is_address(source) else paths.parse(source)
  if published.is_published(folder):
    variables, meta = published.read(folder, _shapes_of)
    meta['config'] = _complete(meta['config'])
    if ema is not None:
      raise errors.CheckpointError(f'{source}: holds one set of variables; leave out ema={ema}')
    return jax.device_put(variables, place), meta, meta['step']
  workdir, step = checkpoint.locate(folder)
  checkpoints = checkpoint.Checkpoints(workdir)

  def read(step):
    meta = checkpoints.meta(step)
    target = checkpoint.restore_target(_shapes_of(meta), place)
    meta['config'] = _complete(meta['config'])
    average = meta['config']['eval']['ema'] if ema is None else ema
    return checkpoints.restore_variables(step, target, average), meta

  step, (variables, meta) = checkpoints.read(step, read)
  checkpoints.close()
  return variables, meta, step


def _shapes_of(meta):
  """Shapes of the variables of the network that a checkpoint's `meta` describes."""
  config = ml_collections.ConfigDict(_complete(meta['config']))
  model = predict.model_of(config, len(meta['skeleton']['keypoints']))
  return training_step.abstract_variables(model)


def _complete(config):
  """A stored configuration, with defaults for fields that are newer than it."""
  complete = defaults.get_config().to_dict()
  for name, value in config.items():
    complete[name] = complete.get(name, {}) | value if isinstance(value, dict) else value
  return complete
