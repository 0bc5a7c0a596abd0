"""DeepLabCut's annotations: by hand, as .h5, and the real mouse written in its form."""

import json

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline import convert
from mrpose_jax.input_pipeline.converters import deeplabcut
from tests.helpers import foreign_files
from tests.helpers import shared_data

NAN = np.nan
NAMES = ('snout', 'leftear', 'rightear')
PEOPLE = {'img1.png': [[[10, 20], [30.5, 40], [NAN, NAN]]], 'img2.png': [[[NAN, NAN]] * 3]}


def keypoints_of(data):
  return [[person.keypoints.tolist() for person in image.people] for image in data.images]


@pytest.mark.parametrize('columns', [1, 3])
def test_one_animal(tmp_path, columns):
  path = foreign_files.deeplabcut(tmp_path, PEOPLE, NAMES, columns=columns)
  data = deeplabcut.read(path)
  assert data.category == {'name': 'animal', 'keypoints': list(NAMES), 'skeleton': []}
  assert keypoints_of(data) == [[[[10, 20, 2], [30.5, 40, 2], [0, 0, 0]]], []]
  assert [image.size for image in data.images] == [(100, 80)] * 2
  assert data.images[0].path == path.parent / 'img1.png'


def test_a_project(tmp_path):
  """config.yaml gives the task, the order of the body parts and the limbs."""
  foreign_files.deeplabcut(
    *(tmp_path, PEOPLE, NAMES),
    Task='openfield',
    bodyparts=['tail', *NAMES],
    skeleton=[['snout', 'leftear'], ['snout', 'paw']],
  )
  data = deeplabcut.read(tmp_path / 'config.yaml')
  assert data.category == {
    'name': 'openfield',
    'keypoints': ['tail', *NAMES],
    'skeleton': [[2, 3]],
  }
  assert keypoints_of(data)[0] == [[[0, 0, 0], [10, 20, 2], [30.5, 40, 2], [0, 0, 0]]]


def several_animals(tmp_path):
  one, two, unique = [[1, 2], [3, 4]], [[NAN, 6], [7, 8]], [[5, 5], [NAN, NAN]]
  people = {'img1.png': [one, two, unique]}
  individuals = ('mouse1', 'mouse2', deeplabcut.UNIQUE)
  return foreign_files.deeplabcut(
    *(tmp_path, people, ('a', 'b'), individuals),
    multianimalproject=True,
    bodyparts='MULTI!',
    multianimalbodyparts=['b', 'a'],
  )


def test_several_animals(tmp_path):
  data = deeplabcut.read(several_animals(tmp_path))
  assert data.category['keypoints'] == ['b', 'a']
  assert keypoints_of(data) == [[[[3, 4, 2], [1, 2, 2]], [[7, 8, 2], [0, 0, 0]]]]
  assert data.dropped == {'unique body part': 1}


def test_h5_is_read_like_csv(tmp_path):
  pd = pytest.importorskip('pandas')
  pytest.importorskip('tables')
  for folder, path, levels, columns in (
    (tmp_path / 'one', foreign_files.deeplabcut(tmp_path / 'one', PEOPLE, NAMES), 3, [0]),
    (tmp_path / 'two', several_animals(tmp_path / 'two'), 4, [0]),
    (
      tmp_path / 'three',
      foreign_files.deeplabcut(tmp_path / 'three', PEOPLE, NAMES, columns=3),
      *(3, [0, 1, 2]),
    ),
  ):
    expected = deeplabcut.read(path)
    table = pd.read_csv(path, header=list(range(levels)), index_col=columns)
    table.to_hdf(path.with_suffix('.h5'), key='df_with_missing', mode='w')
    found = deeplabcut.read(path.with_suffix('.h5'))
    assert keypoints_of(found) == keypoints_of(expected)
    assert found.category == expected.category
    if (folder / 'config.yaml').exists():
      path.unlink()  # the project's .h5 stands for the .csv
      assert keypoints_of(deeplabcut.read(folder / 'config.yaml')) == keypoints_of(expected)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'no rows bodyparts and coords in its header'),
    ('a,b\n1,2\n', 'no rows bodyparts and coords in its header'),
    ('scorer,A\nbodyparts,a\ncoords,x\n', 'each body part needs a column x and a column y'),
    ('scorer,A,A\nbodyparts,a,a\ncoords,x,y\ni.png,1\n', 'row 0 .*1 values for 2 columns'),
    ('scorer,A,A\nbodyparts,a,a\ncoords,x,y\ni.png,1,z\n', "row 0 .*could not convert .*'z'"),
    ('scorer,A,A\nbodyparts,a,a\ncoords,x,y\ni.png,1,2\n', 'i.png: there is no such image'),
  ],
)
def test_what_is_refused(tmp_path, text, message):
  path = tmp_path / 'CollectedData_Ada.csv'
  path.write_text(text)
  with pytest.raises(errors.DataError, match=f'CollectedData_Ada.csv: .*{message}'):
    deeplabcut.read(path)


def test_files_that_are_none(tmp_path):
  (tmp_path / 'CollectedData_Ada.h5').write_bytes(b'no table')
  with pytest.raises(errors.DataError, match=r'\.h5: (not an annotation file|needs pandas)'):
    deeplabcut.read(tmp_path / 'CollectedData_Ada.h5')
  (tmp_path / 'config.yaml').write_text('Task: x')
  with pytest.raises(errors.DataError, match=r'there is no labeled-data/\*/CollectedData_\*\.csv'):
    deeplabcut.read(tmp_path / 'config.yaml')
  (tmp_path / 'config.yaml').write_text('Task: [')
  with pytest.raises(errors.DataError, match=r'config\.yaml: not a readable YAML file'):
    deeplabcut.read(tmp_path / 'config.yaml')


def test_the_real_mouse_there_and_back(tmp_path):
  """DeepLabCut's openfield example, from COCO's form to DeepLabCut's and back."""
  source = shared_data.data('openfield')
  content = json.loads((source / 'annotations/train.json').read_text())
  names = content['categories'][0]['keypoints']
  files = {image['id']: image['file_name'] for image in content['images']}
  expected = {
    files[row['image_id']]: np.reshape(row['keypoints'], (-1, 3)) for row in content['annotations']
  }
  people = {
    name: [np.where(points[:, 2:] > 0, points[:, :2], NAN)] for name, points in expected.items()
  }
  foreign_files.deeplabcut(tmp_path / 'project', people, names, size=(640, 480), Task='openfield')
  report = convert.convert(tmp_path / 'project', tmp_path / 'coco')
  assert 'train: 92 people in 92 images' in report
  found = json.loads((tmp_path / 'coco/annotations/train.json').read_text())
  (category,) = found['categories']
  assert category['keypoints'] == names
  assert category['flip_pairs'] == [['leftear', 'rightear']]
  names_of = {image['id']: image['file_name'] for image in found['images']}
  assert set(names_of.values()) == set(expected)
  for row in found['annotations']:
    points = expected[names_of[row['image_id']]]
    np.testing.assert_array_equal(np.reshape(row['keypoints'], (-1, 3)), points)
