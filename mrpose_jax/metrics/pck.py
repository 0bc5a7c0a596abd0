"""Percentage of correct keypoints: PCK, the area under its curve, and MPII's PCKh."""

import io

import numpy as np
import scipy.io

from mrpose_jax import errors

# Rows of MPII's table -> joint names in its annotation file. Head is the head top; the other rows
# are means of left and right.
_ROWS = {
  'Head': ('head',),
  'Shoulder': ('lsho', 'rsho'),
  'Elbow': ('lelb', 'relb'),
  'Wrist': ('lwri', 'rwri'),
  'Hip': ('lhip', 'rhip'),
  'Knee': ('lkne', 'rkne'),
  'Ankle': ('lank', 'rank'),
}
_NOT_SCORED = ('pelv', 'thor')
# The torso of PCK, and the head of PCKh for skeletons other than MPII's (the neck by either name).
TORSO = ('right_hip', 'left_shoulder')
HEADS = (('head_top', 'upper_neck'), ('head_top', 'neck'))
# The benchmark's head size is this times the diagonal of the head box (MPII toolkit, SC_BIAS).
_HEAD_SIZE_FACTOR = 0.6


def pckh(keypoints, ground_truth_mat):
  """PCKh: a keypoint is correct within half a head size of the annotation.

  'Mean' weights the joints by their number of annotations and excludes pelvis and thorax, as the
  benchmark does. 'Mean@0.1' and 'Mean@0.11' are the same mean within 0.1 and 0.11 head sizes:
  papers that copied the common PyTorch script print the second under the name of the first. A NaN
  prediction is not correct.

  Args:
    keypoints: [N, 16, 2] xy in image pixels, the first pixel at 0, in MPII's joint order.
    ground_truth_mat: path of gt_valid.mat, whose coordinates start at 1, with the variables
      dataset_joints, jnt_missing [16, N], pos_gt_src [16, 2, N] and headboxes_src [2, 2, N].

  Returns:
    {'Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle', 'Mean', 'Mean@0.1',
    'Mean@0.11'}: per cent; NaN if the file annotates no such joint.

  Raises:
    DataError: the file cannot be read, lacks a variable, or does not have N people.
  """
  joints, visible, target, head_size = _read_ground_truth(ground_truth_mat)
  keypoints = np.asarray(keypoints, np.float64)
  if keypoints.shape != target.shape:
    raise errors.DataError(
      f'{ground_truth_mat}: annotates {len(target)} people with {len(joints)} joints, but the '
      f'predictions have shape {list(keypoints.shape)}; predict the whole validation set in order'
    )
  distance = np.linalg.norm(keypoints + 1 - target, axis=-1)  # [N, 16]
  scored = [joint not in _NOT_SCORED for joint in joints]

  def mean(threshold):
    correct = distance <= threshold * head_size[:, None]
    return _per_cent(correct[:, scored], visible[:, scored])

  per_joint = _per_cent(distance <= 0.5 * head_size[:, None], visible, axis=0)
  table = {row: per_joint[[joints.index(n) for n in names]].mean() for row, names in _ROWS.items()}
  table |= {'Mean': mean(0.5), 'Mean@0.1': mean(0.1), 'Mean@0.11': mean(0.11)}
  return {row: float(value) for row, value in table.items()}


def pck(keypoints, target, reference_length, visible, threshold=0.2):
  """PCK (equation 3): a keypoint is correct within `threshold` reference lengths of the annotation.

  Args:
    keypoints: [N, K, 2] predicted xy in pixels.
    target: [N, K, 2] annotated xy in pixels.
    reference_length: [N] in pixels; `torso_length` for the paper's PCK. People whose length is zero
      or NaN are excluded.
    visible: [N, K], above 0 where annotated; the other keypoints are excluded.
    threshold: r of the equation, 0.2 for PCK@0.2.

  Returns:
    {'keypoints': K floats, 'Mean': all keypoints together}: per cent, NaN if all are excluded.
  """
  distance, reference, counted = _distances(keypoints, target, reference_length, visible)
  correct = distance <= threshold * reference
  per_keypoint = _per_cent(correct, counted, axis=0)
  return {'keypoints': per_keypoint.tolist(), 'Mean': float(_per_cent(correct, counted))}


def auc(keypoints, target, reference_length, visible, limit=0.5):
  """Area under the curve of PCK over the thresholds 0 to `limit`, divided by `limit`.

  PCK counts the keypoints whose distance d is at most r lengths L, so the mean of PCK over r in
  [0, limit] is the mean of max(0, 1 - d / (limit L)) over the keypoints; this integral is exact.
  The limit 0.5 is that of MPII's leaderboard, whose script sums PCKh at 0, 0.01, .., 0.5
  (Insafutdinov et al., ECCV 2016, report this AUC).

  Args:
    keypoints, target, reference_length, visible: see `pck`. A NaN prediction is never correct.
    limit: largest threshold, as a fraction of the length.

  Returns:
    {'keypoints': K floats, 'Mean': all keypoints together}: per cent, NaN if all are excluded.
  """
  distance, reference, counted = _distances(keypoints, target, reference_length, visible)
  fraction = distance / (limit * np.where(reference > 0, reference, 1))
  share = np.where(np.isnan(distance), 0, np.maximum(1 - fraction, 0))
  per_keypoint = _per_cent(share, counted, axis=0)
  return {'keypoints': per_keypoint.tolist(), 'Mean': float(_per_cent(share, counted))}


def torso_length(target, visible, skeleton):
  """The paper's torso diameter [N] in pixels, right hip to left shoulder; NaN if not annotated."""
  return segment_length(target, visible, skeleton, TORSO)


def segment_length(target, visible, skeleton, ends):
  """Distance [N] in pixels between two annotated keypoints; NaN unless both are annotated.

  Args:
    target: [N, K, 2] annotated xy in pixels.
    visible: [N, K], above 0 where annotated.
    skeleton: names the K keypoints.
    ends: names of the two keypoints.
  """
  ends = [skeleton.keypoints.index(name) for name in ends]
  first, second = np.moveaxis(np.asarray(target, np.float64)[:, ends], 1, 0)
  annotated = np.all(np.asarray(visible)[:, ends] > 0, axis=1)
  return np.where(annotated, np.linalg.norm(first - second, axis=-1), np.nan)


def read_heads(ground_truth_mat):
  """Reads what PCKh of the benchmark compares with.

  Returns:
    (target [N, 16, 2] xy in pixels, the first pixel at 1; scored [N, 16] bool, whether annotated
    and neither pelvis nor thorax; head size [N] in pixels).

  Raises:
    DataError: the file cannot be read, or lacks a variable.
  """
  joints, visible, target, head_size = _read_ground_truth(ground_truth_mat)
  return target, visible & [joint not in _NOT_SCORED for joint in joints], head_size


def write_mat(keypoints, path):
  """Writes pred.mat for the benchmark's scripts: 'preds' [N, 16, 2] with the first pixel at 1.

  Args:
    keypoints: [N, 16, 2] xy in image pixels, the first pixel at 0, people in the file's order.
    path: file to write.
  """
  with open(path, 'wb') as file:
    scipy.io.savemat(file, {'preds': np.asarray(keypoints, np.float64) + 1})


def _distances(keypoints, target, reference_length, visible):
  """Distances [N, K] in pixels, reference lengths [N, 1], and which keypoints count [N, K]."""
  keypoints, target = np.asarray(keypoints, np.float64), np.asarray(target, np.float64)
  reference = np.asarray(reference_length, np.float64)[:, None]
  if keypoints.shape != target.shape:
    raise ValueError(f'keypoints {keypoints.shape} and target {target.shape} differ in shape')
  counted = (np.asarray(visible) > 0) & (reference > 0)
  return np.linalg.norm(keypoints - target, axis=-1), reference, counted


def _per_cent(correct, counted, axis=None):
  """Mean of `correct`, bool or 0..1, over what is counted, in per cent; NaN without any."""
  total = np.sum(counted, axis=axis)
  hits = np.sum(correct * counted, axis=axis)
  return np.where(total > 0, 100 * hits / np.maximum(total, 1), np.nan)


def _read_ground_truth(path):
  """Reads joint names, visible [N, 16] bool, target [N, 16, 2] and head size [N] in pixels."""
  wanted = ('dataset_joints', 'jnt_missing', 'pos_gt_src', 'headboxes_src')
  try:
    with open(path, 'rb') as file:
      content = io.BytesIO(file.read())
  except OSError as error:
    raise errors.DataError(
      f"{path}: cannot read MPII's ground truth ({error.strerror}); "
      'it is gt_valid.mat beside the annotations'
    ) from error
  try:
    variables = scipy.io.loadmat(content, variable_names=wanted)
  except Exception as error:  # SciPy's reader raises a dozen types for damaged files
    raise errors.DataError(
      f'{path}: not a complete MATLAB file ({error}); download it again'
    ) from error
  missing = [name for name in wanted if name not in variables]
  if missing:
    raise errors.DataError(f"{path}: lacks {', '.join(missing)}; is it MPII's gt_valid.mat?")
  joints = [str(np.squeeze(name)) for name in variables['dataset_joints'].ravel()]
  visible = variables['jnt_missing'].T == 0
  target = np.moveaxis(variables['pos_gt_src'], -1, 0)  # [16, 2, N] -> [N, 16, 2]
  corners = variables['headboxes_src']  # [corner, xy, N]
  head_size = _HEAD_SIZE_FACTOR * np.linalg.norm(corners[1] - corners[0], axis=0)
  return joints, visible, target, head_size
