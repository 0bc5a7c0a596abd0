"""What preparation makes of the annotation files of its splits, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.host import prepared_data
from tests.helpers import tiny_coco


@pytest.fixture
def source(tmp_path):
  return tiny_coco.write(tmp_path / 'source')


@pytest.fixture
def data_dir(tmp_path):
  return tmp_path / 'data'


def test_data_of_before_with_raw_copies_of_the_annotations_open(source, data_dir):
  prepare.prepare('coco', source, data_dir)
  folder = data_dir / 'coco/1.0.0'
  for split, name in (('train', 'train2017'), ('validation', 'val2017')):
    (folder / f'annotations_{split}.json').unlink()
    shutil.copy(source / f'annotations/person_keypoints_{name}.json', folder)
  dataset = prepared_data.open_dataset('coco', data_dir)
  assert dataset.annotation_file('validation') == folder / 'person_keypoints_val2017.json'
  assert dataset.category_ids == [1]
  assert 'stays as it is' in prepare.prepare('coco', source, data_dir)


def edit(source, name, change):
  """Applies `change` to the content of a set's annotation file."""
  path = source / f'annotations/person_keypoints_{name}.json'
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))
  return path


def reverse_keypoints(content):
  content['categories'][0]['keypoints'].reverse()
  for row in content['annotations']:
    row['keypoints'] = [v for i in (6, 3, 0) for v in row['keypoints'][i : i + 3]]


def test_keypoints_are_matched_by_name(source, data_dir, caplog):
  prepare.prepare('coco', source, data_dir / 'same')
  edit(source, 'val2017', reverse_keypoints)
  prepare.prepare('coco', source, data_dir / 'other')
  assert 'val2017.json: its keypoints are brought into the order of split train' in caplog.text
  same, other = (prepared_data.open_dataset('coco', data_dir / name) for name in ('same', 'other'))
  copies = [dataset.annotation_file('validation').read_bytes() for dataset in (same, other)]
  assert copies[0] == copies[1]
  assert same.images_sha256 == other.images_sha256
  for one, two in zip(same.source('validation'), other.source('validation'), strict=True):
    for name in ('keypoints', 'visible'):
      np.testing.assert_array_equal(one['people'][name], two['people'][name])


def fewer_keypoints(content):
  content['categories'][0]['keypoints'].pop()
  for row in content['annotations']:
    del row['keypoints'][-3:]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      fewer_keypoints,
      'the keypoints of the splits differ: train has left_hand, right_hand, head; validation has '
      'left_hand, right_hand; give both files',
    ),
    (
      lambda content: content['categories'][0].update(sigmas=[0.1, 0.2, 0.3]),
      'the sigmas of the splits differ: train has none; '
      'validation has left_hand 0.1, right_hand 0.2, head 0.3; give both files',
    ),
    (
      lambda content: content['categories'][0].update(flip_pairs=[['head', 'left_hand']]),
      'the flip_pairs of the splits differ: train has left_hand - right_hand; validation has '
      'head - left_hand; give both files',
    ),
  ],
)
def test_splits_with_other_keypoints_are_refused(source, data_dir, change, message):
  path = edit(source, 'val2017', change)
  with pytest.raises(errors.DataError) as raised:
    prepare.prepare('coco', source, data_dir)
  assert str(raised.value).startswith(f'{path}: {message}')
  assert '\n' not in str(raised.value)


def test_no_person_is_left_says_how_many_were_left_out_and_why(source, data_dir):
  def change(content):
    for row in content['annotations']:
      row['bbox'] = [5, 5, 0, 0]
    content['annotations'][0]['iscrowd'] = 1

  edit(source, 'val2017', change)
  with pytest.raises(errors.DataError) as raised:
    prepare.prepare('coco', source, data_dir)
  expected = 'no person with keypoints is left (left out: 4 box without area in the image, 1 crowd)'
  assert expected in str(raised.value)


def test_coordinates_that_can_hardly_be_meant_are_a_warning(source, data_dir, caplog):
  def corners(content):
    for row in content['annotations']:
      x, y, width, height = row['bbox']
      row['bbox'] = [x, y, x + width, y + height]

  path = edit(source, 'val2017', corners)
  prepare.prepare('coco', source, data_dir)
  assert f'{path}: 2 of 5 boxes reach out of their images, 2 of them would not if' in caplog.text


def test_a_labelled_set_called_test(source, data_dir):
  (source / 'annotations/person_keypoints_val2017.json').rename(
    source / 'annotations/person_keypoints_test.json'
  )
  (source / 'images/val2017').rename(source / 'images/test')
  report = prepare.prepare('coco', source, data_dir, validation='test')
  assert 'validation: 5 people in 3 images' in report
  dataset = prepared_data.open_dataset('coco', data_dir)
  assert dataset.test_sets == []
  assert dataset.image_set('validation') == 'test'


def test_names_of_sets_that_other_files_have(source, data_dir):
  """A set called metadata must not replace what TFDS writes under that name."""
  for name in ('metadata', 'features'):
    shutil.copy(
      source / 'annotations/person_keypoints_val2017.json', source / f'annotations/{name}.json'
    )
    (source / 'images' / name).symlink_to(source / 'images/val2017')
  prepare.prepare('coco', source, data_dir, train='metadata', validation='features')
  dataset = prepared_data.open_dataset('coco', data_dir)
  assert len(dataset.source('train')) == 5
  assert dataset.category_ids == [1]
