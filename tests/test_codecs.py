"""Heatmap codec: values by hand, round trip, and equality to the released code."""

import jax
import numpy as np
import pytest

from mrpose_jax import codecs
from mrpose_jax import skeletons
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
