import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mrpose_jax.cpu import pixels
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp
from tests.helpers import shared_data

pytestmark = pytest.mark.usefixtures('optimized_programs')

IDENTITY = [[1.0, 0, 0], [0, 1, 0]]

affine = jax.jit(warp.affine, static_argnums=2)


def bilinear(image, matrix, out_size):
  """The crop by definition, pixel by pixel in float64, with zeros around the image."""
  height, width, channels = image.shape
  padded = np.zeros((height + 2, width + 2, channels))
  padded[1:-1, 1:-1] = image
  to_image = np.linalg.inv(np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]]))
  crop = np.zeros((*out_size, channels))
  for row in range(out_size[0]):
    for column in range(out_size[1]):
      x, y, _ = to_image @ [column, row, 1]
      if not (-1 < x < width and -1 < y < height):
        continue
      left, top = int(np.floor(x)), int(np.floor(y))
      a, b = x - left, y - top
      four = padded[top + 1 : top + 3, left + 1 : left + 3]
      weights = np.outer([1 - b, b], [1 - a, a])
      crop[row, column] = (weights[..., None] * four).sum((0, 1))
  return crop


def one(image, matrix, out_size):
  return np.asarray(affine(image[None], np.array([matrix], np.float32), out_size))[0]


def test_identity_returns_the_image():
  image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
  crop = one(image, IDENTITY, (7, 5))
  assert crop.dtype == np.float32
  np.testing.assert_array_equal(crop, image)


def test_whole_pixel_shift_is_exact_and_zero_outside():
  image = np.arange(1, 13, dtype=np.float32).reshape(3, 4, 1)
  crop = one(image, [[1.0, 0, 1], [0, 1, -1]], (3, 4))  # one to the right, one up
  np.testing.assert_array_equal(crop[..., 0], [[0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]])


def test_half_pixel_shift_by_hand():
  image = np.array([[10.0, 20], [30, 50]], np.float32)[..., None]
  crop = one(image, [[1.0, 0, 0.5], [0, 1, 0.5]], (3, 3))
  # The middle is the mean of all four; at the border half a pixel, at the corners a quarter.
  np.testing.assert_array_equal(crop[..., 0], [[2.5, 7.5, 5], [10, 27.5, 17.5], [7.5, 20, 12.5]])


def test_far_outside_is_zero():
  image = np.full((4, 4, 3), 255, np.uint8)
  for shift in (5.0, -5.0, 1e6, -1e6):
    assert not one(image, [[1.0, 0, shift], [0, 1, 0]], (4, 4)).any()


@pytest.mark.parametrize(
  ('center', 'width', 'rotation', 'flip'),
  [
    ((11.3, 14.8), 12.0, 0.0, False),  # translation
    ((10.0, 16.0), 33.0, 0.0, False),  # smaller, and beyond the image on both sides
    ((10.0, 16.0), 5.5, 0.0, False),  # larger
    ((9.2, 17.1), 20.0, 0.0, True),
    ((12.0, 12.0), 18.0, 37.0, False),
    ((2.0, 30.0), 14.0, -110.0, True),
  ],
)
def test_agrees_with_the_definition(center, width, rotation, flip):
  image = np.random.default_rng(4).integers(0, 256, (31, 23, 3), np.uint8)
  region = np.array(center), np.array([width, width * 16 / 12])
  matrix = geometry.region_to_crop(*region, (16, 12), rotation, flip)
  expected = bilinear(image, matrix, (16, 12))
  assert expected.any()
  np.testing.assert_allclose(one(image, matrix, (16, 12)), expected, rtol=0, atol=1e-3)


def test_each_image_has_its_own_matrix():
  images = np.random.default_rng(5).integers(0, 256, (3, 9, 8, 3), np.uint8)
  matrices = np.array([[[1.0, 0, shift], [0, 1, 0]] for shift in (0, 1, 2)], np.float32)
  crops = affine(images, matrices, (9, 8))
  for shift, (image, crop) in enumerate(zip(images, crops)):
    np.testing.assert_array_equal(crop[:, shift:], image[:, : 8 - shift])


def test_samples_on_a_pixel_are_the_same_in_every_program():
  """Floors that are computed twice and rounded differently would be a pixel apart."""
  images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 120, 160, 3)), jnp.uint8)
  center, width = jnp.array([[80.0, 40], [61, 33]]), jnp.array([[50.0, 50], [62.5, 62.5]])

  def crop(images, center, width):
    matrix = geometry.region_to_crop(center, width, (64, 64), 0.0, False)
    return warp.scale_and_shift(images, matrix, (64, 64))

  @jax.jit
  def both(*arguments):
    crops = crop(*arguments)
    crops = pixels.materialize(crops, crops.ravel()[0])
    return jnp.stack([crops, crops[:, :, ::-1]], 1)

  expected = jax.jit(crop)(images, center, width)
  np.testing.assert_allclose(both(images, center, width)[:, 0], expected, atol=1e-3)
  np.testing.assert_allclose(expected[0, 32, 32], images[0, 40, 80], atol=1e-3)


def test_works_for_any_channels_and_types():
  image = np.random.default_rng(6).random((6, 6, 1), np.float32)
  for typed_image in (image, jnp.asarray(image, jnp.bfloat16)):
    crop = one(jnp.asarray(typed_image), IDENTITY, (6, 6))
    assert crop.dtype == np.float32
    np.testing.assert_array_equal(crop, np.asarray(typed_image, np.float32))


def test_crops_of_the_released_code():
  g = np.load(shared_data.golden('crops.npz'))
  parameters = g['center_scale_rotation'].astype(np.float32)
  matrices = geometry.region_to_crop(
    parameters[:, :2], 200 * parameters[:, 2:4], (256, 192), parameters[:, 4]
  )
  crops = np.stack([one(g['image'], matrix, (256, 192)) for matrix in matrices])
  # OpenCV rounds to whole grey levels, an error of a quarter of a level on average.
  assert np.abs(crops - g['crops']).mean((1, 2, 3)).max() < 0.3
  assert np.abs(crops - g['crops']).max() < 2


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_the_forms_for_tpus_are_the_same_function(dtype):
  """Covers any rotation, mirroring, regions that leave the image, and scales up to max_step.

  Positions of up to 128 pixels are rounded by 2^-18, by each form in x and in y, and the two halves
  of a weight lose up to 2^-16. Neighbours differ by up to 255 grey levels.
  """
  limit = 255 * (4 * 2**-18 + 2**-16)
  r = np.random.default_rng(5)
  images = jnp.asarray(r.integers(0, 256, (6, 90, 100, 3)).astype(dtype))
  center = jnp.asarray(r.uniform(0, 90, (6, 2)), jnp.float32)
  width = jnp.asarray(r.uniform(20, 80, (6, 1)), jnp.float32)
  size = jnp.concatenate([width, width * 4 / 3], -1)
  angle = jnp.asarray(r.uniform(-180, 180, 6), jnp.float32)
  flip = jnp.array([True, False] * 3)
  matrix = geometry.region_to_crop(center, size, (64, 48), angle, flip)
  if dtype == np.uint8:
    plain = warp.by_gathering(images, matrix, (64, 48))
    tiles = warp.by_tiles(images, matrix, (64, 48), max_step=80 / 48)
    np.testing.assert_allclose(tiles, plain, atol=limit)

  upright = geometry.region_to_crop(center, 3 * size, (64, 48), flip=flip)
  plain = warp.by_gathering(images, upright, (64, 48))
  np.testing.assert_allclose(warp.by_rows_and_columns(images, upright, (64, 48)), plain, atol=limit)


def test_tiles_outside_the_image_are_zero():
  images = jnp.full((1, 32, 32, 3), 255, jnp.uint8)
  matrix = jnp.array([[[1.0, 0, 200], [0, 1, -300]]])
  assert not warp.by_tiles(images, matrix, (32, 32), max_step=1.0).any()
