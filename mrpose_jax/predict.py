"""From an image and boxes to keypoints in the image's pixels."""

import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from input_pipeline import augment
from input_pipeline import batch as batches
from input_pipeline import boxes as box_geometry
from input_pipeline import images
from mrpose_jax import checkpoint
from mrpose_jax import codec as codecs
from mrpose_jax import skeleton as skeletons
from mrpose_jax.models import pose_network


def model_of(config: ml_collections.ConfigDict, num_keypoints: int) -> pose_network.PoseNetwork:
  """The network that a configuration describes."""
  model = config.model
  return pose_network.create_model(
    model.network, model.depth, num_keypoints, dtype=model.dtype, width=model.width
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
  model = model_of(config, skeleton.num_keypoints)
  image_size = codec_of(config).image_size
  order = skeletons.flip_order(skeleton.flip_pairs, skeleton.num_keypoints)

  def predict_heatmaps(variables, batch):
    inputs, _, _ = augment.crop_people(batch, None, image_size, order, config.model.channel_order)
    if not config.eval.flip_test:
      return inputs, model.apply(variables, inputs, train=False)
    n = inputs.shape[0]
    both = jax.numpy.concatenate([inputs, inputs[:, :, ::-1]])  # [2N, H, W, 3]
    heatmaps = model.apply(variables, both, train=False)
    mirrored = codecs.flip_heatmaps(heatmaps[n:], skeleton.flip_pairs)
    return inputs, 0.5 * (heatmaps[:n] + mirrored)

  return predict_heatmaps


def make_predict_people(
  config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton
) -> Callable[[dict, batches.PersonBatch], jax.Array]:
  """The pure function (variables, PersonBatch) -> [N, K, 3] x, y in image pixels, score.

  Crop, network, flip test, decoding and the way back to the image; only numbers leave the device.
  """
  codec = codec_of(config)
  predict_heatmaps = make_predict_heatmaps(config, skeleton)

  def predict_people(variables, batch):
    _, heatmaps = predict_heatmaps(variables, batch)
    points, scores = codec.decode(heatmaps)
    points = box_geometry.heatmap_to_image(points, batch.center, batch.size, codec.heatmap_size)
    return jax.numpy.concatenate([points, scores[..., None]], -1)

  return predict_people


class Predictor:
  """A trained network, ready for images; made by `load_predictor`.

  Attributes:
    config: of the training run.
    skeleton: names of the keypoints it predicts.
    step: of the checkpoint.
  """

  def __init__(self, variables, config, skeleton, aspect, padding, step):
    self.config = config
    self.skeleton = skeleton
    self.step = step
    self._variables = jax.device_put(variables)
    self._region = {'aspect': aspect, 'padding': padding}
    self._predict = jax.jit(make_predict_people(config, skeleton))
    self._predict_heatmaps = jax.jit(make_predict_heatmaps(config, skeleton))

  def __call__(self, image: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray:
    """Keypoints of the people in these boxes.

    Args:
      image: uint8 [H, W, 3] RGB.
      boxes: [N, 4] x, y, width, height in pixels, each around one person; None takes the whole
        image for one.

    Returns:
      [N, K, 3] float32: x, y in image pixels, score.

    Raises:
      ValueError: an image or boxes of another shape or type, or boxes without area.
    """
    image, boxes = _checked(image, boxes)
    people = [np.zeros((0, self.skeleton.num_keypoints, 3), np.float32)]
    limit = self.config.eval.batch_size
    for start in range(0, len(boxes), limit):
      people.append(self._predict_boxes(image, boxes[start : start + limit]))
    return np.concatenate(people)

  def heatmaps(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of one person, and its heatmaps, flip test included.

    Args:
      image: uint8 [H, W, 3] RGB.
      box: [4] x, y, width, height in pixels.

    Returns:
      The crop as uint8 RGB of the network's input size, and float32 [h, w, K] of a quarter of it.

    Raises:
      ValueError: as for calling the predictor.
    """
    image, boxes = _checked(image, np.reshape(box, (1, -1)))
    examples = batches.stack(self._examples(image, boxes), self.config.eval.canvas)
    inputs, heatmaps = self._predict_heatmaps(self._variables, examples)
    crop = to_pixels(np.asarray(inputs)[0], self.config.model.channel_order)
    return crop, np.asarray(heatmaps)[0]

  def _predict_boxes(self, image, boxes):
    examples = self._examples(image, boxes)
    # Batches of 1, 2, 4, ... people, so that few programs are compiled.
    padded = 1 << (len(boxes) - 1).bit_length()
    examples += [examples[-1]] * (padded - len(boxes))
    examples = batches.stack(examples, self.config.eval.canvas)
    return np.asarray(self._predict(self._variables, examples))[: len(boxes)]

  def _examples(self, image, boxes):
    """A PersonBatch of one for each box."""
    center, size = box_geometry.box_to_region(boxes, **self._region)
    low, high = box_geometry.reach(center, size)
    canvas = self.config.eval.canvas
    unknown = np.zeros((self.skeleton.num_keypoints, 2), np.float32)
    return [
      batches.person_example(
        images.cut_patch(image, low[i], high[i], canvas),
        center[i],
        size[i],
        unknown,
        unknown[:, 0],
      )
      for i in range(len(boxes))
    ]


def _checked(image, boxes):
  """Image and boxes as arrays, one box around the whole image for None; raises ValueError."""
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
    raise ValueError(f'image is {image.dtype} {image.shape}; it must be uint8 [H, W, 3] RGB')
  height, width = image.shape[:2]
  boxes = np.array([[0, 0, width, height]] if boxes is None else boxes, np.float32)
  boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
  if boxes.ndim != 2 or boxes.shape[1] != 4:
    raise ValueError(f'boxes are {boxes.shape}; they must be [N, 4] x, y, width, height')
  if not (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()):
    raise ValueError('boxes must be finite, with positive width and height')
  return image, boxes


def to_pixels(crops: np.ndarray, channel_order: str) -> np.ndarray:
  """The inverse of `augment.normalize` for crops [.., H, W, 3], as uint8 RGB."""
  crops = 255 * (crops * augment.STD + augment.MEAN)
  crops = crops[..., ::-1] if channel_order == 'bgr' else crops
  return np.clip(np.rint(crops), 0, 255).astype(np.uint8)


def load_predictor(workdir) -> Predictor:
  """The predictor of a training run's best step, or of one checkpoint.

  Args:
    workdir: of a training run, or a checkpoint's own folder WORKDIR/checkpoints/STEP.

  Raises:
    CheckpointError: no usable checkpoint there.
  """
  workdir, step = checkpoint.locate(pathlib.Path(workdir).expanduser())
  checkpoints = checkpoint.Checkpoints(workdir)
  step = checkpoints.best_step() if step is None else step
  meta = checkpoints.meta(step)
  config = ml_collections.ConfigDict(meta['config'])
  skeleton = skeletons.from_dict(meta['skeleton'])
  target = abstract_variables(model_of(config, skeleton.num_keypoints))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  variables = checkpoints.restore_variables(step, checkpoint.restore_target(target, device))
  checkpoints.close()
  return Predictor(
    variables, config, skeleton, meta['crops']['aspect'], meta['crops']['padding'], step
  )


def abstract_variables(model: pose_network.PoseNetwork):
  """Shapes of a network's variables."""
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  return {'params': variables['params'], 'batch_stats': variables['batch_stats']}
