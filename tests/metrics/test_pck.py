import json

import numpy as np
import pytest
import scipy.io

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.metrics import pck
from tests.helpers import shared_data

JOINTS = 'rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri'.split()


def write_ground_truth(path, target, visible, diagonal=(60, 80)):
  """Writes a gt_valid.mat like MPII's; target [N, 16, 2] is 1-based, head boxes have one size."""
  n = len(target)
  corners = np.zeros((2, 2, n))
  corners[1] = np.array(diagonal)[:, None]
  names = np.empty((1, 16, 1), object)
  names[0, :, 0] = JOINTS
  variables = {
    'dataset_joints': names,
    'jnt_missing': 1.0 - np.asarray(visible).T,
    'pos_gt_src': np.moveaxis(np.asarray(target, float), 0, -1),
    'headboxes_src': corners,
  }
  scipy.io.savemat(path, variables)
  return path


def shifted(target, joint, pixels):
  """0-based predictions that equal the target except for `pixels` in x at one joint."""
  keypoints = np.array(target, float) - 1
  keypoints[:, JOINTS.index(joint), 0] += pixels
  return keypoints


@pytest.fixture
def target():
  return np.random.default_rng(0).integers(1, 500, (2, 16, 2))


def test_perfect_prediction(tmp_path, target):
  path = write_ground_truth(tmp_path / 'gt.mat', target, np.ones((2, 16)))
  table = pck.pckh(target - 1, path)
  assert list(table) == [
    *('Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle'),
    *('Mean', 'Mean@0.1', 'Mean@0.11'),
  ]
  assert set(table.values()) == {100.0}


@pytest.mark.parametrize(
  # Head size = 0.6 x |(60, 80)| = 60 pixels: half is 30, a tenth 6, 0.11 of it 6.6. Missing one of
  # the 14 scored joints leaves 92.86 per cent.
  ('pixels', 'elbow', 'means'),
  [
    (30, 100, (100, 1300 / 14, 1300 / 14)),
    (30.1, 50, (1300 / 14, 1300 / 14, 1300 / 14)),
    (6.3, 100, (100, 1300 / 14, 100)),
    (6, 100, (100, 100, 100)),
  ],
)
def test_thresholds(tmp_path, target, pixels, elbow, means):
  path = write_ground_truth(tmp_path / 'gt.mat', target, np.ones((2, 16)))
  table = pck.pckh(shifted(target, 'lelb', pixels), path)
  assert table['Elbow'] == pytest.approx(elbow)
  assert [table[name] for name in ('Mean', 'Mean@0.1', 'Mean@0.11')] == pytest.approx(means)


@pytest.mark.parametrize('joint', ['pelv', 'thor'])
def test_pelvis_and_thorax_do_not_count(tmp_path, target, joint):
  path = write_ground_truth(tmp_path / 'gt.mat', target, np.ones((2, 16)))
  assert pck.pckh(shifted(target, joint, 400), path)['Mean'] == 100


def test_the_mean_weights_joints_by_their_annotations(tmp_path, target):
  visible = np.ones((2, 16))
  visible[0, JOINTS.index('head')] = 0
  path = write_ground_truth(tmp_path / 'gt.mat', target, visible)
  # 27 annotated joints are scored. The heads of both people are wrong, but only that of the second
  # is annotated.
  table = pck.pckh(shifted(target, 'head', 400), path)
  assert table['Head'] == 0
  assert table['Mean'] == pytest.approx(100 * 26 / 27)


def test_joint_that_nobody_shows_and_prediction_that_is_nan(tmp_path, target):
  visible = np.ones((2, 16))
  visible[:, JOINTS.index('head')] = 0
  path = write_ground_truth(tmp_path / 'gt.mat', target, visible)
  table = pck.pckh(shifted(target, 'rkne', np.nan), path)
  assert np.isnan(table['Head'])
  assert table['Knee'] == 50
  assert table['Mean'] == pytest.approx(100 * 24 / 26)


def test_golden_pckh():
  expected = json.loads(shared_data.golden('scalars.json').read_text())['pckh']
  expected['Mean@0.11'] = expected.pop('Mean@0.1')  # the released code misnames it
  with np.load(shared_data.golden('mpii_predictions.npz')) as arrays:
    table = pck.pckh(arrays['keypoints'], shared_data.golden('mpii_gt_valid.mat'))
  assert {name: table[name] for name in expected} == pytest.approx(expected, abs=1e-9)
  assert table['Mean@0.1'] < table['Mean@0.11']


def test_wrong_number_of_people(tmp_path, target):
  path = write_ground_truth(tmp_path / 'gt.mat', target, np.ones((2, 16)))
  with pytest.raises(errors.DataError, match=r'annotates 2 people .* shape \[1, 16, 2\]'):
    pck.pckh(target[:1] - 1, path)


def test_files_that_are_no_ground_truth(tmp_path, target):
  path = tmp_path / 'gt.mat'
  with pytest.raises(errors.DataError, match='No such file'):
    pck.pckh(target, path)
  path.write_bytes(b'')
  with pytest.raises(errors.DataError, match='not a complete MATLAB file'):
    pck.pckh(target, path)
  path.write_text('{"annotations": []}' * 20)
  with pytest.raises(errors.DataError, match='not a complete MATLAB file'):
    pck.pckh(target, path)
  scipy.io.savemat(path, {'preds': target})
  with pytest.raises(errors.DataError, match='lacks dataset_joints, jnt_missing'):
    pck.pckh(target, path)
  whole = write_ground_truth(path, target, np.ones((2, 16))).read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(errors.DataError, match='not a complete MATLAB file'):
    pck.pckh(target, path)


def test_written_predictions_start_at_one(tmp_path, target):
  path = tmp_path / 'pred.mat'
  pck.write_mat(target - 1, path)
  np.testing.assert_array_equal(scipy.io.loadmat(path)['preds'], target)


def test_pck_by_hand():
  target = np.zeros((3, 2, 2))
  # Limits at 0.2: 20, 10 and 20 pixels. Distances of the first keypoint: 20, 5 x |(3, 4)| = 25, 0;
  # of the second: 21, not annotated, 0.
  keypoints = [[[20, 0], [0, 21]], [[15, 20], [0, 0]], [[0, 0], [0, 0]]]
  visible = [[1, 2], [1, 0], [1, 1]]
  table = pck.pck(keypoints, target, [100, 50, 100], visible)
  assert table['keypoints'] == pytest.approx([100 * 2 / 3, 50])
  assert table['Mean'] == pytest.approx(60)
  assert pck.pck(keypoints, target, [100, 50, 100], visible, threshold=0.5)['Mean'] == 100


def test_pck_leaves_out_people_without_a_torso():
  keypoints = np.zeros((2, 1, 2))
  target = np.array([[[0.0, 0]], [[9, 9]]])
  assert pck.pck(keypoints, target, [10, np.nan], np.ones((2, 1)))['Mean'] == 100
  assert pck.pck(keypoints, target, [10, 0], np.ones((2, 1)))['Mean'] == 100
  assert np.isnan(pck.pck(keypoints, target, [np.nan, 0], np.ones((2, 1)))['Mean'])


def test_pck_of_other_shapes():
  with pytest.raises(ValueError, match='differ in shape'):
    pck.pck(np.zeros((1, 2, 2)), np.zeros((2, 2)), [1], np.ones((1, 2)))


@pytest.mark.parametrize('people', [skeletons.COCO, skeletons.MPII], ids=lambda s: s.name)
def test_torso_length(people):
  target = np.zeros((2, people.num_keypoints, 2))
  target[:, people.keypoints.index('right_hip')] = (1, 2)
  target[:, people.keypoints.index('left_shoulder')] = (4, 6)
  visible = np.ones((2, people.num_keypoints))
  visible[1, people.keypoints.index('right_hip')] = 0
  np.testing.assert_array_equal(pck.torso_length(target, visible, people), [5, np.nan])


def test_pck_over_all_thresholds_is_the_auc():
  """The exact area equals a fine sum over thresholds, for every keypoint and for all together."""
  r = np.random.default_rng(0)
  target = r.uniform(0, 200, (30, 4, 2))
  keypoints = target + r.normal(0, 20, target.shape)
  visible, length = r.integers(0, 3, (30, 4)), r.uniform(30, 90, 30)
  visible[:, 3] = 0
  thresholds = (np.arange(5000) + 0.5) / 5000 * 0.5
  tables = [pck.pck(keypoints, target, length, visible, threshold=t) for t in thresholds]
  table = pck.auc(keypoints, target, length, visible)
  assert table['Mean'] == pytest.approx(np.mean([t['Mean'] for t in tables]), abs=0.01)
  expected = np.mean([t['keypoints'] for t in tables], axis=0)
  np.testing.assert_allclose(table['keypoints'][:3], expected[:3], atol=0.02)
  assert np.isnan(table['keypoints'][3])


def test_auc_by_hand():
  target = np.zeros((3, 2, 2))
  # The limit is 0.5 lengths, 50 and 10 pixels; distances 25, 60, 5 and none.
  keypoints = [[[15, 20], [60, 0]], [[3, 4], [0, 0]], [[0, 0], [0, 0]]]
  table = pck.auc(keypoints, target, [100, 20, np.nan], [[1, 1], [1, 0], [1, 1]])
  assert table['keypoints'] == pytest.approx([50, 0])
  assert table['Mean'] == pytest.approx(100 / 3)
  assert pck.auc(keypoints, target, [100, 20, 0], np.ones((3, 2)), limit=1)['keypoints'][0] == 75
  wrong = np.full((3, 2, 2), np.nan)
  assert pck.auc(wrong, target, [100, 20, 10], np.ones((3, 2)))['Mean'] == 0
  assert np.isnan(pck.auc(keypoints, target, [100, 20, 10], np.zeros((3, 2)))['Mean'])
  with pytest.raises(ValueError, match='differ in shape'):
    pck.auc(wrong[:2], target, [100, 20, 10], np.ones((3, 2)))


def test_lengths_between_keypoints():
  target = np.array([[[0.0, 0], [3, 4], [0, 10]], [[0, 0], [3, 4], [0, 10]]])
  visible = [[1, 2, 0], [1, 1, 1]]
  skeleton = skeletons.Skeleton('x', ('neck', 'right_hip', 'left_shoulder'), (), ())
  length = pck.segment_length(target, visible, skeleton, ('neck', 'right_hip'))
  np.testing.assert_array_equal(length, [5, 5])
  torso = pck.torso_length(target, visible, skeleton)
  np.testing.assert_allclose(torso, [np.nan, np.hypot(3, 6)])


def test_heads_of_the_benchmark(tmp_path, target):
  visible = np.ones((2, 16))
  visible[1, JOINTS.index('head')] = 0
  path = write_ground_truth(tmp_path / 'gt.mat', target, visible)
  found, scored, size = pck.read_heads(path)
  np.testing.assert_array_equal(found, target)
  np.testing.assert_allclose(size, [60, 60])
  assert scored.sum(1).tolist() == [14, 13]
  assert not scored[:, [JOINTS.index('pelv'), JOINTS.index('thor')]].any()
