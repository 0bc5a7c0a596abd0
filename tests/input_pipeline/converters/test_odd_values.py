"""Every odd value in a tool's file is understood, or one line says what is wrong."""

import json

import numpy as np
import pytest
import yaml

from mrpose_jax import errors
from mrpose_jax.input_pipeline import convert
from mrpose_jax.input_pipeline.formats import coco_json
from tests.helpers import foreign_files
from tests.input_pipeline.formats import test_normalised


def label_studio(folder):
  regions = foreign_files.rectangle('r', 10, 10, 50, 50), foreign_files.keypoint('a', 20, 30)
  relation = {'type': 'relation', 'from_id': 'r', 'to_id': 'a20'}
  return foreign_files.label_studio(folder, [*regions, relation]), json.loads, json.dumps


def label_studio_min(folder):
  value = foreign_files.keypoint('a', 20, 30)['value']
  path = foreign_files.label_studio(folder, [])
  path.write_text(json.dumps([{'image': 'a0.png', 'kp': [value]}]))
  return path, json.loads, json.dumps


def yolo(folder):
  fields = {'kpt_names': {0: ['a', 'b', 'c']}, 'skeleton': [[0, 1]]}
  return foreign_files.yolo(folder, **fields), yaml.safe_load, yaml.safe_dump


def deeplabcut(folder):
  people = {'1.png': [[[10, 20], [30, 40]]]}
  fields = {'Task': 'x', 'skeleton': [['a', 'b']], 'multianimalbodyparts': ['a', 'b']}
  foreign_files.deeplabcut(folder, people, ('a', 'b'), **fields)
  return folder / 'config.yaml', yaml.safe_load, yaml.safe_dump


@pytest.mark.parametrize('write', [label_studio, label_studio_min, yolo, deeplabcut])
def test_every_odd_value(write, tmp_path):
  path, load, dump = write(tmp_path / 'source')
  content = load(path.read_text())
  output = tmp_path / 'coco'
  convert.convert(path, output)
  refused = 0
  for changed in test_normalised.with_odd_values(content):
    try:
      path.write_text(dump(changed))
    except UnicodeEncodeError:
      continue
    try:
      convert.convert(path, output, overwrite=True)
    except errors.DataError as error:
      assert '\n' not in str(error)
      refused += 1
      continue
    found = coco_json.read(output / 'annotations/train.json', coco_json.ALL)
    for row in found.rows:
      assert np.isfinite([*row['bbox'], *row['keypoints']]).all()
  assert refused > 20


LINES = (
  *('', 'x', '0', '0 nan', '0 ' + 13 * ' inf', '\x00', '0' + 13 * ' 1e300', '0' + 13 * ' -1'),
  *('nan' + 13 * ' 0.5', '1e400' + 13 * ' 0.5', '0 0.5 0.5 0.5 0.5' + 9 * ' 2'),
)


def test_odd_lines_of_labels(tmp_path):
  for line in LINES:
    path = foreign_files.yolo(tmp_path / 'yolo', {'a': line})
    try:
      convert.convert(path, tmp_path / 'coco', overwrite=True)
    except errors.DataError as error:
      assert '\n' not in str(error)
    else:
      assert line.strip() == '' or line.endswith(' 2')


def test_labels_that_are_no_text(tmp_path):
  path = foreign_files.yolo(tmp_path)
  (tmp_path / 'labels/train/a.txt').write_bytes(b'\xff\xfe 0')
  with pytest.raises(errors.DataError, match=r'a\.txt, line 1: .* is not a row of numbers'):
    convert.convert(path, tmp_path / 'coco')


def test_odd_bytes(tmp_path):
  """Files of other kinds under the names of the formats."""
  for name in ('config.yaml', 'CollectedData_A.csv', 'a.yaml', 'mpii.mat', 'joints.mat', 'a.json'):
    for content in (b'', b'\xff\xfe\x00', b'\x00' * 300, b'a: b: c', b'[' * 5000, b'a,b\n"'):
      (tmp_path / name).write_bytes(content)
      with pytest.raises(errors.DataError) as raised:
        convert.convert(tmp_path / name, tmp_path / 'coco')
      assert '\n' not in str(raised.value)
