"""Errors of an evaluated network by keypoint, between left and right, and by person."""

import pathlib
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from mrpose_jax import paths
from mrpose_jax import skeletons
from mrpose_jax import visualize
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import records

# A prediction within this distance is at an annotated keypoint, as a fraction of the person's size.
NEAR = 0.1
# People with fewer annotated keypoints are not ranked as the best or the worst.
FEWEST_KEYPOINTS = 4
# Larger distances, and those that are not finite, count as this fraction of the person's size.
FARTHEST = 10.0
NUM_PEOPLE = 8  # on the sheet of the best and on that of the worst people
_CELL = (320, 240)  # height, width in pixels


class Matches(NamedTuple):
  """P annotated people and the predictions for them.

  Attributes:
    records: [P] index of the image's record.
    person_ids: [P].
    boxes: [P, 4] x, y, width, height in image pixels.
    truth: [P, K, 2] xy in image pixels.
    visible: [P, K], above 0 where annotated.
    predicted: [P, K, 3] x, y, score.
    missed: number of annotated people without a prediction; they are not among the P.
  """

  records: np.ndarray
  person_ids: np.ndarray
  boxes: np.ndarray
  truth: np.ndarray
  visible: np.ndarray
  predicted: np.ndarray
  missed: int

  def distances(self, to: np.ndarray | None = None) -> np.ndarray:
    """[P, K] distances from predicted to annotated keypoints as fractions of the person's size.

    A person's size is the square root of the box's area. Distances to keypoints that are not
    annotated are NaN.

    Args:
      to: [K] index of the annotated keypoint to measure to; by default each keypoint's own.
    """
    to = np.arange(self.truth.shape[1]) if to is None else to
    pixels = np.linalg.norm(self.predicted[..., :2] - self.truth[:, to], axis=-1)
    size = np.sqrt(self.boxes[:, 2:].prod(-1))
    distances = np.fmin(pixels / size[:, None], FARTHEST)
    return np.where(self.visible[:, to] > 0, distances, np.nan)


def match(kept, dataset) -> Matches:
  """Finds the prediction for each annotated person of the validation split.

  Args:
    kept: the people that `evaluate.score` returned.
    dataset: from `prepared_data.open_dataset`.
  """
  people = dataset.people
  rows = rows_of_people(kept, dataset)
  n = np.flatnonzero(rows >= 0)
  return Matches(
    *(people.records[n], people.person_ids[n], people.boxes[n]),
    *(people.keypoints[n], people.visible[n], kept['keypoints'][rows[n]]),
    missed=len(rows) - len(n),
  )


def rows_of_people(predictions, dataset: prepared_data.Dataset) -> np.ndarray:
  """[P] row of the prediction for each annotated person; -1 for people without one.

  This is the prediction made in the person's annotated box; with detected boxes, the one of the
  person's category whose keypoints are nearest.

  Args:
    predictions: {'image_ids' [N], 'person_ids' [N], -1 for a detection, 'keypoints' [N, K, 3],
      'category_ids' [N]}.
    dataset: from `prepared_data.open_dataset`.
  """
  people = dataset.people
  categories = dataset.categories_of(people.person_ids)
  rows_of = {}
  for row, image_id in enumerate(predictions['image_ids'].tolist()):
    rows_of.setdefault(image_id, []).append(row)
  found = np.full(len(people.person_ids), -1)
  for n, image_id in enumerate(people.image_ids.tolist()):
    rows = np.array(rows_of.get(image_id, []), int)
    person_ids, category_ids = (predictions[name][rows] for name in ('person_ids', 'category_ids'))
    detected = (person_ids == -1) & (category_ids == categories[n])
    candidates = rows[(person_ids == people.person_ids[n]) | detected]
    if len(candidates):
      offset = predictions['keypoints'][candidates, :, :2] - people.keypoints[n]
      distances = np.linalg.norm(offset, axis=-1)  # [M, K]
      found[n] = candidates[distances[:, people.visible[n] > 0].mean(-1).argmin()]
  return found


def summarize(matches: Matches, skeleton: skeletons.Skeleton) -> dict:
  """The content of `errors.json`.

  Returns:
    {'people': number of matches, 'missed', 'keypoints': {name: {'annotated', 'quartiles' [3] of the
    distance as a fraction of the person's size, None without annotations}}, 'pairs': {name: [[own,
    other, elsewhere] of the left keypoint, the same of the right]}}. `pairs` counts the predictions
    at the keypoint's own annotated place, at that of its mirror partner, and at neither, for people
    whose two places are more than NEAR apart.
  """
  distance = matches.distances()
  keypoints = {}
  for k, name in enumerate(skeleton.keypoints):
    annotated = distance[:, k][np.isfinite(distance[:, k])]
    quartiles = np.percentile(annotated, (25, 50, 75)).tolist() if len(annotated) else None
    keypoints[name] = {'annotated': len(annotated), 'quartiles': quartiles}
  order = skeletons.flip_order(skeleton.flip_pairs, skeleton.num_keypoints)
  mirror_distance = matches.distances(order)
  size = np.sqrt(matches.boxes[:, 2:].prod(-1))
  pairs = {}
  for pair in skeleton.flip_pairs:
    left, right = pair if skeleton.side(pair[0]) != 'right' else pair[::-1]
    apart = np.linalg.norm(matches.truth[:, left] - matches.truth[:, right], axis=-1) > NEAR * size
    apart &= (matches.visible[:, [left, right]] > 0).all(-1)
    counts = []
    for k in (left, right):
      to_own, to_other = distance[apart, k], mirror_distance[apart, k]
      near = np.minimum(to_own, to_other) <= NEAR
      own = int(np.sum(near & (to_own <= to_other)))
      counts.append([own, int(near.sum()) - own, int((~near).sum())])
    pairs[pair_name(skeleton, left)] = counts
  return {
    'people': len(distance),
    'missed': matches.missed,
    'keypoints': keypoints,
    'pairs': pairs,
  }


def pair_name(skeleton: skeletons.Skeleton, keypoint: int) -> str:
  """'shoulder' for left_shoulder."""
  return re.sub(r'(?i)^(left|right|l|r)[ _-]', '', skeleton.keypoints[keypoint])


def write(kept, dataset, folder: pathlib.Path):
  """Writes errors.json, pictures/worst.jpg and pictures/best.jpg to the folder eval/STEP."""
  matches = match(kept, dataset)
  paths.write_json(folder / 'errors.json', summarize(matches, dataset.skeleton))
  fewest = min(FEWEST_KEYPOINTS, dataset.skeleton.num_keypoints)
  eligible = np.flatnonzero((matches.visible > 0).sum(-1) >= fewest)
  mean = np.nanmean(matches.distances()[eligible], axis=-1)
  ranked = eligible[np.argsort(mean, kind='stable')]
  source = dataset.source('validation')
  for name, chosen in (('best', ranked[:NUM_PEOPLE]), ('worst', ranked[::-1][:NUM_PEOPLE])):
    cells = [_picture(matches, n, source, dataset.skeleton) for n in chosen]
    percentages = [100 * np.nanmean(matches.distances()[n]) for n in chosen]
    captions = [
      f'person {matches.person_ids[n]}: {percentage:.1f} % of their size'
      for n, percentage in zip(chosen, percentages)
    ]
    sheet = visualize.contact_sheet(cells, NUM_PEOPLE // 2, _CELL, captions)
    Image.fromarray(sheet).save(folder / 'pictures' / f'{name}.jpg', quality=92)


def _picture(matches, n, source, skeleton):
  """The enlarged part of the image with the person, the prediction and the annotation."""
  number = int(matches.records[n])
  image = records.decode_image(source[number], f'record {number}')
  truth, visible = matches.truth[n], matches.visible[n]
  x, y, width, height = matches.boxes[n]
  low = np.floor([x - 0.2 * width, y - 0.2 * height])
  high = np.ceil([x + 1.2 * width, y + 1.2 * height])
  limit = np.array(image.shape[1::-1])
  low = np.clip(low, 0, limit - 1).astype(int)
  high = np.clip(high, low + 1, limit).astype(int)
  part = Image.fromarray(image[low[1] : high[1], low[0] : high[0]])
  zoom = min(_CELL[0] / part.height, _CELL[1] / part.width)
  size = (max(1, round(part.width * zoom)), max(1, round(part.height * zoom)))
  part = np.asarray(part.resize(size, Image.Resampling.BICUBIC))

  def to_part(points):
    return (points - low + 0.5) * zoom - 0.5

  predicted = matches.predicted[n].copy()
  predicted[:, :2] = to_part(predicted[:, :2])
  return visualize.draw_errors(part, predicted, to_part(truth), visible, skeleton)
