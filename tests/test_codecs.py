"""Heatmap codec: values by hand, round trip, and equality to the released code."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import ndimage

from mrpose_jax import codecs
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import geometry
from tests.helpers import shared_data

CODEC = codecs.Codec(image_size=(64, 32), heatmap_size=(16, 8), sigma=1.0)


def test_encode_by_hand():
  """x 13, y 41 at a quarter of the size: 3.25 + 1/2 and 10.25 + 1/2, truncated to 3 and 10."""
  heatmaps, weights = CODEC.encode(np.array([[[13.0, 41.0]]]), np.array([[2]]))
  assert heatmaps.shape == (1, 16, 8, 1)
  assert weights.tolist() == [[1.0]]
  assert heatmaps[0, 10, 3, 0] == 1.0
  np.testing.assert_allclose(heatmaps[0, 11, 5, 0], np.exp(-(1 + 4) / 2), rtol=1e-6)
  assert heatmaps[0, 14, 3, 0] == 0.0  # beyond 3 sigma
  assert heatmaps[0, 10, 7, 0] == 0.0


@pytest.mark.parametrize(
  ('x', 'weight'),
  [(-14.0, 1), (-18.0, 1), (-22.0, 0), (41.0, 1), (42.0, 0)],
)
def test_a_gaussian_that_misses_the_heatmap_has_no_weight(x, weight):
  """Radius 3: centres -4 (-18 / 4 + 1/2, truncated) to 10 have weight, as in the released code."""
  heatmaps, weights = CODEC.encode(np.array([[[x, 20.0]]]), np.array([[1]]))
  assert weights[0, 0] == weight
  assert (heatmaps.max() > 0) == (weight == 1 and -3 <= np.trunc(x / 4 + 0.5) <= 10)


def test_unlabelled_keypoints_are_zero():
  heatmaps, weights = CODEC.encode(np.array([[[13.0, 41.0]]]), np.array([[0]]))
  assert weights.tolist() == [[0.0]]
  assert not heatmaps.any()


def test_decode_by_hand():
  heatmap = np.zeros((1, 16, 8, 2), np.float32)
  heatmap[0, 5, 3, 0] = 0.8
  heatmap[0, 5, 4, 0] = 0.4  # larger than the left neighbour
  heatmap[0, 4, 3, 0] = 0.2  # larger than the neighbour below
  points, scores = CODEC.decode(heatmap)
  np.testing.assert_allclose(points[0], [[3.25, 4.75], [0, 0]])
  np.testing.assert_allclose(scores[0], [0.8, 0])
  plain = codecs.Codec((64, 32), (16, 8), 1.0, offset='none')
  np.testing.assert_allclose(plain.decode(heatmap)[0][0, 0], [3, 5])


def test_decode_leaves_the_border_alone():
  heatmap = np.zeros((3, 16, 8, 1), np.float32)
  for n, (y, x) in enumerate([(5, 1), (5, 7), (15, 3)]):
    heatmap[n, y, x] = 1
    heatmap[n, y, x - 1] = 0.5
  np.testing.assert_array_equal(CODEC.decode(heatmap)[0][:, 0], [[1, 5], [7, 5], [3, 15]])


def test_round_trip_within_half_a_pixel():
  r = np.random.default_rng(0)
  points = r.uniform([0, 0], [31, 63], (50, 4, 2)).astype(np.float32)
  heatmaps, weights = CODEC.encode(points, np.ones((50, 4)))
  assert weights.all()
  inside = (points / 4 + 0.5 < [8, 16]).all(-1)
  decoded, scores = codecs.Codec((64, 32), (16, 8), 1.0, offset='none').decode(heatmaps)
  assert np.abs(decoded - points / 4)[inside].max() <= 0.5
  np.testing.assert_array_equal(np.asarray(scores)[inside], 1.0)


def test_targets_equal_the_released_codes():
  g = np.load(shared_data.golden('targets.npz'))
  codec = codecs.Codec(image_size=(256, 192), heatmap_size=(64, 48))
  heatmaps, weights = codec.encode(g['joints'][..., :2].astype(np.float32), g['visible'])
  np.testing.assert_array_equal(weights, g['weights'])
  expected = (g['targets'] * g['weights'][..., None, None]).transpose(0, 2, 3, 1)
  np.testing.assert_allclose(heatmaps, expected, atol=1e-6)


def test_peaks_equal_the_released_codes():
  g = np.load(shared_data.golden('decode.npz'))
  heatmaps = g['heatmaps'].transpose(0, 2, 3, 1)
  for offset, name in (('quarter', 'keypoints'), ('none', 'keypoints_argmax')):
    points, scores = codecs.Codec((256, 192), (64, 48), offset=offset).decode(heatmaps)
    region = 200 * g['scale'][:, None, :1] / 48
    image = (np.asarray(points) - [24, 32]) * region + g['center'][:, None]
    np.testing.assert_allclose(image, g[name], atol=2e-3)
    np.testing.assert_array_equal(np.asarray(scores), g['scores'].reshape(24, 17))


def test_flip_equals_the_released_codes():
  g = np.load(shared_data.golden('decode.npz'))
  heatmaps = g['flipped_heatmaps'].transpose(0, 2, 3, 1)
  for shift, name in ((False, 'flip_back'), (True, 'flip_back_shifted')):
    back = codecs.flip_heatmaps(heatmaps, skeletons.COCO.flip_pairs, shift=shift)
    np.testing.assert_array_equal(back, g[name].transpose(0, 2, 3, 1))


def test_flip_by_hand():
  """Two swapped keypoints, pixels 1 2 3: mirrored, then shifted to the right, column 0 kept."""
  heatmaps = np.array([[[1, 10], [2, 20], [3, 30]]], np.float32)
  plain = codecs.flip_heatmaps(heatmaps, [(0, 1)], shift=False)
  np.testing.assert_array_equal(plain, [[[30, 3], [20, 2], [10, 1]]])
  moved = codecs.flip_heatmaps(heatmaps, [(0, 1)])
  np.testing.assert_array_equal(moved, [[[30, 3], [30, 3], [20, 2]]])


def test_wrong_settings_are_refused():
  with pytest.raises(ValueError, match='quarter'):
    codecs.Codec((64, 32), (16, 8), offset='half')
  with pytest.raises(ValueError, match='positive'):
    codecs.Codec((64, 32), (16, 8), sigma=0.0)


def test_of_equal_peaks_the_first_and_none_of_nan():
  heatmaps = np.zeros((6, 8, 3), np.float32)
  heatmaps[[4, 2, 2], [1, 6, 3], 0] = 0.5
  heatmaps[:, :, 1] = 0.25
  heatmaps[3, 3, 2] = np.nan
  keypoints, scores = codecs.Codec((24, 32), (6, 8), offset='none').decode(heatmaps)
  np.testing.assert_array_equal(keypoints, [[3, 2], [0, 0], [0, 0]])
  np.testing.assert_array_equal(scores, [0.5, 0.25, np.nan])


def test_decode_reads_the_heatmaps_once():
  """XLA counts three reads, because it counts each of the two gathers as a read of everything."""
  codec = codecs.Codec(image_size=(256, 192), heatmap_size=(64, 48))
  heatmaps = jax.ShapeDtypeStruct((4, 64, 48, 17), np.float32)
  cost = jax.jit(codec.decode).lower(heatmaps).compile().cost_analysis()
  assert cost['bytes accessed'] < 3.2 * heatmaps.size * heatmaps.dtype.itemsize


def test_unbiased_targets_lie_around_the_keypoint():
  """Equation 13 of DARK: the Gaussian is centred on x / 4, y / 4; UDP's on x 7/31, y 15/63."""
  points = np.array([[[13.7, 41.2], [5.0, 20.9]]])
  y, x = np.mgrid[:16, :8]
  for codec_class, factor in (
    (codecs.DarkCodec, (8 / 32, 16 / 64)),
    (codecs.UdpCodec, (7 / 31, 15 / 63)),
  ):
    heatmaps, weights = codec_class((64, 32), (16, 8), 1.5).encode(points, np.ones((1, 2)))
    for k, (center_x, center_y) in enumerate(points[0] * factor):
      expected = np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / (2 * 1.5**2))
      np.testing.assert_allclose(heatmaps[0, ..., k], expected, atol=1e-6)
    assert weights.tolist() == [[1, 1]]


def dark_decoding(heatmap, sigma):
  """DARK section 3.2 in float64 for one heatmap [H, W]: x, y of its peak."""
  smooth = ndimage.gaussian_filter(heatmap.astype(np.float64), sigma, mode='constant', truncate=4.0)
  y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
  log = np.log(np.maximum(smooth, 1e-10))[y - 1 : y + 2, x - 1 : x + 2]
  down, across = np.gradient(log)
  hessian = [
    [log[1, 2] - 2 * log[1, 1] + log[1, 0], np.gradient(across, axis=0)[1, 1]],
    [np.gradient(across, axis=0)[1, 1], log[2, 1] - 2 * log[1, 1] + log[0, 1]],
  ]
  return np.array([x, y]) - np.linalg.solve(hessian, [across[1, 1], down[1, 1]])


@pytest.mark.parametrize('sigma', [1.0, 2.0])
def test_dark_decoding_of_noisy_peaks(sigma):
  r = np.random.default_rng(0)
  codec = codecs.DarkCodec((256, 192), (64, 48), sigma)
  points = r.uniform([40, 40], [150, 210], (5, 3, 2))
  heatmaps, _ = codec.encode(points, np.ones((5, 3)))
  heatmaps = np.asarray(heatmaps) + r.uniform(0, 0.05, heatmaps.shape).astype(np.float32)
  found, scores = jax.jit(codec.decode)(heatmaps)
  expected = [[dark_decoding(person[..., k], sigma) for k in range(3)] for person in heatmaps]
  np.testing.assert_allclose(found, expected, atol=2e-4)
  np.testing.assert_array_equal(scores, heatmaps.max((1, 2)))
  assert np.abs(found - points / 4).max() < 0.2


def test_a_taylor_step_needs_a_maximum():
  """Peaks on the border, and those on a ridge or a plateau, stay on their pixel."""
  heatmaps = np.zeros((3, 16, 8, 1), np.float32)
  heatmaps[0, 5, 0] = 1.0
  heatmaps[1, 15, 4] = 1.0
  heatmaps[2] = 0.5
  points, _ = codecs.Codec((64, 32), (16, 8), 1.0, offset='dark').decode(heatmaps)
  np.testing.assert_array_equal(points[:, 0], [[0, 5], [4, 15], [0, 0]])
  assert np.isfinite(points).all()


@pytest.mark.parametrize(
  ('codec_class', 'offset', 'bias', 'error'),
  [
    (codecs.UdpCodec, 'dark', 0.0, 1e-4),
    (codecs.DarkCodec, 'dark', 1.0, 1e-4),
    (codecs.Codec, 'dark', 1.0, None),
    (codecs.Codec, 'quarter', 1.0, None),
  ],
)
def test_geometry_is_exact_or_biased(codec_class, offset, bias, error):
  """A keypoint goes to a heatmap and back, under any crop, rotation and mirroring.

  UDP finds it to 1e-4 pixels, also on the mirrored crop. The paper's targets round it to a heatmap
  pixel, which is up to half a stride, and its heatmaps of the mirrored crop are a pixel of the crop
  to the right: pixel x of the crop becomes 191 - x, and x / 4 on the heatmap becomes
  47 - (191 - x) / 4 + 1 = (x + 1) / 4.
  """
  r = np.random.default_rng(0)
  n = 100
  codec = codec_class((256, 192), (64, 48), 2.0, offset)
  center, width = r.uniform(100, 300, (n, 2)), r.uniform(60, 190, (n, 1))
  matrix = codec.region_to_crop(
    center, width * [1, 4 / 3], r.uniform(-180, 180, n), r.random(n) < 0.5
  )
  on_crop = r.uniform([50, 60], [140, 190], (n, 3, 2))
  keypoints = geometry.transform(geometry.invert(matrix), on_crop)
  stride = np.divide(codec.crop_extent, codec.heatmap_extent)[::-1]

  def through_heatmaps(points, heatmaps_of):
    found, _ = codec.decode(heatmaps_of(codec.encode(points, np.ones((n, 3)))[0]))
    return np.asarray(found) * stride

  found = through_heatmaps(geometry.transform(matrix, keypoints), lambda heatmaps: heatmaps)
  back = geometry.transform(geometry.invert(matrix), found)
  mirrored = through_heatmaps(
    on_crop * [-1, 1] + [191, 0], lambda heatmaps: codec.flip(heatmaps, ())
  )
  shift = (mirrored - on_crop).mean((0, 1))
  if error is None:
    assert 0.5 < np.abs(back - keypoints).max()
    np.testing.assert_allclose(shift, [bias, 0], atol=0.25)
  else:
    assert np.abs(back - keypoints).max() < error
    np.testing.assert_allclose(mirrored - [bias, 0], on_crop, atol=error)


@pytest.mark.parametrize('codec_class', codecs.CODECS.values())
def test_to_the_image_undoes_the_crop(codec_class):
  r = np.random.default_rng(1)
  codec = codec_class((256, 192), (64, 48))
  center, size = r.uniform(0, 500, (6, 2)), r.uniform(50, 400, (6, 1)) * [0.75, 1]
  points = r.uniform(0, 500, (6, 4, 2))
  on_crop = geometry.transform(codec.region_to_crop(center, size), points)
  on_heatmap = on_crop / np.divide(codec.crop_extent, codec.heatmap_extent)[::-1]
  back = codec.heatmap_to_image(on_heatmap.astype(np.float32), center, size)
  np.testing.assert_allclose(back, points, atol=1e-3)


@pytest.mark.parametrize('codec_class', [codecs.DarkCodec, codecs.UdpCodec])
@pytest.mark.parametrize('scale', [0.8, 1.25])
def test_rescaled_heatmaps_agree(codec_class, scale):
  """The same keypoint in a crop of another size is at the same place of the rescaled heatmap."""
  codec = codec_class((256, 192), (64, 48), 3.0, 'dark')
  extent = np.array(codec.crop_extent)[::-1]
  points = np.array([[[70.0, 90.0], [110.0, 170.0]]])
  in_other_crop = (points - extent / 2) / scale + extent / 2
  wide = dataclasses.replace(codec, sigma=3.0 / scale)
  heatmaps, _ = wide.encode(in_other_crop, np.ones((1, 2)))
  found, _ = codec.decode(codec.rescale(heatmaps, scale))
  expected, _ = codec.decode(codec.encode(points, np.ones((1, 2)))[0])
  np.testing.assert_allclose(found, expected, atol=0.05)


def test_the_taylor_step_is_limited_on_flat_heatmaps():
  """There the second derivatives are rounding errors, and a quotient can be any number."""
  r = np.random.default_rng(0)
  codec = codecs.DarkCodec((256, 192), (64, 48))
  heatmaps = 1 + 1e-4 * r.uniform(0, 1, (8, 64, 48, 17)).astype(np.float32)
  peaks, _ = dataclasses.replace(codec, offset='none').decode(heatmaps)
  moved = np.abs(codec.decode(heatmaps)[0] - peaks)
  assert moved.max() == codecs.FARTHEST_STEP
