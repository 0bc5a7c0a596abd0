"""Matching of people, distances by hand, confusion of left and right, best and worst people."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.metrics import error_analysis

ARM = skeletons.Skeleton(
  name='arm',
  keypoints=('neck', 'left_hand', 'right_hand'),
  flip_pairs=((1, 2),),
  limbs=((0, 1), (0, 2)),
)
TRUTH = np.array([[50, 20], [30, 60], [70, 60]], np.float32)  # in a box of 100 x 100


@dataclasses.dataclass
class Dataset:
  """A data set; each of its images is a list of (person id, keypoints, visible)."""

  images: list
  categories: dict = dataclasses.field(default_factory=dict)  # of people; 1 by default
  skeleton = ARM

  def categories_of(self, person_ids):
    return [self.categories.get(int(person_id), 1) for person_id in person_ids]

  @property
  def people(self):
    return prepared_data.read_people(self.source('validation'), 3)

  def source(self, split):
    assert split == 'validation'
    buffer = io.BytesIO()
    Image.new('RGB', (120, 110), (90, 90, 90)).save(buffer, 'PNG')
    return [
      {
        'image': buffer.getvalue(),
        'image_id': 10 + number,
        'file_name': f'{number}.png',
        'people': {
          'person_id': [person_id for person_id, *_ in people],
          'box': [[0, 0, 100, 100]] * len(people),
          'keypoints': [keypoints for _, keypoints, _ in people],
          'visible': [visible for *_, visible in people],
        },
      }
      for number, people in enumerate(self.images)
    ]


def kept(*rows):
  """Predictions from rows of (image id, person id, keypoints)."""
  image_ids, person_ids, keypoints = zip(*rows)
  keypoints = np.stack(keypoints).astype(np.float32)
  scores = np.ones((*keypoints.shape[:2], 1), np.float32)
  return {
    'image_ids': np.array(image_ids),
    'person_ids': np.array(person_ids),
    'category_ids': np.ones(len(person_ids), int),
    'keypoints': np.concatenate([keypoints, scores], -1),
  }


def test_people_are_matched_by_their_boxes_or_by_what_is_nearest():
  dataset = Dataset(
    [[(1, TRUTH, [1, 1, 1]), (2, TRUTH + 5, [1, 1, 0])], [], [(3, TRUTH, [1, 1, 1])]]
  )
  own = error_analysis.match(kept((10, 2, TRUTH), (10, 1, TRUTH + 9), (12, 9, TRUTH)), dataset)
  assert own.person_ids.tolist() == [1, 2]
  assert own.records.tolist() == [0, 0]
  assert own.predicted[:, 0, 0].tolist() == [59, 50]
  assert own.missed == 1  # person 3 has no row
  found = error_analysis.match(kept((10, -1, TRUTH + 6), (10, -1, TRUTH), (12, -1, TRUTH)), dataset)
  assert found.person_ids.tolist() == [1, 2, 3]
  assert found.predicted[:, 0, 0].tolist() == [50, 56, 50]


def test_a_detection_is_matched_to_an_annotation_of_its_own_category():
  dataset = Dataset([[(1, TRUTH, [1, 1, 1]), (2, TRUTH, [1, 1, 1])]], categories={2: 5})
  predictions = kept((10, -1, TRUTH + 1), (10, -1, TRUTH + 9))
  assert error_analysis.match(predictions, dataset).person_ids.tolist() == [1]
  predictions['category_ids'] = np.array([5, 1])
  found = error_analysis.match(predictions, dataset)
  assert found.person_ids.tolist() == [1, 2]
  assert found.predicted[:, 0, 0].tolist() == [59, 51]


def test_distances_by_hand():
  dataset = Dataset([[(1, TRUTH, [1, 1, 0])], [(2, TRUTH, [1, 1, 1])], [(3, TRUTH, [0, 0, 0])]])
  moved, lost = TRUTH + np.array([[3, 4], [0, 10], [50, 50]]), TRUTH.copy()
  lost[2] = np.nan
  matches = error_analysis.match(kept((10, 1, moved), (11, 2, lost)), dataset)
  nan = np.nan
  np.testing.assert_allclose(
    matches.distances(), [[0.05, 0.1, nan], [0, 0, error_analysis.FARTHEST]], rtol=1e-6
  )
  summary = error_analysis.summarize(matches, ARM)
  assert (summary['people'], summary['missed']) == (2, 0)  # nothing is annotated of person 3
  neck, left, right = summary['keypoints'].values()
  assert neck['quartiles'] == pytest.approx([0.0125, 0.025, 0.0375])
  assert left['annotated'] == 2 and right['annotated'] == 1
  assert right['quartiles'] == [error_analysis.FARTHEST] * 3


def test_left_taken_for_right():
  swapped = TRUTH[[0, 2, 1]]
  one_side = TRUTH[[0, 1, 1]]
  away = TRUTH + np.array([[0, 0], [0, 0], [0, 30]])
  together = np.array([[50, 20], [50, 60], [55, 60]], np.float32)
  people = [(n, TRUTH, [1, 1, 1]) for n in range(4)]
  people += [(4, TRUTH, [1, 1, 0]), (5, together, [1, 1, 1])]  # neither of these counts
  rows = [(10, n, k) for n, k in enumerate((TRUTH, swapped, one_side, away, swapped, swapped))]
  matches = error_analysis.match(kept(*rows), Dataset([people]))
  summary = error_analysis.summarize(matches, ARM)
  assert summary['pairs'] == {'hand': [[3, 1, 0], [1, 2, 1]]}
  turned = dataclasses.replace(ARM, flip_pairs=((2, 1),))
  assert error_analysis.summarize(matches, turned)['pairs'] == summary['pairs']


def test_files_of_an_evaluation(tmp_path):
  people = [[(n, TRUTH, [1, 1, 1])] for n in range(11)]
  rows = [(10 + n, n, TRUTH + n) for n in range(11)]
  (tmp_path / 'pictures').mkdir()
  error_analysis.write(kept(*rows), Dataset(people), tmp_path)
  assert json.loads((tmp_path / 'errors.json').read_text())['people'] == 11
  pictures = []
  for name in ('best', 'worst'):
    with Image.open(tmp_path / 'pictures' / f'{name}.jpg') as picture:
      pictures.append(np.asarray(picture))
  assert pictures[0].shape == pictures[1].shape
  white = [(np.min(picture, -1) > 240).sum() for picture in pictures]
  assert white[1] > white[0] > 0  # longer lines


def test_nobody_is_found(tmp_path):
  (tmp_path / 'pictures').mkdir()
  error_analysis.write(kept((99, 1, TRUTH)), Dataset([[(1, TRUTH, [1, 1, 1])], []]), tmp_path)
  content = json.loads((tmp_path / 'errors.json').read_text())
  assert (content['people'], content['missed']) == (0, 1)
  assert content['keypoints']['neck'] == {'annotated': 0, 'quartiles': None}
