"""COCO files with several categories: one of them, or all as one where keypoints are the same."""

import json

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.metrics import coco
from tests.helpers import tiny_coco

ROBOT = tiny_coco.CATEGORY
DOLL = ROBOT | {'id': 5, 'name': 'doll'}
SNAKE = {'id': 9, 'name': 'snake', 'keypoints': ['head', 'tail']}


def write(folder, *others):
  """The folder of tiny_coco, where every second annotation is one of the first other category."""
  source = tiny_coco.write(folder)
  for path in (source / 'annotations').iterdir():
    content = json.loads(path.read_text())
    content['categories'] += others
    for row in content['annotations'][1::2]:
      row['category_id'] = others[0]['id']
    path.write_text(json.dumps(content))
  return source


@pytest.fixture
def animals(tmp_path):
  """Five people of validation: ids 210 to 212 and 230, 231, of categories 1, 5, 1, 5, 1."""
  return write(tmp_path / 'animals', DOLL)


def test_one_category_is_chosen_by_its_name(tmp_path):
  source = write(tmp_path / 'source', DOLL, SNAKE)
  path = source / 'annotations/person_keypoints_val2017.json'
  for name, ids in (('robot', [210, 212, 231]), ('doll', [211, 230])):
    found = coco_json.read(path, name)
    assert found.skeleton.name == name
    assert [p.id for image in found.images for p in image.people] == ids
    assert found.dropped == {'another category': 5 - len(ids)}
    prepare.prepare('coco', source, tmp_path / name, category=name)
    dataset = prepared_data.open_dataset('coco', tmp_path / name)
    assert dataset.people_of_images == {21: ids.count(210) + ids.count(211) + ids.count(212)} | {
      22: 0,
      23: 1,
    }
  with pytest.raises(errors.DataError, match=r'prepared with other settings'):
    prepare.prepare('coco', source, tmp_path / 'robot', category='doll')
  for name, message in (
    (None, r'3 categories with keypoints \(robot, doll, snake\), but a network learns exactly one'),
    ('all', "categories 'robot' and 'snake' differ in keypoints"),
    ('cat', r'--category=cat: 0 categories .* \(there are: robot, doll, snake\)'),
  ):
    with pytest.raises(errors.DataError, match=f'val2017.json: {message}'):
      coco_json.read(path, name)
  with pytest.raises(errors.ConfigError, match='--categories: mpii has no categories'):
    prepare.prepare('mpii', source, tmp_path / 'mpii', category='all')


def test_all_categories_as_one_keep_their_ids(animals, tmp_path):
  prepare.prepare('coco', animals, tmp_path, category='all')
  assert 'stays as it is' in prepare.prepare('coco', animals, tmp_path, category='all')
  dataset = prepared_data.open_dataset('coco', tmp_path)
  assert len(dataset.source('train')) == 6
  assert dataset.category_ids == [1, 5]
  again = coco_json.read(dataset.annotation_file('validation'), coco_json.ALL)
  assert again.categories == {1: 'robot', 5: 'doll'}
  assert again.skeleton == dataset.skeleton
  assert [row['category_id'] for row in again.rows] == [1, 5, 1, 5, 1]
  ((_, rows),) = loader.evaluation_batches(dataset, 8, 80)
  assert dict(zip(rows.person_ids.tolist(), rows.category_ids.tolist())) == {
    210: 1,
    211: 5,
    212: 1,
    230: 5,
    231: 1,
  }


def test_detections_keep_their_categories(animals, tmp_path):
  prepare.prepare('coco', animals, tmp_path, category='all')
  dataset = prepared_data.open_dataset('coco', tmp_path)
  boxes = [{'image_id': 21, 'bbox': [5, 6, 31, 41], 'score': 0.1 * i} for i in range(1, 5)]
  for box, category_id in zip(boxes, (5, 1, 2)):
    box['category_id'] = category_id
  (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
  found = detection_files.read(tmp_path / 'boxes.json', category_ids=dataset.category_ids)
  ((_, rows),) = loader.evaluation_batches(dataset, 8, 80, found)
  np.testing.assert_allclose(rows.box_scores, [0.1, 0.2])
  assert rows.category_ids.tolist() == [5, 1]
  # Boxes of a picture to predict count, whatever their category.
  content = {'images': [{'id': 1, 'file_name': 'a.jpg'}], 'categories': [ROBOT, DOLL]}
  rows = [{'image_id': 1, 'bbox': [1, 2, 3, 4], 'category_id': number} for number in (1, 5, 5, 6)]
  (tmp_path / 'file.json').write_text(json.dumps(content | {'annotations': rows}))
  assert len(detection_files.read_by_file(tmp_path / 'file.json', ['a.jpg'])['a.jpg']) == 3


def test_metrics_are_means_over_the_categories(animals, tmp_path):
  """Perfect predictions of category 5 and none of category 1 have an AP of 1/2."""
  prepare.prepare('coco', animals, tmp_path, category='all')
  path = prepared_data.open_dataset('coco', tmp_path).annotation_file('validation')
  rows = coco_json.read(path, coco_json.ALL).rows
  kept = {
    'image_ids': np.array([row['image_id'] for row in rows]),
    'keypoints': np.array([row['keypoints'].reshape(-1, 3) for row in rows]),
    'scores': np.linspace(0.9, 0.5, len(rows)),
    'category_ids': np.array([row['category_id'] for row in rows]),
  }
  sigmas = (0.067,) * 3
  assert coco.evaluate(kept, path, sigmas)['AP'] == pytest.approx(1)
  assert [p['category_id'] for p in coco.results(kept)] == [1, 5, 1, 5, 1]
  fives = {name: values[kept['category_ids'] == 5] for name, values in kept.items()}
  assert coco.evaluate(fives, path, sigmas)['AP'] == pytest.approx(0.5)
  exchanged = kept | {'category_ids': 6 - kept['category_ids']}
  assert coco.evaluate(exchanged, path, sigmas)['AP'] < 0.5
  coco.write_results(kept, tmp_path / 'predictions.json')
  written = json.loads((tmp_path / 'predictions.json').read_text())
  assert [p['category_id'] for p in written] == [1, 5, 1, 5, 1]
