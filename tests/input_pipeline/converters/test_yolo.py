"""Ultralytics' YOLO pose data sets, with values computed by hand."""

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.converters import yolo
from tests.helpers import foreign_files


def test_by_hand(tmp_path):
  data = yolo.read(foreign_files.yolo(tmp_path))
  assert [(image.path.name, image.image_set) for image in data.images] == [
    *(('a.png', 'train'), ('b.png', 'train')),
    ('c.png', 'validation'),
  ]
  assert data.categories == {1: 'mouse'}
  assert data.category['keypoints'] == ['0', '1', '2']
  assert data.category['flip_pairs'] == [['1', '2']]
  assert [len(image.people) for image in data.images] == [1, 0, 1]
  (person,) = data.images[0].people
  # 100 x 80 pixels: centre (50, 40), extent 20 x 40.
  np.testing.assert_allclose(person.box, [40, 20, 20, 40])
  np.testing.assert_allclose(person.keypoints, [[50, 20, 2], [41, 40, 1], [0, 0, 0]])


def test_two_numbers_a_keypoint(tmp_path):
  rows = {'a': '1 0.5 0.5 0.2 0.5 0.5 0.25 0 0 -0.1 0.3'}
  path = foreign_files.yolo(
    *(tmp_path, rows), kpt_shape=[3, 2], names=['mouse', 'rat'], kpt_names={0: list('abc')}
  )
  data = yolo.read(path)
  assert data.categories == {1: 'mouse', 2: 'rat'}
  assert data.category['keypoints'] == ['a', 'b', 'c']
  assert data.category['flip_pairs'] == [['b', 'c']]
  (person,) = data.images[0].people
  assert person.category == 2
  np.testing.assert_array_equal(person.keypoints[:, 2], [2, 0, 0])


def test_names_and_limbs_of_sleap(tmp_path):
  """Its flip_idx exchanges nothing, so the names give the pairs."""
  path = foreign_files.yolo(
    tmp_path, node_names=['nose', 'earL', 'earR'], skeleton=[[0, 1], [0, 2]], flip_idx=[0, 1, 2]
  )
  skeleton = skeletons.from_category(yolo.read(path).category, path)
  assert skeleton.keypoints == ('nose', 'earL', 'earR')
  assert (skeleton.flip_pairs, skeleton.limbs) == (((1, 2),), ((0, 1), (0, 2)))


def test_seventeen_keypoints_of_a_person_are_cocos(tmp_path):
  coco = skeletons.COCO
  flip = skeletons.flip_order(coco.flip_pairs, 17).tolist()
  settings = {'kpt_shape': [17, 2], 'flip_idx': flip, 'names': {0: 'person'}}
  rows = {'a': '0 0.5 0.5 0.2 0.5' + 17 * ' 0.5 0.5'}
  data = yolo.read(foreign_files.yolo(tmp_path, rows, **settings))
  assert tuple(data.category['keypoints']) == coco.keypoints
  other = yolo.read(foreign_files.yolo(tmp_path, rows, **settings | {'names': {0: 'doll'}}))
  assert other.category['keypoints'][:2] == ['0', '1']


def test_where_the_images_are(tmp_path):
  """Lists of folders, text files of paths, and Roboflow's ../train/images beside the YAML file."""
  foreign_files.yolo(tmp_path)
  (tmp_path / 'train.txt').write_text('./images/train/a.png\n\n')
  (tmp_path / 'train').mkdir()
  (tmp_path / 'train/images').symlink_to(tmp_path / 'images/train')
  for train, expected in (
    (['images/train', 'images/val'], ['a.png', 'b.png', 'c.png']),
    ('train.txt', ['a.png']),
    ('../train/images', ['a.png', 'b.png']),
  ):
    data = yolo.read(foreign_files.yolo(tmp_path, train=train, val=None, path=None))
    assert [image.path.name for image in data.images] == expected


@pytest.mark.parametrize(
  ('rows', 'content', 'message'),
  [
    (None, {'kpt_shape': None}, r'kpt_shape None: a pose data set has'),
    (None, {'kpt_shape': [3, 4]}, r'kpt_shape \[3, 4\]'),
    (None, {'names': None}, 'names None: the name of each class is needed'),
    (None, {'flip_idx': [0, 1]}, r'flip_idx \[0, 1\]: the number of the mirror partner'),
    (None, {'flip_idx': [1, 2, 0]}, r'flip_idx \[1, 2, 0\]'),
    (None, {'kpt_names': {0: ['a']}}, 'kpt_names: the same 3 names are needed'),
    (None, {'skeleton': [[0, 'a']]}, 'flip_idx, kpt_names or skeleton cannot be used'),
    (None, {'train': 'nowhere'}, 'train: there is no .*nowhere'),
    (
      {'a': '0 0.5 0.5 0.2 0.5'},
      {},
      r'a.txt, line 1: 5 numbers, but class, box and 3 x 3 .* are 14',
    ),
    ({'a': 'mouse' + 13 * ' 0.5'}, {}, "line 1: 'mouse 0.5.*' is not a row of numbers"),
    ({'a': '7' + 13 * ' 0.5'}, {}, 'line 1: class 7 is not in names'),
    ({'a': '0 50 40 20 40' + 9 * ' 2'}, {}, 'is not in fractions of the image'),
    ({'a': '0' + 13 * ' 0.5'}, {}, 'a visibility is not 0, 1 or 2'),
  ],
)
def test_what_is_refused(tmp_path, rows, content, message):
  path = foreign_files.yolo(tmp_path, rows, **content)
  with pytest.raises(errors.DataError, match=rf'data\.yaml: .*{message}'):
    yolo.read(path)
