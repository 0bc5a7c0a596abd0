"""PCK, AUC, EPE and NME of an evaluated split, by keypoint and together."""

import math
from typing import NamedTuple

import numpy as np

from mrpose_jax import errors
from mrpose_jax.metrics import choice
from mrpose_jax.metrics import endpoint_error
from mrpose_jax.metrics import error_analysis
from mrpose_jax.metrics import pck

# Computed for every data set, so that the report can show them.
ALWAYS = ('PCK@0.2', 'EPE')
# Thresholds of the curve, as fractions of the length.
THRESHOLDS = np.arange(51) / 100


class Pairs(NamedTuple):
  """The annotated people of a split and the predictions for them.

  Attributes:
    person_ids: [P].
    predicted: [P, K, 2] xy in image pixels; NaN for people without a prediction.
    truth: [P, K, 2] xy in image pixels.
    visible: [P, K], above 0 where annotated.
    sizes: [P, 2] width and height of the annotated box in pixels.
    found: [P] bool, whether the person has a prediction.
  """

  person_ids: np.ndarray
  predicted: np.ndarray
  truth: np.ndarray
  visible: np.ndarray
  sizes: np.ndarray
  found: np.ndarray


def pair(predictions, dataset) -> Pairs:
  """Pairs every annotated person with the prediction of `error_analysis.rows_of_people`."""
  people = dataset.people
  rows = error_analysis.rows_of_people(predictions, dataset)
  found = rows >= 0
  predicted = np.full(people.keypoints.shape, np.nan)
  predicted[found] = predictions['keypoints'][rows[found], :, :2]
  return Pairs(people.person_ids, predicted, people.keypoints, people.visible, people.sizes, found)


def compute(metrics: list[choice.Metric], pairs: Pairs, dataset) -> dict:
  """Computes the metrics that compare keypoints one by one.

  A person without a prediction counts as wrong in PCK and AUC, and does not count in EPE and NME.

  Args:
    metrics: from `choice.of_dataset`; COCO's and MPII's own numbers are skipped.
    pairs: from `pair`.
    dataset: from `prepared_data.open_dataset`.

  Returns:
    The content of `keypoints.json`: {'people', 'missed', 'keypoints': K names, 'metrics': {name:
    {'length', 'Mean', 'keypoints' [K], 'counted' [K] number of annotations}}, 'curve': {'length',
    'thresholds' [T], 'Mean' [T], 'keypoints' {name: [T]}}}. None stands for values that are not
    finite.

  Raises:
    DataError: MPII's ground truth cannot be read, or annotates other people.
  """
  always = {'metrics': ALWAYS, 'primary': ''}
  wanted = {metric.name: metric for metric in choice.of_dataset(always, dataset)[0] + metrics}
  wanted = [metric for metric in wanted.values() if metric.kind in ('PCK', 'AUC', 'EPE', 'NME')]
  tables = {metric.name: _table(metric, pairs, dataset) for metric in wanted}
  length = next(metric.length for metric in wanted if metric.name == ALWAYS[0])
  curve = [_pck(length, threshold, pairs, dataset)[0] for threshold in THRESHOLDS]
  names = dataset.skeleton.keypoints
  by_keypoint = np.array([table['keypoints'] for table in curve]).T  # [K, T]
  return {
    'people': len(pairs.found),
    'missed': int((~pairs.found).sum()),
    'keypoints': list(names),
    'metrics': tables,
    'curve': {
      'length': length,
      'thresholds': THRESHOLDS.tolist(),
      'Mean': _finite([table['Mean'] for table in curve]),
      'keypoints': {name: _finite(values) for name, values in zip(names, by_keypoint.tolist())},
    },
  }


def means(content: dict) -> dict[str, float]:
  """{name: value over all keypoints} from the result of `compute`; NaN where it is None."""
  means = {name: table['Mean'] for name, table in content['metrics'].items()}
  return {name: math.nan if value is None else value for name, value in means.items()}


def _table(metric, pairs, dataset):
  if metric.kind == 'PCK':
    table, counted = _pck(metric.length, metric.threshold, pairs, dataset)
  elif metric.kind == 'AUC':
    arrays, counted = _compared(metric.length, pairs, dataset)
    table = pck.auc(*arrays)
  elif metric.kind == 'EPE':
    counted = (pairs.visible > 0) & pairs.found[:, None]
    table = endpoint_error.epe(pairs.predicted, pairs.truth, counted)
  else:
    (predicted, truth, length, _), counted = _compared(metric.length, pairs, dataset)
    if metric.length == 'box':
      length = np.sqrt(pairs.sizes.prod(-1))
    counted = counted & pairs.found[:, None] & (length > 0)[:, None]
    table = endpoint_error.nme(predicted, truth, length, counted)
  return {
    'length': metric.length,
    'Mean': _finite([table['Mean']])[0],
    'keypoints': _finite(table['keypoints']),
    'counted': counted.sum(0).tolist(),
  }


def _pck(length, threshold, pairs, dataset):
  arrays, counted = _compared(length, pairs, dataset)
  return pck.pck(*arrays, threshold=threshold), counted


def _compared(length, pairs, dataset):
  """Arguments of `pck.pck` for a length: predicted, truth, length [P], visible; and who counts."""
  predicted, truth, visible = pairs.predicted, pairs.truth, pairs.visible
  if length == 'box':
    reference = pairs.sizes.max(-1)
  elif length == 'head' and dataset.kind == 'mpii':
    file = choice.ground_truth(dataset)
    target, scored, head_size = pck.read_heads(file)
    if pairs.person_ids.max(initial=-1) >= len(target):
      raise errors.DataError(f'{file}: annotates {len(target)} people, fewer than the split has')
    rows = pairs.person_ids
    predicted, truth = predicted + 1, target[rows]
    visible, reference = scored[rows], head_size[rows]
  else:
    ends = choice.ends_of(length, dataset.skeleton)
    reference = pck.segment_length(truth, visible, dataset.skeleton, ends)
  counted = (visible > 0) & (reference > 0)[:, None]
  return (predicted, truth, reference, visible), counted


def _finite(values):
  return [value if math.isfinite(value) else None for value in values]
