"""COCO's keypoint metric: rescoring, non-maximum suppression by OKS, average precision.

The order of things in an evaluation: `rescore_and_nms` over everything that was predicted, then
`evaluate` for the ten numbers, or `write_results` for the file that COCO's server takes.
"""

import contextlib
import io
import json
import os
import pathlib

import numpy as np
import orjson
from pycocotools import coco
from pycocotools import cocoeval

from mrpose_jax import errors
from mrpose_jax import skeletons

METRICS = ('AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL')


def rescore_and_nms(
  predictions, score_threshold=0.2, oks_threshold=0.9, sigmas=skeletons.COCO.sigmas
):
  """Scores each person by box and keypoints, then drops the duplicates of better people.

  A person's score is the box's score times the mean of the keypoint scores above
  `score_threshold`, 0 if none is. Then in every image, from the best person down, whoever stands
  removes everyone below with an OKS above `oks_threshold`. Of equal scores the earlier row is the
  better one. The rule is that of the released evaluation of SimpleBaseline (Xiao et al. 2018).

  Args:
    predictions: arrays with one row a person, any number of them, in any order:
      'image_ids' [N]; 'keypoints' [N, K, 3] x, y in image pixels and score; 'area' [N] of the
      crop region in square pixels; 'box_scores' [N]. Others ('center', 'size', ..) ride along.
    score_threshold: keypoints count towards the score above this.
    oks_threshold: 0..1; 1 keeps everyone.
    sigmas: [K] of the skeleton, as in OKS.

  Returns:
    The rows that stay, in their order, under the same names, and 'scores' [M] float64.

  Raises:
    DataError: a coordinate, score or area is not finite, or an area is negative; names the rows.
    ValueError: arrays of different lengths, or a skeleton without sigmas.
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
  stands = _suppress(
    image[order], keypoints[order, :, :2].astype(np.float64), area[order], sigmas, oks_threshold
  )
  rows = np.sort(order[stands])
  return {name: column[rows] for name, column in (predictions | {'scores': scores}).items()}


def _suppress(image, points, area, sigmas, threshold):
  """Greedy suppression over people sorted by image, then from best to worst: [N] bool who stands.

  One step a rank: the leaders of a step are the people of that rank in all images, which cannot
  suppress one another, so each step is one vector operation over the people below its leaders.
  Memory is a few copies of `points`, whatever the number of people in an image.
  """
  place = np.arange(len(image))
  is_best = np.diff(image, prepend=-1) > 0
  best = np.maximum.accumulate(np.where(is_best, place, 0))  # [N] the first person of the image
  rank = place - best
  stands = np.ones(len(image), bool)
  below = place
  for step in range(rank.max(initial=0)):
    below = below[stands[below] & (rank[below] > step)]
    leader = best[below] + step
    led = stands[leader]
    i, j = leader[led], below[led]
    oks = _oks(points[i] - points[j], (area[i] + area[j]) / 2, sigmas)
    stands[j[oks > threshold]] = False
  return stands


def _oks(offset, area, sigmas):
  """OKS between predictions: [P, K, 2] xy differences, [P] areas -> [P], all keypoints counting."""
  variance = (2 * np.asarray(sigmas)) ** 2
  squared = np.einsum('pkc,pkc->pk', offset, offset)
  return np.mean(np.exp(-squared / (2 * variance * (area[:, None] + np.spacing(1.0)))), axis=-1)


def _check_rows(predictions, num_keypoints):
  lengths = {name: len(column) for name, column in predictions.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'predictions must have one row a person everywhere, not {lengths}')
  shape = predictions['keypoints'].shape
  if shape[1:] != (num_keypoints, 3):
    raise ValueError(f'keypoints {shape} do not go with {num_keypoints} OKS sigmas: want [N, K, 3]')
  good = np.isfinite(predictions['keypoints']).all(axis=(1, 2))
  good &= np.isfinite(predictions['box_scores'])
  good &= np.isfinite(predictions['area']) & (predictions['area'] >= 0)
  if not good.all():
    rows = np.flatnonzero(~good)
    named = ', '.join(map(str, rows[:5])) + (', ..' if len(rows) > 5 else '')
    images = ', '.join(map(str, np.unique(predictions['image_ids'][rows[:5]])))
    raise errors.DataError(
      f'predictions: {len(rows)} of {len(good)} rows (rows {named}; images {images}) have a '
      'coordinate, score or area that is not finite, or a negative area; '
      'check the detections and the checkpoint'
    )


def results(kept, category_id=1):
  """What `rescore_and_nms` kept, as a list of results in COCO's format, one dict a person.

  Each has image_id, category_id, keypoints (3K numbers x, y, score, x, y, score, ..) and score,
  all plain Python numbers.
  """
  n, k, _ = kept['keypoints'].shape
  flat = kept['keypoints'].reshape(n, 3 * k)
  columns = (kept['image_ids'].tolist(), flat.tolist(), kept['scores'].tolist())
  return [
    {'image_id': image_id, 'category_id': category_id, 'keypoints': keypoints, 'score': score}
    for image_id, keypoints, score in zip(*columns, strict=True)
  ]


def write_results(kept, path, category_id=1):
  """Writes `results(kept, category_id)` as JSON, one person a line.

  The file appears whole or not at all.
  Coordinates and keypoint scores are rounded to 4 decimals, finer than float32 resolves beyond 512
  pixels, which halves the file. Makes the folder if need be.
  """
  if not (np.isfinite(kept['keypoints']).all() and np.isfinite(kept['scores']).all()):
    raise ValueError('predictions that are not finite have no form in JSON')
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  rounded = np.round(kept['keypoints'].astype(np.float64), 4).reshape(len(kept['scores']), -1)
  lines = (
    orjson.dumps(
      {'image_id': image_id, 'category_id': category_id, 'keypoints': row, 'score': score},
      option=orjson.OPT_SERIALIZE_NUMPY,
    )
    for image_id, row, score in zip(kept['image_ids'].tolist(), rounded, kept['scores'].tolist())
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


def evaluate(kept, annotation_file, sigmas=skeletons.COCO.sigmas):
  """Average precision and recall over OKS, computed by pycocotools.

  Every image of the annotation file counts, with or without predictions; like COCO's server it
  takes the 20 best people of each.

  Args:
    kept: what `rescore_and_nms` returned.
    annotation_file: path of keypoint annotations in COCO's format.
    sigmas: [K] of the skeleton.

  Returns:
    {'AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL'}: floats in 0..1. As
    in pycocotools -1 where the file has nobody of that size (M: 32² to 96² square pixels, L:
    larger), but 0 throughout where nothing was predicted.

  Raises:
    DataError: the file is missing, is no JSON, annotates no keypoints or other keypoints, or lacks
      an image of the predictions.
  """
  dataset, category_id = _read_annotations(annotation_file, len(sigmas))
  unknown = np.setdiff1d(kept['image_ids'], [image['id'] for image in dataset['images']])
  if unknown.size:
    raise errors.DataError(
      f'{annotation_file}: has no image {unknown[0]} ({unknown.size} predicted images are not in '
      'it); evaluate with the annotations of the split that was predicted'
    )
  if not len(kept['scores']):
    return dict.fromkeys(METRICS, 0.0)

  people = results(kept, category_id)
  for person, keypoints in zip(people, kept['keypoints'].astype(np.float64), strict=True):
    person['keypoints'] = keypoints.reshape(-1)  # pycocotools makes an array of it for every pair
  with contextlib.redirect_stdout(io.StringIO()):
    truth = coco.COCO()
    truth.dataset = dataset
    truth.createIndex()
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(people), 'keypoints')
    evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
    evaluation.params.catIds = [category_id]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=True)}


def _read_annotations(path, num_keypoints):
  """Reads and checks an annotation file: what COCOeval needs of it, and its category's id."""
  try:
    with open(path) as file:
      dataset = json.load(file)
  except OSError as error:
    raise errors.DataError(
      f'{path}: cannot read the annotations ({error.strerror}); '
      'they come with the data set, as person_keypoints_*.json'
    ) from error
  except ValueError as error:
    raise errors.DataError(f'{path}: not JSON ({error}); download it again') from error

  sections = ('images', 'annotations', 'categories')
  if not isinstance(dataset, dict) or not all(isinstance(dataset.get(s), list) for s in sections):
    raise errors.DataError(
      f'{path}: not in the format of COCO annotations, which have the lists {", ".join(sections)}'
    )
  named = [c for c in dataset['categories'] if c.get('keypoints')]
  if not named:
    raise errors.DataError(
      f'{path}: no category names keypoints; use person_keypoints_*.json, not instances_*.json'
    )
  category = next((c for c in named if len(c['keypoints']) == num_keypoints), None)
  if category is None:
    raise errors.DataError(
      f'{path}: annotates {len(named[0]["keypoints"])} keypoints a person, '
      f'the predictions have {num_keypoints}'
    )
  needed = {'image_id', 'bbox'}
  people = [a for a in dataset['annotations'] if a.get('category_id') == category['id']]
  for person in people:
    if missing := needed - person.keys():
      raise errors.DataError(
        f'{path}: annotation {person.get("id")} lacks {", ".join(sorted(missing))}'
      )
    person.setdefault('keypoints', [0] * (3 * num_keypoints))
    if len(person['keypoints']) != 3 * num_keypoints:
      raise errors.DataError(
        f'{path}: annotation {person.get("id")} has {len(person["keypoints"])} keypoint numbers, '
        f'not {3 * num_keypoints}'
      )
  # COCOeval takes a match with annotation 0 for no match, so ids count from 1 whatever the file
  # says.
  people = [_with_defaults(person) | {'id': i} for i, person in enumerate(people, start=1)]
  return dataset | {'annotations': people}, category['id']


def _with_defaults(person):
  """The annotation with what COCOeval needs and data sets of COCO's form may leave out."""
  _, _, width, height = person['bbox']
  labelled = sum(flag > 0 for flag in person['keypoints'][2::3])
  return person | {
    'num_keypoints': person.get('num_keypoints', labelled),
    'area': person.get('area') or width * height,
    'iscrowd': person.get('iscrowd', 0),
  }
