"""Mean distance between predicted and annotated keypoints, in pixels or in a person's lengths."""

import numpy as np


def epe(keypoints, target, visible):
  """EPE: mean Euclidean distance over the annotated keypoints, in pixels.

  EPE = mean of |p - t| over all annotated keypoints of all people together, as in MMPose's `EPE`.

  Args:
    keypoints: [N, K, 2] predicted xy in pixels.
    target: [N, K, 2] annotated xy in pixels.
    visible: [N, K], above 0 where annotated; the other keypoints are excluded.

  Returns:
    {'keypoints': K floats, 'Mean': all keypoints together}: pixels; NaN if all are excluded, or if
    a prediction that counts is NaN.
  """
  return _mean_distance(keypoints, target, np.ones(len(keypoints)), visible)


def nme(keypoints, target, reference_length, visible):
  """NME: mean of the distances divided by a length of each person, in per cent.

  NME = 100 mean of |p - t| / L over all annotated keypoints of all people together. L is the
  distance between the outer eye corners in the 300-W challenge (Sagonas et al., ICCVW 2013), and
  the square root of width times height of the box in Bulat and Tzimiropoulos (ICCV 2017).

  Args:
    keypoints, target, visible: see `epe`.
    reference_length: [N] in pixels. People whose length is zero or NaN are excluded.

  Returns:
    {'keypoints': K floats, 'Mean': all keypoints together}: per cent; NaN as in `epe`.
  """
  table = _mean_distance(keypoints, target, reference_length, visible)
  return {
    'keypoints': [100 * value for value in table['keypoints']],
    'Mean': 100 * table['Mean'],
  }


def _mean_distance(keypoints, target, reference_length, visible):
  keypoints, target = np.asarray(keypoints, np.float64), np.asarray(target, np.float64)
  reference = np.asarray(reference_length, np.float64)[:, None]
  if keypoints.shape != target.shape:
    raise ValueError(f'keypoints {keypoints.shape} and target {target.shape} differ in shape')
  counted = (np.asarray(visible) > 0) & (reference > 0)
  distance = np.linalg.norm(keypoints - target, axis=-1) / np.where(reference > 0, reference, 1)
  distance = np.where(counted, distance, 0)

  def mean(axis=None):
    number = counted.sum(axis=axis)
    return np.where(number > 0, distance.sum(axis=axis) / np.maximum(number, 1), np.nan)

  return {'keypoints': mean(axis=0).tolist(), 'Mean': float(mean())}
