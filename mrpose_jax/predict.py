"""From images and boxes to keypoints in the images' pixels."""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import TypeAlias

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp
from PIL import Image

from configs import common
from input_pipeline import augment
from input_pipeline import batch as batches
from input_pipeline import boxes as box_geometry
from input_pipeline import images as image_files
from mrpose_jax import checkpoint
from mrpose_jax import codec as codecs
from mrpose_jax import compilation
from mrpose_jax import skeleton as skeletons
from mrpose_jax.models import pixels
from mrpose_jax.models import pose_network

# uint8 [H, W, 3] RGB, a Pillow image, or the path of an image file.
ImageLike: TypeAlias = np.ndarray | jax.Array | Image.Image | str | os.PathLike
BOX_FORMATS = {'xywh': 'x, y, width, height', 'xyxy': 'left, top, right, bottom'}


def model_of(config: ml_collections.ConfigDict, num_keypoints: int) -> pose_network.PoseNetwork:
  """The network that a configuration describes."""
  model = config.model
  return pose_network.create_model(
    model.network,
    model.depth,
    num_keypoints,
    dtype=model.dtype,
    width=model.width,
    norm_groups=model.norm_groups,
    remat=model.remat,
    deterministic=model.deterministic,
  )


def codec_of(config: ml_collections.ConfigDict) -> codecs.Codec:
  """The codec that a configuration describes."""
  height, width = config.data.image_size
  return codecs.Codec(
    image_size=(height, width),
    heatmap_size=(height // 4, width // 4),
    sigma=config.data.sigma,
    offset=config.eval.offset,
  )


def make_predict_heatmaps(
  config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton
) -> Callable[[dict, batches.PersonBatch], tuple[jax.Array, jax.Array]]:
  """The pure function (variables, PersonBatch) -> inputs [N, H, W, 3], heatmaps [N, h, w, K].

  The normalised crops, and what the network says of them: with the flip test, the mean over the
  crops and their mirror images.
  """
  crop, to_heatmaps, _ = _parts(config, skeleton)

  def predict_heatmaps(variables, batch):
    inputs = crop(batch)
    return inputs, to_heatmaps(variables, inputs)

  return predict_heatmaps


def make_predict_people(
  config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton
) -> Callable[[dict, batches.PersonBatch], jax.Array]:
  """The pure function (variables, PersonBatch) -> [N, K, 3] x, y in image pixels, score.

  Crop, network, flip test, decoding and the way back to the image; only numbers leave the device.
  """
  crop, to_heatmaps, to_people = _parts(config, skeleton)

  def predict_people(variables, batch):
    return to_people(to_heatmaps(variables, crop(batch)), batch.center, batch.size)

  return predict_people


def make_predict_fn(
  config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton, aspect: float, padding: float
) -> Callable[[dict, jax.Array, jax.Array], jax.Array]:
  """The pure function (variables, images, boxes) -> people, for whole images on the device.

  It crops, runs the network and the flip test, decodes, and returns to image pixels. Use it inside
  jit, vmap, shard_map or jax.export.

  - images: uint8 [N, H, W, 3] RGB.
  - boxes: [N, M, 4] x, y, width, height in pixels, M people in each image. Rows without area, to
    fill up an image that has fewer, give zeros.
  - people: float32 [N, M, K, 3] x, y in image pixels, score.

  It samples an image by bilinear interpolation whatever a box's size; the `Predictor` first
  averages a region larger than `eval.canvas` down to it, and is the same for all others.

  For shard_map, first place the variables on the mesh by jax.device_put.

  Args:
    config, skeleton: of the network.
    aspect, padding: of the crops, see `box_to_region`.
  """
  crop, to_heatmaps, to_people = _parts(config, skeleton)

  def predict_fn(variables, images, boxes):
    n, m = boxes.shape[:2]
    has_area = (boxes[..., 2:] > 0).all(-1)  # [N, M]
    boxes = jnp.where(has_area[..., None], boxes, 1).astype(jnp.float32)
    center, size = box_geometry.box_to_region(boxes, aspect, padding)
    origin, zoom = jnp.zeros((n, 2)), jnp.ones((n, 2))
    unknown = jnp.zeros((n, 1, 2))

    def crop_one_each(center, size):
      return crop(batches.PersonBatch(images, origin, zoom, center, size, unknown, unknown[..., 0]))

    inputs = jax.vmap(crop_one_each, 1, 1)(center, size)  # [N, M, height, width, 3]
    heatmaps = to_heatmaps(variables, inputs.reshape(n * m, *inputs.shape[2:]))
    people = to_people(heatmaps, center.reshape(n * m, 2), size.reshape(n * m, 2))
    people = people.reshape(n, m, *people.shape[1:])
    return jnp.where(has_area[..., None, None], people, 0)

  return predict_fn


def _parts(config, skeleton):
  """Three pure functions: a PersonBatch's inputs, their heatmaps, and the people in these."""
  model, codec = model_of(config, skeleton.num_keypoints), codec_of(config)
  order = skeletons.flip_order(skeleton.flip_pairs, skeleton.num_keypoints)
  flip_test, channel_order = config.eval.flip_test, config.model.channel_order

  def crop(batch):
    return augment.crop_people(batch, None, codec.image_size, order, channel_order)[0]

  def to_heatmaps(variables, inputs):
    if not flip_test:
      return model.apply(variables, inputs, train=False)
    # In memory, or a CPU samples them for each of both; a weight is on all devices.
    inputs = pixels.materialize(inputs, jax.tree.leaves(variables)[0].ravel()[0])
    # Each beside its mirror image, so that both stay on the device that has the person.
    both = jnp.stack([inputs, inputs[:, :, ::-1]], 1)  # [N, 2, H, W, 3]
    heatmaps = model.apply(variables, both.reshape(-1, *inputs.shape[1:]), train=False)
    heatmaps = heatmaps.reshape(-1, 2, *heatmaps.shape[1:])
    mirrored = codecs.flip_heatmaps(heatmaps[:, 1], skeleton.flip_pairs)
    return 0.5 * (heatmaps[:, 0] + mirrored)

  def to_people(heatmaps, center, size):
    points, scores = codec.decode(heatmaps)
    points = box_geometry.heatmap_to_image(points, center, size, codec.heatmap_size)
    return jnp.concatenate([points, scores[..., None]], -1)

  return crop, to_heatmaps, to_people


class Predictor:
  """A trained network, ready for images; made by `load_predictor`.

  Attributes:
    config: of the training run.
    skeleton: names of the keypoints it predicts.
    step: of the checkpoint.
    variables: of the network, batch norm folded into its convolutions, on the device.
    predict_fn: (variables, images, boxes) -> people, pure; see `make_predict_fn`.
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
    self.variables = self._variables = jax.jit(pose_network.fold_batch_norm)(variables)
    # `predict_fn` may be compiled for any platform, this object's own programs run here.
    if jax.default_backend() == 'cpu':
      model = model_of(config, skeleton.num_keypoints)
      prepare = jax.jit(functools.partial(pose_network.prepare_for_cpu, model))
      self._variables = prepare(self.variables)
    self.predict_fn = make_predict_fn(config, skeleton, aspect, padding)
    self._region = {'aspect': aspect, 'padding': padding}
    self._predict = compilation.jit(make_predict_people(config, skeleton))
    self._predict_heatmaps = compilation.jit(make_predict_heatmaps(config, skeleton))

  def __call__(
    self,
    images: ImageLike | Sequence[ImageLike],
    boxes: np.ndarray | Sequence | None = None,
    box_format: str = 'xywh',
  ) -> np.ndarray | list[np.ndarray]:
    """Keypoints of the people in these boxes.

    The people of all images go through the network together, in batches of `eval.batch_size`. The
    last batch is filled up to 1, 2, 4, ... people, so that few programs are compiled, whatever the
    images' sizes. Files are read one by one.

    Args:
      images: one image or a list of them: uint8 [H, W, 3] RGB of NumPy or JAX, Pillow images, or
        paths. As in annotation files, an EXIF orientation is ignored.
      boxes: [N, 4] pixels, each around one person; None takes the whole image for one. For a list
        of images, None or a list of these.
      box_format: 'xywh' (x, y, width, height) or 'xyxy' (left, top, right, bottom).

    Returns:
      float32 [N, K, 3]: x, y in image pixels, score. For a list of images, a list of these.

    Raises:
      ValueError: an image or boxes of another shape or type, or boxes without area.
      DataError: a file that is no image.

    >>> predictor = load_predictor('runs/quickstart')
    >>> predictor('photo.jpg', [[20, 10, 60, 90], [90, 15, 50, 80]]).shape
    (2, 17, 3)
    >>> image = np.zeros((120, 160, 3), np.uint8)
    >>> people = predictor(['photo.jpg', image], [[[20, 10, 80, 100]], None], box_format='xyxy')
    >>> [found.shape for found in people]
    [(1, 17, 3), (1, 17, 3)]
    """
    if not isinstance(images, list | tuple):
      return self([images], [boxes], box_format)[0]
    boxes = [None] * len(images) if boxes is None else boxes
    if len(boxes) != len(images):
      raise ValueError(f'{len(images)} images and boxes for {len(boxes)}')
    counts = []

    def examples():
      for image, found in zip(images, boxes):
        pixels, found = _checked(image, found, box_format)
        counts.append(len(found))
        yield from self._examples(pixels, found)

    people = [np.zeros((0, self.skeleton.num_keypoints, 3), np.float32)]
    stream = examples()
    while batch := list(itertools.islice(stream, self.config.eval.batch_size)):
      people[-1] = np.asarray(people[-1])  # the device worked on it while this batch was read
      people.append(self._predict_batch(batch))
    people = np.concatenate(people)[: sum(counts)]  # the last batch was filled up
    return np.split(people, np.cumsum(counts)[:-1]) if counts else []

  def heatmaps(self, image: ImageLike, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of one person, and its heatmaps, flip test included.

    Args:
      image: as for calling the predictor.
      box: [4] x, y, width, height in pixels.

    Returns:
      The crop as uint8 RGB of the network's input size, and float32 [h, w, K] of a quarter of it.

    Raises:
      ValueError, DataError: as for calling the predictor.
    """
    pixels, boxes = _checked(image, np.reshape(box, (1, -1)), 'xywh')
    examples = batches.stack(list(self._examples(pixels, boxes)), self.config.eval.canvas)
    inputs, heatmaps = self._predict_heatmaps(self._variables, examples)
    crop = to_pixels(np.asarray(inputs)[0], self.config.model.channel_order)
    return crop, np.asarray(heatmaps)[0]

  def _predict_batch(self, examples):
    count = len(examples)
    padded = min(1 << (count - 1).bit_length(), self.config.eval.batch_size)
    examples = batches.stack(examples + [examples[-1]] * (padded - count), self.config.eval.canvas)
    return self._predict(self._variables, examples)

  def _examples(self, image, boxes):
    """Yields what a batch needs of each box."""
    center, size = box_geometry.box_to_region(boxes, **self._region)
    low, high = box_geometry.reach(center, size)
    canvas = self.config.eval.canvas
    unknown = np.zeros((self.skeleton.num_keypoints, 2), np.float32)
    for i in range(len(boxes)):
      patch = image_files.cut_patch(image, low[i], high[i], canvas)
      yield batches.person_example(patch, center[i], size[i], unknown, unknown[:, 0])


def _checked(image, boxes, box_format):
  """uint8 [H, W, 3] and boxes [N, 4] xywh, the whole image for None; raises ValueError."""
  if isinstance(image, str | os.PathLike):
    image = image_files.read(image)
  elif isinstance(image, Image.Image):
    image = image.convert('RGB')
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
    raise ValueError(
      f'image is {image.dtype} {image.shape}; it must be uint8 [H, W, 3] RGB, a Pillow image or a '
      'path, or a list of these'
    )
  if box_format not in BOX_FORMATS:
    raise ValueError(f'box_format {box_format!r}: use one of {", ".join(BOX_FORMATS)}')
  if boxes is None:
    height, width = image.shape[:2]
    return image, np.array([[0, 0, width, height]], np.float32)
  boxes = np.array(boxes, np.float32)
  boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
  if boxes.ndim != 2 or boxes.shape[1] != 4:
    raise ValueError(f'boxes are {boxes.shape}; they must be [N, 4] {BOX_FORMATS[box_format]}')
  if box_format == 'xyxy':
    boxes[:, 2:] -= boxes[:, :2]
  if not (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()):
    raise ValueError('boxes must be finite, with positive width and height')
  return image, boxes


def to_pixels(crops: np.ndarray, channel_order: str) -> np.ndarray:
  """The inverse of `augment.normalize` for crops [.., H, W, 3], as uint8 RGB."""
  crops = 255 * (crops * augment.STD + augment.MEAN)
  crops = crops[..., ::-1] if channel_order == 'bgr' else crops
  return np.clip(np.rint(crops), 0, 255).astype(np.uint8)


def load_predictor(
  workdir: str | os.PathLike,
  flip_test: bool | None = None,
  offset: str | None = None,
  batch_size: int | None = None,
) -> Predictor:
  """The predictor of a training run's best step, or of one checkpoint.

  Args:
    workdir: of a training run, or a checkpoint's own folder WORKDIR/checkpoints/STEP.
    flip_test, offset, batch_size: in place of the run's own `config.eval`.

  Raises:
    CheckpointError: no usable checkpoint there.
    ValueError: an offset that is neither 'quarter' nor 'none', or a batch size below 1.

  >>> predictor = load_predictor('runs/quickstart', flip_test=False, batch_size=16)
  >>> predictor.skeleton.keypoints[0]
  'nose'
  >>> jax.jit(predictor.predict_fn)(
  ...   predictor.variables, jnp.zeros((1, 90, 120, 3), jnp.uint8), jnp.array([[[9.0, 9, 50, 70]]])
  ... ).shape
  (1, 1, 17, 3)
  """
  variables, meta, step = restore(workdir)
  config = ml_collections.ConfigDict(meta['config'])
  given = {'flip_test': flip_test, 'offset': offset, 'batch_size': batch_size}
  config.eval.update({name: value for name, value in given.items() if value is not None})
  if config.eval.batch_size < 1:
    raise ValueError(f'batch_size {batch_size}: must be at least 1')
  skeleton, crops = skeletons.from_dict(meta['skeleton']), meta['crops']
  return Predictor(variables, config, skeleton, crops['aspect'], crops['padding'], step)


def restore(workdir: str | os.PathLike) -> tuple[dict, dict, int]:
  """Variables, `meta` and step of a training run's best checkpoint, or of the one that is named.

  Raises:
    CheckpointError: no usable checkpoint there.
  """
  workdir, step = checkpoint.locate(pathlib.Path(workdir).expanduser())
  checkpoints = checkpoint.Checkpoints(workdir)
  step = checkpoints.best_step() if step is None else step
  meta = checkpoints.meta(step)
  meta['config'] = _complete(meta['config'])
  num_keypoints = len(meta['skeleton']['keypoints'])
  target = abstract_variables(model_of(ml_collections.ConfigDict(meta['config']), num_keypoints))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  variables = checkpoints.restore_variables(step, checkpoint.restore_target(target, device))
  checkpoints.close()
  return variables, meta, step


def _complete(config):
  """A stored configuration, with defaults for fields that came after it."""
  whole = common.get_config().to_dict()
  for name, value in config.items():
    whole[name] = whole.get(name, {}) | value if isinstance(value, dict) else value
  return whole


def abstract_variables(model: pose_network.PoseNetwork):
  """Shapes of a network's variables."""
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  return {'params': variables['params'], 'batch_stats': variables['batch_stats']}
