import functools
import math

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files

PAPER = augment.Augmentation(rotation=30.0, scale=0.4, flip=0.5, draw='uniform')
RELEASED = augment.Augmentation(rotation=40.0, scale=0.3, flip=0.5, draw='normal')
CROP = (64, 48)
FLIP_ORDER = skeletons.flip_order([(0, 1)], 3)
N = 16

draw = jax.jit(augment.draw, static_argnums=(1, 2))
crop_people = jax.jit(lambda batch, drawn: augment.crop_people(batch, drawn, CROP, FLIP_ORDER))


def draw_many(augmentation, n=40_000):
  return augment.Draw(*map(np.asarray, draw(jax.random.key(0), n, augmentation)))


def clipped_normal_variance(bound):
  """Variance of a standard normal variable clipped at +-bound."""
  density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
  inside = math.erf(bound / math.sqrt(2))
  return inside - 2 * bound * density + bound**2 * (1 - inside)


def test_draws_of_the_papers_recipe():
  drawn = draw_many(PAPER)
  for values, low, high in ((drawn.scale, 0.6, 1.4), (drawn.rotation, -30, 30)):
    assert values.min() >= low - 1e-5
    assert values.max() <= high + 1e-5
    width = high - low
    shares, _ = np.histogram(values, bins=10, range=(low - 1e-5, high + 1e-5))
    np.testing.assert_allclose(shares / len(values), 0.1, atol=0.006)  # 4 standard errors
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.006 * width)
    assert values.std() == pytest.approx(width / math.sqrt(12), rel=0.01)
  assert drawn.flip.mean() == pytest.approx(0.5, abs=0.01)


def test_draws_of_the_released_recipe():
  drawn = draw_many(RELEASED)
  scale, rotation = (drawn.scale - 1) / 0.3, drawn.rotation / 40
  assert (rotation == 0).mean() == pytest.approx(0.4, abs=0.01)
  assert np.abs(scale).max() == pytest.approx(1, abs=1e-5)
  assert np.abs(rotation).max() == pytest.approx(2, abs=1e-5)
  for values, bound in ((scale, 1), (rotation[rotation != 0], 2)):
    assert values.mean() == pytest.approx(0, abs=0.03)
    assert values.std() == pytest.approx(math.sqrt(clipped_normal_variance(bound)), rel=0.02)
    at_bound = (np.abs(values) > bound - 1e-5).mean()
    assert at_bound == pytest.approx(math.erfc(bound / math.sqrt(2)), abs=0.01)
  assert drawn.flip.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize('augmentation', [PAPER, RELEASED])
def test_scale_rotation_and_flip_are_independent(augmentation):
  correlations = np.corrcoef(np.stack(draw_many(augmentation)).astype(float))
  np.testing.assert_allclose(correlations, np.eye(3), atol=0.02)


def test_no_augmentation_draws_nothing():
  drawn = draw_many(augment.Augmentation(rotation=0.0, scale=0.0, flip=0.0, draw='uniform'), n=100)
  assert (drawn.scale == 1).all()
  assert not drawn.rotation.any()
  assert not drawn.flip.any()


def test_a_key_decides_its_draws():
  first, again, other = (draw(jax.random.key(seed), N, PAPER) for seed in (1, 1, 2))
  for values, same, different in zip(first, again, other):
    np.testing.assert_array_equal(values, same)
    assert not np.array_equal(values, different)


def test_an_unknown_draw_is_refused():
  with pytest.raises(ValueError, match=r"augment\.draw 'gaussian': use 'uniform' or 'normal'"):
    augment.Augmentation(rotation=30.0, scale=0.4, flip=0.5, draw='gaussian')


def bright_dots(canvas):
  """A batch of people whose keypoint k is a bright dot in channel k."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[:120, :160]
  examples = []
  for _ in range(N):
    center, width = rng.uniform(50, 80, 2), rng.uniform(50, 66)
    size = np.array([width, width / 0.75])
    keypoints = center + rng.uniform(-4, 4, (3, 2))
    x, y = keypoints.T
    far = np.square(columns[..., None] - x) + np.square(rows[..., None] - y)
    image = np.round(255 * np.exp(-far / 18)).astype(np.uint8)  # [H, W, 3]
    patch = image_files.cut_patch(image, *geometry.reach(center, size, 0.4, rotated=True), canvas)
    examples.append(batching.person_example(patch, center, size, keypoints, [2, 1, 0]))
  return batching.stack(examples, canvas=160)


@pytest.fixture(scope='module', params=[160, 60], ids=['whole', 'averaged'])
def batch(request):
  found = bright_dots(request.param)
  assert (found.zoom < 1).any() == (request.param == 60)
  return found


def dots(inputs):
  """Position [N, 3, 2] xy of each channel's dot in normalised inputs [N, H, W, 3]."""
  light = np.asarray(inputs, np.float64) * (255 * augment.STD) + 255 * augment.MEAN
  light = np.where(light > 0.01, light, 0)
  mass = light / light.sum((1, 2), keepdims=True)
  height, width = mass.shape[1:3]
  x = (mass.sum(1) * np.arange(width)[:, None]).sum(1)
  y = (mass.sum(2) * np.arange(height)[:, None]).sum(1)
  return np.stack([x, y], -1)


def test_keypoints_follow_their_pixels_without_augmentation(batch):
  inputs, keypoints, visible = crop_people(batch, None)
  assert inputs.shape == (N, *CROP, 3)
  np.testing.assert_array_equal(visible, batch.visible)
  by_geometry = geometry.transform(
    geometry.region_to_crop(batch.center, batch.size, CROP), batch.keypoints
  )
  np.testing.assert_allclose(keypoints, by_geometry, rtol=0, atol=1e-3)
  assert_close(dots(inputs), keypoints, batch)


@pytest.mark.parametrize('augmentation', [PAPER, RELEASED], ids=['paper', 'released'])
def test_keypoints_follow_their_pixels_and_swap_sides_where_mirrored(batch, augmentation):
  drawn = draw(jax.random.key(3), N, augmentation)
  flip = np.asarray(drawn.flip)
  assert 0 < flip.sum() < N
  inputs, keypoints, visible = crop_people(batch, drawn)
  found = dots(inputs)
  # In a mirrored picture the left hand's dot shows the right hand.
  found[flip] = found[flip][:, FLIP_ORDER]
  assert_close(found, keypoints, batch)
  np.testing.assert_array_equal(visible, np.where(flip[:, None], [[1, 2, 0]], [[2, 1, 0]]))


def assert_close(found, keypoints, batch):
  """Tolerates a tenth of a patch pixel, which is up to 1.6 times as large in the crop."""
  tolerance = 0.1 * 1.6 / batch.zoom.min(-1)
  assert (np.abs(found - keypoints).max((1, 2)) < tolerance).all()


def test_turned_and_mirrored_by_hand():
  person = batching.PersonBatch(
    patches=np.zeros((1, 8, 8, 3), np.uint8),
    origin=np.zeros((1, 2), np.float32),
    zoom=np.ones((1, 2), np.float32),
    center=np.full((1, 2), 100, np.float32),
    size=np.array([[48, 64]], np.float32),
    keypoints=np.array([[[110, 100], [100, 90], [100, 100]]], np.float32),
    visible=np.ones((1, 3), np.float32),
  )
  drawn = augment.Draw(np.float32([2.0]), np.float32([90.0]), np.array([True]))
  _, keypoints, _ = crop_people(person, drawn)
  # Halved: 5 right -> turned 5 up -> mirrored 5 up; 5 up -> 5 left -> 5 right. Then hands swap.
  np.testing.assert_allclose(keypoints[0], [[29, 32], [24, 27], [24, 32]], atol=1e-4)


def test_inputs_are_normalised_crops_in_the_wanted_order():
  batch = bright_dots(60)
  matrix = geometry.region_to_crop(batch.center, batch.size, CROP)
  shift = batch.origin + 0.5 / batch.zoom - 0.5
  linear = np.eye(2, dtype=np.float32)[None] / batch.zoom[:, None]
  from_patch = geometry.compose(matrix, np.concatenate([linear, shift[..., None]], -1))
  crops = np.asarray(jax.jit(warp.affine, static_argnums=2)(batch.patches, from_patch, CROP))
  mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
  for order, channels in (('rgb', crops), ('bgr', crops[..., ::-1])):
    crop = functools.partial(augment.crop_people, channel_order=order)
    inputs, _, _ = jax.jit(crop, static_argnums=(1, 2))(batch, None, CROP, FLIP_ORDER)
    np.testing.assert_allclose(inputs, (channels - mean) / std, rtol=0, atol=1e-3)


def test_a_sharded_batch_gives_the_same_crops():
  batch = bright_dots(60)

  @jax.jit
  def train_inputs(key, batch):
    drawn = augment.draw(key, N, PAPER)
    return drawn, augment.crop_people(batch, drawn, CROP, FLIP_ORDER)

  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  key = jax.random.key(4)
  expected = train_inputs(key, batch)
  found = train_inputs(key, jax.device_put(batch, sharding))
  assert len(found[1][0].sharding.device_set) == 4
  assert not found[1][0].sharding.is_fully_replicated
  jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found[1], expected[1])
