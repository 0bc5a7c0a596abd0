"""From images and boxes to keypoints in image pixels: pure functions."""

from collections.abc import Callable

import jax
import ml_collections
from jax import numpy as jnp

from mrpose_jax import codecs
from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.models import pose_network
from mrpose_jax.runtime import number_types


def model_of(config: ml_collections.ConfigDict, num_keypoints: int) -> pose_network.PoseNetwork:
  """Builds the network that a configuration describes."""
  model = config.model
  return pose_network.create_model(
    model.network,
    model.depth,
    num_keypoints,
    dtype=number_types.choose(model.dtype),
    width=model.width,
    norm_groups=model.norm_groups,
    remat=model.remat,
    deterministic=model.deterministic,
    precision=model.precision,
  )


def codec_of(config: ml_collections.ConfigDict) -> codecs.Codec:
  """Builds the codec that a configuration describes.

  Raises:
    ConfigError: there is no such codec.
    ValueError: the offset or sigma is none that the codec knows.
  """
  height, width = config.data.image_size
  name = config.data.codec
  if name not in codecs.CODECS:
    raise errors.ConfigError(f'data.codec={name!r}: use one of {", ".join(codecs.CODECS)}')
  codec = codecs.CODECS[name]
  return codec(
    image_size=(height, width),
    heatmap_size=(height // 4, width // 4),
    sigma=config.data.sigma,
    offset=config.eval.offset or codec.offset,
  )


def mean_scale(config: ml_collections.ConfigDict) -> float:
  """Factor on the size of a region that its heatmaps show: the mean of `eval.scales`.

  Raises:
    ValueError: there is no scale, or one is not within 0.1 to 10.
  """
  scales = tuple(config.eval.scales)
  if not scales or not all(isinstance(s, int | float) and 0.1 <= s <= 10 for s in scales):
    raise ValueError(f'eval.scales={scales}: one or more factors are needed, 0.1 to 10')
  return sum(scales) / len(scales)


def make_predict_heatmaps(
  config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton
) -> Callable[[dict, batching.PersonBatch], tuple[jax.Array, jax.Array]]:
  """Returns the pure function (variables, PersonBatch) -> inputs, heatmaps.

  The inputs are the normalised crops [N, H, W, 3]. The heatmaps are [N, h, w, K]; with the flip
  test they are the mean over the crops and their mirror images, and with several `eval.scales` the
  mean over these. Both show the regions times `mean_scale`.
  """
  crop, to_heatmaps, _ = _parts(config, skeleton)

  def predict_heatmaps(variables, batch):
    inputs = crop(batch, mean_scale(config))
    return inputs, to_heatmaps(variables, lambda scale: crop(batch, scale))

  return predict_heatmaps


def make_predict_people(
  config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton
) -> Callable[[dict, batching.PersonBatch], jax.Array]:
  """Returns the pure function (variables, PersonBatch) -> [N, K, 3] x, y in image pixels, score.

  It crops, runs the network and the flip test, decodes and maps the keypoints back to the image, so
  that only keypoints leave the device.
  """
  crop, to_heatmaps, to_people = _parts(config, skeleton)

  def predict_people(variables, batch):
    heatmaps = to_heatmaps(variables, lambda scale: crop(batch, scale))
    return to_people(heatmaps, batch.center, batch.size)

  return predict_people


def make_predict_fn(
  config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton, aspect: float, padding: float
) -> Callable[[dict, jax.Array, jax.Array], jax.Array]:
  """Returns the pure function (variables, images, boxes) -> people, for whole images.

  It crops, runs the network and the flip test, decodes and maps the keypoints back to the images.
  Use it inside jit, vmap, shard_map or jax.export.

  - images: uint8 [N, H, W, 3] RGB.
  - boxes: [N, M, 4] x, y, width, height in pixels, M people in each image. Rows without area, which
    fill up images with fewer people, give zeros.
  - people: float32 [N, M, K, 3] x, y in image pixels, score.

  It samples images by bilinear interpolation, whatever the size of a box. The `Predictor` gives
  the same keypoints, except that it first averages a region larger than `eval.canvas` to that size.

  For shard_map, first place the variables on the mesh with jax.device_put.

  Args:
    config, skeleton: configuration and skeleton of the network.
    aspect, padding: shape of the crops, see `geometry.box_to_region`.
  """
  crop, to_heatmaps, to_people = _parts(config, skeleton)

  def predict_fn(variables, images, boxes):
    n, m = boxes.shape[:2]
    has_area = (boxes[..., 2:] > 0).all(-1)  # [N, M]
    boxes = jnp.where(has_area[..., None], boxes, 1).astype(jnp.float32)
    center, size = geometry.box_to_region(boxes, aspect, padding)
    origin, zoom = jnp.zeros((n, 2), jnp.float32), jnp.ones((n, 2), jnp.float32)
    unknown = jnp.zeros((n, 1, 2), jnp.float32)

    def crop_all(scale):
      def crop_one_each(center, size):
        people = batching.PersonBatch(images, origin, zoom, center, size, unknown, unknown[..., 0])
        return crop(people, scale)

      inputs = jax.vmap(crop_one_each, 1, 1)(center, size)  # [N, M, height, width, 3]
      return inputs.reshape(n * m, *inputs.shape[2:])

    heatmaps = to_heatmaps(variables, crop_all)
    people = to_people(heatmaps, center.reshape(n * m, 2), size.reshape(n * m, 2))
    people = people.reshape(n, m, *people.shape[1:])
    return jnp.where(has_area[..., None, None], people, 0)

  return predict_fn


def _parts(config, skeleton):
  """Three pure functions that prediction consists of.

  Returns:
    crop: (PersonBatch, factor on the regions' size) -> inputs [N, H, W, 3].
    to_heatmaps: (variables, function of such a factor that returns inputs) -> [N, h, w, K].
    to_people: (heatmaps, center [N, 2], size [N, 2]) -> [N, K, 3].
  """
  model, codec = model_of(config, skeleton.num_keypoints), codec_of(config)
  flip_test = skeleton.mirroring(config.eval.flip_test, True)
  scales, shown = tuple(config.eval.scales), mean_scale(config)
  channel_order = config.model.channel_order

  def crop(batch, scale):
    batch = batch._replace(size=batch.size * scale) if scale != 1 else batch
    return augment.crop_people(batch, None, codec, skeleton, channel_order)[0]

  def predict_heatmaps(variables, inputs):
    if not flip_test:
      return model.apply(variables, inputs, train=False)
    # Each crop is followed by its mirror image, so that both stay on the same device.
    both = jnp.stack([inputs, inputs[:, :, ::-1]], 1)  # [N, 2, H, W, 3]
    heatmaps = model.apply(variables, both.reshape(-1, *inputs.shape[1:]), train=False)
    heatmaps = heatmaps.reshape(-1, 2, *heatmaps.shape[1:])
    mirrored = codec.flip(heatmaps[:, 1], skeleton.flip_pairs)
    return 0.5 * (heatmaps[:, 0] + mirrored)

  def to_heatmaps(variables, crop_at):
    if len(scales) == 1:
      return predict_heatmaps(variables, crop_at(shown))
    heatmaps = [codec.rescale(predict_heatmaps(variables, crop_at(s)), s / shown) for s in scales]
    return sum(heatmaps) / len(scales)  # zero outside a crop: what all crops show has more weight

  def to_people(heatmaps, center, size):
    points, scores = codec.decode(heatmaps)
    points = codec.heatmap_to_image(points, center, shown * size)
    return jnp.concatenate([points, scores[..., None]], -1)

  return crop, to_heatmaps, to_people
