"""From the files of other tools to prepared data, and what a second run does."""

import json
import os
import re
import shlex

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline import convert
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.host import prepared_data
from tests.helpers import foreign_files


def content_of(output):
  return {
    path.relative_to(output).as_posix(): path.read_bytes() for path in output.glob('*/*.json')
  }


def test_a_yolo_folder_is_converted_and_prepared(tmp_path, caplog):
  rows = {
    'a': '0 0.5 0.5 0.2 0.5 0.5 0.25 2 0.41 0.5 1 0 0 0',
    'b': '1 0.5 0.5 0.2 0.5 0.5 0.25 2 0.41 0.5 1 0 0 0',
    'c': '1 0.1 0.2 0.2 0.4 0.1 0.1 2 0.2 0.2 2 0.05 0.3 2',
  }
  foreign_files.yolo(tmp_path / 'yolo', rows, names=['mouse', 'rat'])
  output = tmp_path / 'my mice'
  report = convert.convert(tmp_path / 'yolo', output)
  assert 'data.yaml was read as yolo' in report
  assert 'train: 2 people in 2 images\nvalidation: 1 people in 1 images' in report
  assert (output / 'images/train').resolve() == tmp_path / 'yolo/images/train'
  (row,) = json.loads((output / 'annotations/validation.json').read_text())['annotations']
  np.testing.assert_allclose(row.pop('bbox'), [0, 0, 20, 32], atol=1e-12)
  np.testing.assert_allclose(row.pop('keypoints'), [10, 8, 2, 20, 16, 2, 5, 24, 2])
  np.testing.assert_allclose(row.pop('area'), 640)
  expected = {'id': 3, 'image_id': 1, 'category_id': 2, 'iscrowd': 0, 'num_keypoints': 3}
  assert row == expected
  # The command of the report prepares the sets.
  words = shlex.split(re.search('next: (.*)', report)[1])
  assert words[:3] == ['python', '-m', 'mrpose_jax.input_pipeline.prepare']
  given = dict(word.removeprefix('--').split('=') for word in words[3:])
  assert given.pop('data_dir') == 'DATA_DIR'
  given['category'] = given.pop('categories')
  prepare.prepare(**given, data_dir=tmp_path / 'data')
  dataset = prepared_data.open_dataset('coco', tmp_path / 'data')
  assert [len(dataset.source(split)) for split in ('train', 'validation')] == [2, 1]
  assert dataset.category_ids == [1, 2]
  assert dataset.skeleton.flip_pairs == ((1, 2),)


def label_studio_folder(tmp_path, count=20):
  box = foreign_files.rectangle('r', 10, 10, 50, 50)
  results = [[box, foreign_files.keypoint('leftear', 20, 30)] for _ in range(count)]
  return foreign_files.label_studio(tmp_path / 'export', *results)


def test_a_second_run_changes_nothing(tmp_path):
  path = label_studio_folder(tmp_path)
  output = tmp_path / 'coco'
  assert f'written to {output}' in convert.convert(path, output)
  before = content_of(output)
  times = {path: path.stat().st_mtime_ns for path in output.rglob('*')}
  assert f'{output} was written before and stays as it is' in convert.convert(path, output)
  assert times == {path: path.stat().st_mtime_ns for path in output.rglob('*')}
  label_studio_folder(tmp_path, 21)
  assert [file.name for file in (output / 'annotations').iterdir()] == ['train.json']
  with pytest.raises(errors.DataError, match=r'has other content; replace it with --overwrite'):
    convert.convert(path, output)
  assert content_of(output) == before
  convert.convert(path, output, overwrite=True)
  assert content_of(output) != before
  assert not [name for name in os.listdir(output / 'annotations') if name.startswith('.')]


def test_tools_without_sets_have_one_that_is_divided(tmp_path):
  report = convert.convert(label_studio_folder(tmp_path), tmp_path / 'coco')
  assert report.endswith('--train=train --validation=0.1 --data_dir=DATA_DIR')
  found = prepare.prepare('coco', tmp_path / 'coco', tmp_path, train='train', validation='0.1')
  assert 'train: 18 people in 18 images\nvalidation: 2 people in 2 images' in found


def test_fractions_of_upright_pictures_are_not_those_of_the_stored_pixels(tmp_path):
  path = label_studio_folder(tmp_path, 2)
  foreign_files.image(path.parent / 'a1.png', orientation=6)
  with pytest.raises(errors.DataError, match=r'a1\.png: has an EXIF orientation; store its pixels'):
    convert.convert(path, tmp_path / 'coco')
  path = foreign_files.yolo(tmp_path / 'yolo')
  foreign_files.image(tmp_path / 'yolo/images/val/c.png', orientation=3)
  with pytest.raises(errors.DataError, match=r'c\.png: has an EXIF orientation; store its pixels'):
    convert.convert(path, tmp_path / 'coco')


def test_nothing_of_the_users_is_replaced(tmp_path):
  path = label_studio_folder(tmp_path)
  output = tmp_path / 'coco'
  foreign_files.image(output / 'images/train/mine.png')
  for overwrite in (False, True):
    with pytest.raises(errors.DataError, match=r'images/train: (has other|is no link)'):
      convert.convert(path, output, overwrite=overwrite)
  assert [p.name for p in output.rglob('*') if p.is_file()] == ['mine.png']


def test_the_source_is_not_replaced(tmp_path):
  source = label_studio_folder(tmp_path, 1)
  path = source.rename(tmp_path / 'export/train.json')
  (tmp_path / 'annotations').symlink_to(path.parent)
  before = path.read_bytes()
  with pytest.raises(errors.DataError, match=r'train\.json: is the source and is not replaced'):
    convert.convert(path, tmp_path, overwrite=True)
  assert path.read_bytes() == before
  (tmp_path / 'file').touch()
  with pytest.raises(errors.ConfigError, match=r'--output=.*file: cannot be written to'):
    convert.convert(path, tmp_path / 'file')


def test_a_folder_converted_in_place(tmp_path):
  """Where prepare finds the images already, there are no links."""
  foreign_files.yolo(tmp_path)
  foreign_files.leeds(tmp_path / 'lsp', np.full((3, 14, 4), [[[9]], [[30]], [[0]]]))
  convert.convert(tmp_path / 'data.yaml', tmp_path)
  assert not (tmp_path / 'images/train').is_symlink()
  assert not (tmp_path / 'images/validation/c.png').is_symlink()
  convert.convert(tmp_path / 'lsp', tmp_path / 'lsp')
  assert len(list((tmp_path / 'lsp/images').iterdir())) == 4


def test_the_format_is_recognised(tmp_path):
  names = [
    ('config.yaml', 'deeplabcut'),
    ('CollectedData_Ada.h5', 'deeplabcut'),
    ('mice.yml', 'yolo'),
    ('mpii_human_pose_v1_u12_1.mat', 'mpii'),
    ('joints.mat', 'lsp'),
    ('project-1.json', 'label_studio'),
  ]
  for name, file_format in reversed(names):
    (tmp_path / name).touch()
    assert convert.find(tmp_path, None) == (file_format, tmp_path / name)
    assert convert.find(tmp_path / name, None) == (file_format, tmp_path / name)
  assert convert.find(tmp_path / 'joints.mat', 'mpii') == ('mpii', tmp_path / 'joints.mat')
  assert convert.find(tmp_path, 'label_studio') == ('label_studio', tmp_path / 'project-1.json')
  (tmp_path / 'other.json').touch()
  with pytest.raises(errors.DataError, match=r'other\.json and project-1\.json: name one of them'):
    convert.find(tmp_path, 'label_studio')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(errors.DataError, match=r'not recognised, for it is or holds none of config'):
    convert.find(tmp_path / 'empty', None)
  with pytest.raises(errors.DataError, match='there is no such file or folder'):
    convert.find(tmp_path / 'nowhere', None)


def test_nothing_to_read(tmp_path):
  path = label_studio_folder(tmp_path, 1)
  with pytest.raises(errors.DataError, match=r'--images=.*nowhere: there is no such folder'):
    convert.convert(path, tmp_path / 'coco', images=tmp_path / 'nowhere')
  path.write_text('[]')
  with pytest.raises(errors.DataError, match=r'project-3\.json: no annotated image'):
    convert.convert(path, tmp_path / 'coco')
  assert not (tmp_path / 'coco').exists()
