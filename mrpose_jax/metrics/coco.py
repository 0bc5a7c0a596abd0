"""COCO's keypoint metric: rescoring, non-maximum suppression by OKS, average precision.

An evaluation calls `rescore_and_nms` on all predictions, then `evaluate` for the ten metrics, or
`write_results` for the file that COCO's server accepts.
"""

import collections
import contextlib
import io
import logging
import os
import pathlib

import numpy as np
import orjson
from pycocotools import coco
from pycocotools import cocoeval

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.host import records

log = logging.getLogger(__name__)

METRICS = ('AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL')
# Number of predictions per image that count in COCO's protocol.
MAX_PEOPLE = 20


def rescore_and_nms(
  predictions, score_threshold=0.2, oks_threshold=0.9, sigmas=skeletons.COCO.sigmas
):
  """Scores each person by box and keypoints, then removes the duplicates of better people.

  A person's score is the box score times the mean of the keypoint scores above `score_threshold`,
  or 0 if there are none. Then in every image, from the best person down, each remaining person
  removes everyone ranked below with an OKS above `oks_threshold`. Of equal scores the earlier row
  ranks higher. This is the rule of SimpleBaseline's released evaluation (Xiao et al. 2018).

  Args:
    predictions: arrays with one row per person, in any order: 'image_ids' [N]; 'keypoints'
      [N, K, 3] x, y in image pixels and score; 'area' [N] of the crop region in square pixels;
      'box_scores' [N]. The rows of any other array ('center', 'size', ..) are selected as well.
    score_threshold: only keypoint scores above this count.
    oks_threshold: 0..1; 1 keeps everyone.
    sigmas: [K] OKS sigmas of the skeleton.

  Returns:
    The remaining rows in their original order under the same names, and 'scores' [M] float64.

  Raises:
    DataError: a coordinate, score or area is not finite, or an area is negative; names the rows.
    ValueError: arrays differ in length, or the skeleton has no sigmas.
  """
  predictions = {name: np.asarray(column) for name, column in predictions.items()}
  keypoints, area = predictions['keypoints'], predictions['area'].astype(np.float64)
  _check_rows(predictions, len(sigmas))

  confidence = keypoints[..., 2].astype(np.float64)  # [N, K]
  counted = confidence > score_threshold
  mean = np.einsum('nk,nk->n', confidence, counted) / np.maximum(counted.sum(axis=1), 1)
  scores = predictions['box_scores'] * mean

  # Best first within each image; lexsort is stable, so ties stay in the order of the rows.
  _, image = np.unique(predictions['image_ids'], return_inverse=True)
  order = np.lexsort((-scores, image))
  remains = _suppress(
    image[order], keypoints[order, :, :2].astype(np.float64), area[order], sigmas, oks_threshold
  )
  rows = np.sort(order[remains])
  return {name: column[rows] for name, column in (predictions | {'scores': scores}).items()}


def _suppress(image, points, area, sigmas, threshold):
  """Greedy suppression over people sorted by image, then from best to worst: [N] bool who remains.

  Each step handles one rank. Its leaders, the people of that rank in all images, cannot suppress
  one another, so a step is one vector operation over the people ranked below their leader. Memory
  is a few copies of `points`, regardless of the number of people in an image.
  """
  position = np.arange(len(image))
  is_best = np.diff(image, prepend=-1) > 0
  best = np.maximum.accumulate(np.where(is_best, position, 0))  # [N] best person of the image
  rank = position - best
  remains = np.ones(len(image), bool)
  below = position
  for step in range(rank.max(initial=0)):
    below = below[remains[below] & (rank[below] > step)]
    leader = best[below] + step
    leader_remains = remains[leader]
    i, j = leader[leader_remains], below[leader_remains]
    oks = _oks(points[i] - points[j], (area[i] + area[j]) / 2, sigmas)
    remains[j[oks > threshold]] = False
  return remains


def _oks(offset, area, sigmas):
  """OKS between predictions over all K keypoints: [P, K, 2] xy differences, [P] areas -> [P]."""
  variance = (2 * np.asarray(sigmas)) ** 2
  squared = np.einsum('pkc,pkc->pk', offset, offset)
  return np.mean(np.exp(-squared / (2 * variance * (area[:, None] + np.spacing(1.0)))), axis=-1)


def _check_rows(predictions, num_keypoints):
  lengths = {name: len(column) for name, column in predictions.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'predictions: all arrays must have one row per person, not {lengths}')
  shape = predictions['keypoints'].shape
  if shape[1:] != (num_keypoints, 3):
    raise ValueError(
      f'keypoints {shape} do not match {num_keypoints} OKS sigmas: expected [N, K, 3]'
    )
  valid = np.isfinite(predictions['keypoints']).all(axis=(1, 2))
  valid &= np.isfinite(predictions['box_scores'])
  valid &= np.isfinite(predictions['area']) & (predictions['area'] >= 0)
  if not valid.all():
    rows = np.flatnonzero(~valid)
    named = ', '.join(map(str, rows[:5])) + (', ..' if len(rows) > 5 else '')
    images = ', '.join(map(str, np.unique(predictions['image_ids'][rows[:5]])))
    raise errors.DataError(
      f'predictions: {len(rows)} of {len(valid)} rows (rows {named}; images {images}) have a '
      'coordinate, score or area that is not finite, or a negative area; '
      'check the detections and the checkpoint'
    )


def results(kept):
  """The people that `rescore_and_nms` kept in COCO's result format, one dict per person.

  Its keys are image_id, category_id (from kept['category_ids'], else 1), keypoints (3K numbers x,
  y, score, x, y, score, ..) and score; all values are plain Python numbers.
  """
  n, k, _ = kept['keypoints'].shape
  flat = kept['keypoints'].reshape(n, 3 * k)
  columns = (
    kept['image_ids'].tolist(),
    _category_ids(kept),
    flat.tolist(),
    kept['scores'].tolist(),
  )
  return [
    {'image_id': image_id, 'category_id': category_id, 'keypoints': keypoints, 'score': score}
    for image_id, category_id, keypoints, score in zip(*columns, strict=True)
  ]


def _category_ids(kept):
  ones = np.ones(len(kept['scores']), np.int64)
  return np.asarray(kept.get('category_ids', ones)).tolist()


def write_results(kept, path):
  """Writes `results(kept)` as JSON, one person per line; creates the folder if needed.

  The file is complete or absent. Coordinates and keypoint scores are rounded to 4 decimals, finer
  than float32 resolves beyond 512 pixels, which halves the size of the file.
  """
  if not (np.isfinite(kept['keypoints']).all() and np.isfinite(kept['scores']).all()):
    raise ValueError('predictions that are not finite cannot be written as JSON')
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  rounded = np.round(kept['keypoints'].astype(np.float64), 4).reshape(len(kept['scores']), -1)
  lines = (
    orjson.dumps(
      {'image_id': image_id, 'category_id': category_id, 'keypoints': row, 'score': score},
      option=orjson.OPT_SERIALIZE_NUMPY,
    )
    for image_id, category_id, row, score in zip(
      kept['image_ids'].tolist(), _category_ids(kept), rounded, kept['scores'].tolist()
    )
  )
  unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(unfinished, 'wb', buffering=2**20) as file:
      file.write(b'[\n' + next(lines, b''))
      file.writelines(b',\n' + line for line in lines)
      file.write(b'\n]\n')
      file.flush()
      os.fsync(file.fileno())
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)


def evaluate(kept, annotation_file, sigmas=skeletons.COCO.sigmas, keypoints=None):
  """Computes average precision and recall over OKS with pycocotools.

  Every image of the annotation file counts, with or without predictions. As on COCO's server, the
  20 best people of each image count; if an image has more annotated people, as many as it has,
  which is logged. If the file has several categories, a person can only match an annotation of the
  category in kept['category_ids'], and a metric is the mean over the categories, which is AP-10K's
  protocol.

  Args:
    kept: the result of `rescore_and_nms`.
    annotation_file: path of keypoint annotations in COCO's format.
    sigmas: [K] OKS sigmas of the skeleton.
    keypoints: [K] names of the predicted keypoints; None does not compare them with the file's.

  Returns:
    {'AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL'}: floats in 0..1. As in
    pycocotools, a metric is -1 if nobody in the file is of that size (M: 32² to 96² square pixels,
    L: larger). All are 0 if there are no predictions.

  Raises:
    DataError: the file cannot be read by `coco_json.read`, has no annotations or other keypoints,
      or lacks an image of the predictions.
  """
  annotations = coco_json.read(annotation_file, coco_json.ALL)
  names = annotations.skeleton.keypoints
  if annotations.test_set:
    raise errors.DataError(f'{annotation_file}: has no annotations to evaluate with')
  if len(names) != len(sigmas):
    raise errors.DataError(
      f'{annotation_file}: annotates {len(names)} keypoints per person, but the predictions have '
      f'{len(sigmas)}'
    )
  if keypoints is not None and names != tuple(keypoints):
    raise errors.DataError(
      f'{annotation_file}: annotates the keypoints {", ".join(names)}, but the predictions are '
      f'{", ".join(keypoints)}; {records.PREPARE_AGAIN}'
    )
  unknown = np.setdiff1d(kept['image_ids'], [image.id for image in annotations.images])
  if unknown.size:
    raise errors.DataError(
      f'{annotation_file}: has no image {unknown[0]} ({unknown.size} predicted images are '
      'missing); evaluate with the annotations of the split that was predicted'
    )
  if not len(kept['scores']):
    return dict.fromkeys(METRICS, 0.0)

  category_ids = list(annotations.categories)
  if len(category_ids) == 1:
    kept = kept | {'category_ids': np.full(len(kept['scores']), category_ids[0])}
  people = results(kept)
  for person, points in zip(people, kept['keypoints'].astype(np.float64), strict=True):
    person['keypoints'] = points.reshape(-1)  # pycocotools converts lists for every pair
  with contextlib.redirect_stdout(io.StringIO()):
    truth = coco.COCO()
    truth.dataset = {
      'images': [{'id': image.id} for image in annotations.images],
      # COCOeval treats a match with annotation 0 as no match, so all ids are renumbered from 1.
      'annotations': [row | {'id': i} for i, row in enumerate(annotations.rows, start=1)],
      'categories': [{'id': category_id} for category_id in category_ids],
    }
    truth.createIndex()
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(people), 'keypoints')
    evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
    evaluation.params.catIds = category_ids
    evaluation.params.maxDets = [_most_people(annotations, annotation_file)]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.params.maxDets = [MAX_PEOPLE]  # the only number that `summarize` prints
    evaluation.summarize()
  return {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=True)}


def _most_people(annotations, where):
  """Returns the number of predictions per image that count, and logs it if it is not COCO's."""
  counted = collections.Counter(
    row['image_id'] for row in annotations.rows if row['num_keypoints'] and not row['iscrowd']
  )
  most = max(counted.values(), default=0)
  if most > MAX_PEOPLE:
    log.warning(
      "%s: an image has %d people, so the %d best predictions of each image count; COCO's protocol "
      'counts %d',
      *(where, most, most, MAX_PEOPLE),
    )
  return max(most, MAX_PEOPLE)
