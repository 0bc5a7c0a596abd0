import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mrpose_jax.input_pipeline.device import geometry
from tests.helpers import shared_data


def random_regions(rng, n):
  """Random regions of aspect 3/4, rotations and flips, as in training."""
  center = rng.uniform(-50, 600, (n, 2))
  width = rng.uniform(20, 400, n)
  return center, np.stack([width, width / 0.75], -1), rng.uniform(-180, 180, n), rng.random(n) < 0.5


def test_region_of_a_wide_and_of_a_tall_box():
  box = np.array([[10.0, 20.0, 60.0, 40.0], [10.0, 20.0, 20.0, 80.0]])
  center, size = geometry.box_to_region(box, aspect=0.75, padding=1.25)
  np.testing.assert_array_equal(center, [[40, 40], [20, 60]])
  np.testing.assert_array_equal(size, [[75, 100], [75, 100]])  # both are 60 x 80 times 1.25


def test_regions_of_the_released_code():
  g = np.load(shared_data.golden('boxes.npz'))
  center, size = geometry.box_to_region(g['boxes_xywh'].astype(np.float32), 192 / 256, 1.25)
  np.testing.assert_allclose(center, g['center'], rtol=0, atol=1e-4)
  np.testing.assert_allclose(size, 200 * g['scale'], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
  ('rotation', 'flip', 'expected'),
  [
    (0.0, False, [[2, 0, -4], [0, 2, 4]]),
    (90.0, False, [[0, 2, 0], [-2, 0, 24]]),
    (0.0, True, [[-2, 0, 20], [0, 2, 4]]),
    (90.0, True, [[0, -2, 16], [-2, 0, 24]]),
  ],
)
def test_matrix_by_hand(rotation, flip, expected):
  # A region of width 8 around (6, 4) on a crop 24 high and 16 wide: twice as large, middle (8, 12).
  matrix = geometry.region_to_crop(
    np.array([6.0, 4.0]), np.array([8.0, 12.0]), (24, 16), rotation, flip
  )
  np.testing.assert_allclose(matrix, expected, atol=1e-12)


def test_positive_rotation_turns_the_picture_anticlockwise():
  center, size = np.array([50.0, 50.0]), np.array([100.0, 100.0])
  right_of_center = np.array([[80.0, 50.0]])
  turned = geometry.transform(
    geometry.region_to_crop(center, size, (100, 100), 90.0), right_of_center
  )
  np.testing.assert_allclose(turned, [[50, 20]], atol=1e-12)  # up on the screen


def test_matrices_of_the_released_code():
  g = np.load(shared_data.golden('crops.npz'))
  center, size, rotation = np.split(g['center_scale_rotation'], [2, 4], axis=1)
  matrix = geometry.region_to_crop(center, 200 * size, (256, 192), rotation[:, 0])
  # The released code rounds its points to float32 before it solves for the matrix.
  np.testing.assert_allclose(matrix, g['affine'], rtol=0, atol=1e-3)


def test_whole_numbers_for_a_region_do_not_round_the_rotation():
  center, size = np.array([6, 4]), np.array([8, 12])
  whole = geometry.region_to_crop(center, size, (24, 16), rotation=0.75)
  exact = geometry.region_to_crop(center.astype(float), size.astype(float), (24, 16), rotation=0.75)
  np.testing.assert_array_equal(whole, exact)


def test_one_region_under_many_rotations():
  center, size = np.array([6.0, 4.0]), np.array([8.0, 12.0])
  rotations = np.array([0.0, 30.0, 90.0])
  matrices = geometry.region_to_crop(center, size, (24, 16), rotations)
  assert matrices.shape == (3, 2, 3)
  for matrix, rotation in zip(matrices, rotations):
    one = geometry.region_to_crop(center, size, (24, 16), rotation)
    np.testing.assert_allclose(matrix, one, rtol=0, atol=1e-12)


def test_invert_undoes_and_compose_chains():
  rng = np.random.default_rng(0)
  first = geometry.region_to_crop(
    *random_regions(rng, 50)[:2], (256, 192), rng.uniform(-90, 90, 50)
  )
  center, size, rotation, flip = random_regions(rng, 50)
  second = geometry.region_to_crop(center, size, (64, 48), rotation, flip)
  points = rng.uniform(-100, 700, (50, 5, 2))

  there_and_back = geometry.transform(geometry.invert(second), geometry.transform(second, points))
  np.testing.assert_allclose(there_and_back, points, rtol=0, atol=1e-9)
  by_steps = geometry.transform(second, geometry.transform(first, points))
  at_once = geometry.transform(geometry.compose(second, first), points)
  np.testing.assert_allclose(at_once, by_steps, rtol=0, atol=1e-9)
  nothing = geometry.compose(geometry.invert(second), second)
  identity = np.broadcast_to([[1.0, 0, 0], [0, 1, 0]], nothing.shape)
  np.testing.assert_allclose(nothing, identity, rtol=0, atol=1e-9)


def test_heatmap_to_image_undoes_region_to_crop():
  rng = np.random.default_rng(1)
  center, size, _, _ = random_regions(rng, 20)
  points = rng.uniform(0, 640, (20, 17, 2))
  on_heatmap = geometry.transform(geometry.region_to_crop(center, size, (64, 48)), points)
  back = geometry.heatmap_to_image(on_heatmap, center, size, heatmap_size=(64, 48))
  np.testing.assert_allclose(back, points, rtol=0, atol=1e-9)


def test_heatmap_to_image_by_hand():
  # 48 heatmap pixels show 96 image pixels around (100, 200): the corner is (52, 136).
  points = np.array([[0.0, 0.0], [24.0, 32.0], [1.0, 2.0]])
  found = geometry.heatmap_to_image(points, np.array([100.0, 200]), np.array([96.0, 128]), (64, 48))
  np.testing.assert_array_equal(found, [[52, 136], [100, 200], [54, 140]])


@pytest.mark.parametrize('rotated', [False, True])
def test_reach_holds_every_corner_of_drawn_crops(rotated):
  rng = np.random.default_rng(2)
  center, size, rotation, flip = random_regions(rng, 2000)
  low, high = geometry.reach(center, size, scale=0.4, rotated=rotated)
  drawn = size * rng.uniform(0.6, 1.4, (2000, 1))
  matrix = geometry.region_to_crop(center, drawn, (256, 192), rotation if rotated else 0.0, flip)
  corners = np.array([[0.0, 0], [192, 0], [192, 256], [0, 256]])
  seen = geometry.transform(geometry.invert(matrix), np.tile(corners, (2000, 1, 1)))
  assert (seen >= low[:, None] - 1e-9).all()
  assert (seen <= high[:, None] + 1e-9).all()


def test_reach_by_hand():
  center, size = np.array([10.0, 20.0]), np.array([6.0, 8.0])
  np.testing.assert_array_equal(geometry.reach(center, size), ([7, 16], [13, 24]))
  np.testing.assert_array_equal(geometry.reach(center, size, scale=0.5), ([5.5, 14], [14.5, 26]))
  # Half the diagonal of 6 x 8 is 5.
  np.testing.assert_array_equal(geometry.reach(center, size, rotated=True), ([5, 15], [15, 25]))


def everything(box, rotation, flip, points):
  """Calls every function of the module."""
  center, size = geometry.box_to_region(box, 0.75, 1.25)
  matrix = geometry.region_to_crop(center, size, (64, 48), rotation, flip)
  inverse = geometry.invert(matrix)
  return {
    'center': center,
    'size': size,
    'matrix': matrix,
    'inverse': inverse,
    'composed': geometry.compose(inverse, matrix),
    'points': geometry.transform(matrix, points),
    'image': geometry.heatmap_to_image(points, center, size, (64, 48)),
    'reach': geometry.reach(center, size, 0.4, rotated=True)[0],
  }


def test_numpy_stays_numpy_and_jax_computes_the_same():
  rng = np.random.default_rng(3)
  box = np.concatenate([rng.uniform(0, 400, (8, 2)), rng.uniform(20, 200, (8, 2))], -1)
  rotation, flip = rng.uniform(-180, 180, 8), rng.random(8) < 0.5
  arguments = box, rotation, flip, rng.uniform(0, 48, (8, 17, 2))

  exact = everything(*arguments)
  assert {(type(array), array.dtype) for array in exact.values()} == {(np.ndarray, np.dtype(float))}
  singles = [a if a.dtype == bool else a.astype(np.float32) for a in arguments]
  assert {array.dtype for array in everything(*singles).values()} == {np.dtype(np.float32)}
  traced = jax.jit(everything)(*singles)
  for name, array in exact.items():
    np.testing.assert_allclose(traced[name], array, rtol=1e-5, atol=2e-4, err_msg=name)


def test_no_coordinate_goes_through_a_matrix_unit():
  # Matrix products of float32 run in bfloat16 on TPU and TF32 on GPU, with errors of whole pixels.
  matrix, points = jnp.ones((2, 2, 3)), jnp.ones((2, 5, 2))
  for function, arguments in (
    (geometry.compose, (matrix, matrix)),
    (geometry.transform, (matrix, points)),
    (geometry.invert, (matrix,)),
    (lambda c, s: geometry.region_to_crop(c, s, (64, 48), 30.0), (points[:, 0], points[:, 1])),
  ):
    assert 'dot_general' not in str(jax.make_jaxpr(function)(*arguments))
