import functools
import math

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from mrpose_jax import codecs
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files

PAPER = augment.Augmentation(rotation=30.0, scale=0.4, flip=0.5, draw='uniform')
RELEASED = augment.Augmentation(rotation=40.0, scale=0.3, flip=0.5, draw='normal')
CROP = (64, 48)
CODEC = codecs.Codec(image_size=CROP, heatmap_size=(16, 12))
SKELETON = skeletons.Skeleton('abc', ('left_a', 'right_a', 'b'), ((0, 1),), ())
N = 16

draw = jax.jit(augment.draw, static_argnums=(1, 2))
crop_people = jax.jit(lambda batch, drawn: augment.crop_people(batch, drawn, CODEC, SKELETON))


def draw_many(augmentation, n=40_000):
  return jax.tree.map(np.asarray, draw(jax.random.key(0), n, augmentation))


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
  correlations = np.corrcoef(np.stack(jax.tree.leaves(draw_many(augmentation))).astype(float))
  np.testing.assert_allclose(correlations, np.eye(3), atol=0.02)


def test_no_augmentation_draws_nothing():
  drawn = draw_many(augment.Augmentation(rotation=0.0, scale=0.0, flip=0.0, draw='uniform'), n=100)
  assert (drawn.scale == 1).all()
  assert not drawn.rotation.any()
  assert not drawn.flip.any()


def test_a_key_decides_its_draws():
  first, again, other = (draw(jax.random.key(seed), N, PAPER) for seed in (1, 1, 2))
  for values, same, different in zip(*map(jax.tree.leaves, (first, again, other))):
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
  found[flip] = found[flip][:, [1, 0, 2]]
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
    inputs, _, _ = jax.jit(crop, static_argnums=(1, 2, 3))(batch, None, CODEC, SKELETON)
    np.testing.assert_allclose(inputs, (channels - mean) / std, rtol=0, atol=1e-3)


def test_a_sharded_batch_gives_the_same_crops():
  batch = bright_dots(60)

  @jax.jit
  def train_inputs(key, batch):
    drawn = augment.draw(key, N, PAPER)
    return drawn, augment.crop_people(batch, drawn, CODEC, SKELETON)

  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  key = jax.random.key(4)
  expected = train_inputs(key, batch)
  found = train_inputs(key, jax.device_put(batch, sharding))
  assert len(found[1][0].sharding.device_set) == 4
  assert not found[1][0].sharding.is_fully_replicated
  jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found[1], expected[1])


def with_options(**options):
  return augment.Augmentation(
    **({'rotation': 30.0, 'scale': 0.4, 'flip': 0.5, 'draw': 'uniform'} | options)
  )


def test_one_augmentation_does_not_change_the_draws_of_another():
  options = {'shift': 0.1, 'half_body': 0.3, 'hue': 0.05, 'dropout': 0.5}
  together = draw_many(with_options(**options), n=100)
  assert draw_many(PAPER, n=100).shift is None
  for name, value in options.items():
    alone = draw_many(with_options(**{name: value}), n=100)
    for field in alone._fields:
      if getattr(alone, field) is not None and field != 'colour':
        np.testing.assert_array_equal(getattr(alone, field), getattr(together, field))


def test_draws_of_scale_range_rotation_probability_and_shift():
  drawn = draw_many(with_options(scale_range=(0.5, 1.25), rotation_probability=0.6, shift=0.16))
  assert drawn.scale.min() == pytest.approx(0.5, abs=1e-3)
  assert drawn.scale.max() == pytest.approx(1.25, abs=1e-3)
  assert drawn.scale.mean() == pytest.approx(0.875, abs=0.005)
  assert (drawn.rotation != 0).mean() == pytest.approx(0.6, abs=0.01)
  assert np.abs(drawn.shift).max(0) == pytest.approx([0.16, 0.16], abs=1e-3)
  assert drawn.shift.mean(0) == pytest.approx([0, 0], abs=0.002)
  never = draw_many(with_options(rotation_probability=0.0), n=100)
  assert not never.rotation.any()


def test_draws_of_half_bodies_and_dropout():
  drawn = draw_many(with_options(half_body=0.3, dropout=0.5))
  shares = np.bincount(drawn.half_body) / len(drawn.half_body)
  np.testing.assert_allclose(shares, [0.7, 0.3 * 0.7, 0.3 * 0.3], atol=0.01)
  left, top, right, bottom = drawn.dropout.T
  dropped = right > left
  assert dropped.mean() == pytest.approx(0.5, abs=0.01)
  assert (bottom[~dropped] == top[~dropped]).all()
  for low, high in ((left, right), (top, bottom)):
    assert low.min() >= 0 and high.max() <= 1
    sides = (high - low)[dropped]
    assert sides.min() >= 0.2 - 1e-6 and sides.max() <= 0.4 + 1e-6


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'half_body': 1.5}, 'augment.half_body=1.5: a probability'),
    ({'hue': 0.6}, 'augment.hue=0.6: must be 0 to 0.5'),
    ({'shift': -0.1}, 'augment.shift=-0.1'),
    ({'scale_range': (1.2, 0.8)}, 'augment.scale_range'),
    ({'scale_range': (0.5,)}, 'augment.scale_range'),
    ({'scale_range': ('0.5', '1.5')}, 'augment.scale_range'),
    ({'scale': 1.0}, 'augment.scale=1: must be below 1'),
    ({'scale_range': (0.5, 1.5), 'draw': 'normal'}, 'drawn uniformly'),
  ],
)
def test_augmentations_that_cannot_be_drawn(options, message):
  with pytest.raises(ValueError, match=message):
    with_options(**options)


def test_a_half_body_is_cropped_by_hand():
  """Seven of eight keypoints are labelled; the upper half is at y 100 to 120, the lower at 140."""
  names = (
    'nose',
    'neck',
    'left_hand',
    'right_hand',
    'left_hip',
    'right_hip',
    'left_knee',
    'x_knee',
  )
  skeleton = skeletons.Skeleton('person', names, (), ())
  assert skeleton.lower_body() == (False,) * 4 + (True,) * 4
  keypoints = np.array([[50, 100], [50, 110], [30, 120], [70, 120]] + [[40, 140]] * 4, np.float32)
  visible = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
  patch = image_files.Patch(np.zeros((200, 200, 3), np.uint8), np.zeros(2), np.ones(2))
  person = batching.person_example(patch, (60.0, 110.0), (90.0, 120.0), keypoints, visible)
  few = person._replace(visible=np.array([1, 1, 1, 0, 1, 0, 0, 0], np.float32))
  batch = batching.stack([person, person, person, few], 200)
  zeros = np.zeros(4, np.float32)
  drawn = augment.Draw(zeros + 1, zeros, zeros > 0, half_body=np.array([0, 1, 2, 1], np.int32))
  _, found, _ = jax.jit(lambda b, d: augment.crop_people(b, d, CODEC, skeleton))(batch, drawn)
  whole = geometry.transform(
    CODEC.region_to_crop(np.array([60.0, 110]), np.array([90.0, 120])), keypoints
  )
  # Upper: the mean is (50, 112.5), the extent 40 x 20 times 1.5, so the width decides: 60 of 90.
  # Lower: all three are at one point, so the region is a quarter of the whole one.
  upper = geometry.transform(
    CODEC.region_to_crop(np.array([50.0, 112.5]), np.array([60.0, 80])), keypoints
  )
  lower = geometry.transform(
    CODEC.region_to_crop(np.array([40.0, 140]), np.array([22.5, 30])), keypoints
  )
  np.testing.assert_allclose(found, [whole, upper, lower, whole], atol=1e-3)


def test_a_shift_moves_the_region():
  batch = bright_dots(160)
  zeros = np.zeros(N, np.float32)
  shift = np.tile(np.float32([0.1, -0.2]), (N, 1))
  moved = augment.Draw(zeros + 1, zeros, zeros > 0, shift=shift)
  _, found, _ = crop_people(batch, moved)
  expected = geometry.transform(
    geometry.region_to_crop(batch.center + shift * batch.size, batch.size, CROP), batch.keypoints
  )
  np.testing.assert_allclose(found, expected, atol=1e-3)


def test_dropout_is_the_mean_colour_in_its_rectangle_alone():
  batch = bright_dots(160)
  zeros = np.zeros(N, np.float32)
  plain = augment.Draw(zeros + 1, zeros, zeros > 0)
  rectangle = np.tile(np.float32([0.25, 0.5, 0.5, 0.75]), (N, 1))
  rectangle[0] = 0  # nothing
  inputs, _, _ = crop_people(batch, plain)
  dropped, _, _ = crop_people(batch, plain._replace(dropout=rectangle))
  expected = np.array(inputs)
  expected[1:, 32:48, 12:24] = 0
  np.testing.assert_array_equal(dropped, expected)
