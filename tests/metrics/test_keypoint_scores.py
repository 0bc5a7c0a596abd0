"""The chosen metrics of a split against plain formulas, with people who were missed."""

import functools
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.metrics import choice
from mrpose_jax.metrics import keypoint_scores
from mrpose_jax.metrics import pck
from tests.helpers import shared_data
from tests.metrics import test_pck

BODY = skeletons.Skeleton('body', ('right_hip', 'left_shoulder', 'neck', 'head_top'), (), ())
PEOPLE = 40


class Dataset(NamedTuple):
  people: prepared_data.People
  skeleton: skeletons.Skeleton = BODY
  kind: str = 'coco'
  folder: pathlib.Path = pathlib.Path('/nowhere')

  def image_set(self, split):
    return 'valid'

  def categories_of(self, person_ids):
    return [1] * len(person_ids)


@functools.cache
def drawn(k=4):
  """40 people in 20 images, and predictions with noise."""
  r = np.random.default_rng(0)
  truth = r.uniform(0, 200, (PEOPLE, k, 2)).astype(np.float32)
  people = prepared_data.People(
    records=np.arange(PEOPLE) // 2,
    image_ids=np.arange(PEOPLE) // 2 + 7,
    person_ids=np.arange(PEOPLE),
    boxes=np.ones((PEOPLE, 4), np.float32),
    sizes=r.uniform(40, 200, (PEOPLE, 2)),
    keypoints=truth,
    visible=r.integers(0, 3, (PEOPLE, k)),
  )
  order = r.permutation(PEOPLE)
  noise = np.concatenate([r.normal(0, 30, truth.shape), np.ones((PEOPLE, k, 1))], -1)
  keypoints = np.pad(truth, ((0, 0), (0, 0), (0, 1))) + noise.astype(np.float32)
  predictions = {
    'image_ids': people.image_ids[order],
    'person_ids': people.person_ids[order],
    'category_ids': np.ones(PEOPLE, int),
    'keypoints': keypoints[order],
  }
  return people, predictions, keypoints


def compute(names, dataset, predictions):
  metrics, _ = choice.of_dataset({'metrics': names}, dataset)
  pairs = keypoint_scores.pair(predictions, dataset)
  return keypoint_scores.compute(metrics, pairs, dataset)


def test_against_plain_formulas():
  people, predictions, keypoints = drawn()
  names = ('PCK@0.3', 'PCK@0.3:box', 'PCKh@0.5', 'AUC', 'EPE', 'NME', 'NME:neck-right_hip')
  content = compute(names, Dataset(people), predictions)
  distance, counted = {}, {}
  for n in range(PEOPLE):
    for k in range(4):
      if people.visible[n, k]:
        distance[n, k] = math.dist(keypoints[n, k, :2].tolist(), people.keypoints[n, k].tolist())

  def between(n, a, b):
    if not (people.visible[n, a] and people.visible[n, b]):
      return None
    return math.dist(people.keypoints[n, a].tolist(), people.keypoints[n, b].tolist())

  lengths = {
    'torso': [between(n, 0, 1) for n in range(PEOPLE)],
    'head': [between(n, 2, 3) for n in range(PEOPLE)],
    'other': [between(n, 2, 0) for n in range(PEOPLE)],
    'longer': [max(size) for size in people.sizes.tolist()],
    'root': [(w * h) ** 0.5 for w, h in people.sizes.tolist()],
  }

  def mean(length, value, only=range(4)):
    pairs = [(d, lengths[length][n]) for (n, k), d in distance.items() if k in only]
    values = [value(d, length) for d, length in pairs if length]
    counted[length] = len(values)
    return 100 * sum(values) / len(values)

  expected = {
    'PCK@0.3': mean('torso', lambda d, length: d <= 0.3 * length),
    'PCK@0.3:box': mean('longer', lambda d, length: d <= 0.3 * length),
    'PCKh@0.5': mean('head', lambda d, length: d <= 0.5 * length),
    'AUC': mean('torso', lambda d, length: max(0, 1 - d / (0.5 * length))),
    'EPE': sum(distance.values()) / len(distance),
    'NME': mean('root', lambda d, length: d / length),
    'NME:neck-right_hip': mean('other', lambda d, length: d / length),
  }
  values = keypoint_scores.means(content)
  assert {name: values[name] for name in names} == pytest.approx(expected, rel=1e-12)
  assert 5 < expected['PCK@0.3'] < 95 and 5 < expected['AUC'] < 95
  table = content['metrics']['PCK@0.3']
  assert (table['length'], sum(table['counted'])) == ('torso', counted['torso'])
  neck = mean('torso', lambda d, length: d <= 0.3 * length, only=[2])
  assert table['keypoints'][2] == pytest.approx(neck)
  assert (content['people'], content['missed']) == (int(people.visible.any(1).sum()), 0)
  # The mean over chosen keypoints, e.g. without neck and head, follows from the file.
  limbs = sum(table['keypoints'][k] * table['counted'][k] for k in (0, 1)) / sum(
    table['counted'][:2]
  )
  both = mean('torso', lambda d, length: d <= 0.3 * length, only=[0, 1])
  assert limbs == pytest.approx(both)


def test_lspet_by_its_own_definition():
  """PCK@0.2 of left shoulder to right hip, over people with both labelled, from the file alone."""
  file = shared_data.data('lspet') / 'annotations' / 'person_keypoints_val.json'
  annotations = coco_json.read(file)
  skeleton = annotations.skeleton
  assert skeleton.sigmas == () and skeleton.num_keypoints == 14
  rows = [
    (n, image.id, person.id, person.box, person.box[2:], person.keypoints, person.visible)
    for n, image in enumerate(annotations.images)
    for person in image.people
  ]
  people = prepared_data.People(*map(np.array, zip(*rows)))
  r = np.random.default_rng(0)
  points = people.keypoints + r.normal(0, 12, people.keypoints.shape).astype(np.float32)
  predictions = {
    'image_ids': people.image_ids,
    'person_ids': people.person_ids,
    'category_ids': np.ones_like(people.person_ids),
    'keypoints': np.concatenate([points, np.ones((*points.shape[:2], 1))], -1),
  }
  content = compute((), Dataset(people, skeleton), predictions)
  content_of = {a['id']: a['keypoints'] for a in json.loads(file.read_text())['annotations']}
  shoulder, hip = (skeleton.keypoints.index(name) for name in ('left_shoulder', 'right_hip'))
  correct, limbs = [], []
  for person_id, predicted in zip(people.person_ids.tolist(), points.tolist()):
    truth = np.array(content_of[person_id]).reshape(14, 3).tolist()
    if truth[shoulder][2] and truth[hip][2]:
      torso = math.dist(truth[shoulder][:2], truth[hip][:2])
      for k in range(14):
        if truth[k][2]:
          correct.append(math.dist(truth[k][:2], predicted[k]) <= 0.2 * torso)
          limbs += [correct[-1]] * (skeleton.keypoints[k] not in ('neck', 'head_top'))
  assert len(people.person_ids) == 956 and 10 < 100 * np.mean(correct) < 90
  table = content['metrics']['PCK@0.2']
  assert table['length'] == 'torso'
  assert table['Mean'] == pytest.approx(100 * np.mean(correct))
  # The mean over the 12 limb joints follows from the values by keypoint and their numbers.
  twelve = [k for k, name in enumerate(skeleton.keypoints) if name not in ('neck', 'head_top')]
  counted = np.array(table['counted'])[twelve]
  mean = np.dot(np.array(table['keypoints'])[twelve], counted) / counted.sum()
  assert mean == pytest.approx(100 * np.mean(limbs))


def test_the_curve():
  people, predictions, _ = drawn()
  content = compute(('EPE',), Dataset(people), predictions)
  curve = content['curve']
  assert curve['length'] == 'torso'
  assert curve['thresholds'][::10] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
  assert curve['Mean'][20] == content['metrics']['PCK@0.2']['Mean']
  for name, value in zip(content['keypoints'], content['metrics']['PCK@0.2']['keypoints']):
    assert curve['keypoints'][name][20] == value
  assert np.all(np.diff(curve['Mean']) >= 0)
  auc = keypoint_scores.means(compute(('AUC',), Dataset(people), predictions))['AUC']
  assert np.trapezoid(curve['Mean'], curve['thresholds']) / 0.5 == pytest.approx(auc, abs=0.5)


def test_missed_people_are_wrong_in_pck_and_not_in_epe():
  people, predictions, _ = drawn()
  people = people._replace(visible=np.full_like(people.visible, 2))
  names = ('PCK@0.2', 'AUC', 'EPE', 'NME')
  everyone = keypoint_scores.means(compute(names, Dataset(people), predictions))
  half = {name: values[predictions['person_ids'] % 2 == 0] for name, values in predictions.items()}
  content = compute(names, Dataset(people), half)
  assert (content['people'], content['missed']) == (40, 20)
  assert content['metrics']['EPE']['counted'] == [20] * 4
  assert content['metrics']['PCK@0.2']['counted'] == [40] * 4
  found = Dataset(prepared_data.People(*(column[::2] for column in people)))
  alone = keypoint_scores.means(compute(names, found, half))
  values = keypoint_scores.means(content)
  assert [values['EPE'], values['NME']] == pytest.approx([alone['EPE'], alone['NME']])
  assert values['PCK@0.2'] == pytest.approx(alone['PCK@0.2'] / 2)
  assert values['AUC'] == pytest.approx(alone['AUC'] / 2)
  assert values['EPE'] != everyone['EPE']


def test_nobody():
  people, predictions, _ = drawn()
  none = Dataset(prepared_data.People(*(column[:0] for column in people)))
  content = compute(('PCK@0.2', 'EPE', 'NME', 'AUC'), none, predictions)
  assert content['people'] == 0
  assert all(math.isnan(value) for value in keypoint_scores.means(content).values())
  assert content['metrics']['EPE']['Mean'] is None  # JSON has no NaN


def test_pckh_of_mpii_is_the_benchmarks(tmp_path):
  people, predictions, keypoints = drawn(k=16)
  people = people._replace(visible=np.ones_like(people.visible))
  r = np.random.default_rng(1)
  path = test_pck.write_ground_truth(
    tmp_path / 'gt_valid.mat', people.keypoints + 1, r.integers(0, 2, (PEOPLE, 16))
  )
  dataset = Dataset(people, skeletons.MPII, 'mpii', tmp_path)
  values = keypoint_scores.means(compute(('PCKh@0.5', 'PCKh@0.1'), dataset, predictions))
  table = pck.pckh(keypoints[..., :2], path)
  assert 5 < table['Mean'] < 95
  assert values['PCKh@0.5'] == table['Mean']
  assert values['PCKh@0.1'] == table['Mean@0.1']
  tables = compute(('PCKh@0.5', 'NME:head'), dataset, predictions)['metrics']
  counted = tables['NME:head']['counted']
  assert counted == tables['PCKh@0.5']['counted']
  assert [counted[skeletons.MPII.keypoints.index(name)] for name in ('pelvis', 'thorax')] == [0, 0]
  variables = scipy.io.loadmat(path)
  names = ('jnt_missing', 'pos_gt_src', 'headboxes_src')
  fewer = {name: variables[name][..., :-1] for name in names}
  scipy.io.savemat(path, fewer | {'dataset_joints': variables['dataset_joints']})
  with pytest.raises(errors.DataError, match='annotates 39 people, fewer than the split has'):
    compute(('PCKh@0.5',), dataset, predictions)
