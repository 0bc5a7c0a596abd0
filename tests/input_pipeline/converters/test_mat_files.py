"""LSP's and MPII's own MATLAB files, with values computed by hand, and real ones."""

import json

import numpy as np
import pytest
from scipy import io

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.converters import foreign
from mrpose_jax.input_pipeline.converters import leeds
from mrpose_jax.input_pipeline.converters import mpii_mat
from mrpose_jax.input_pipeline.formats import mpii
from tests.helpers import foreign_files
from tests.helpers import shared_data


def test_lsp_has_all_joints_and_marks_the_hidden(tmp_path):
  joints = np.random.default_rng(0).uniform(1, 100, (3, 14, 2))
  joints[2] = 0
  joints[2, 4, 1] = 1
  data = leeds.read(foreign_files.leeds(tmp_path, joints))
  assert [image.path.name for image in data.images] == ['im0001.jpg', 'im0002.jpg']
  for n, image in enumerate(data.images):
    (person,) = image.people
    np.testing.assert_array_equal(person.keypoints[:, :2], joints[:2, :, n].T - 1)
    expected = [2] * 14 if n == 0 else [2] * 4 + [1] + [2] * 9
    assert person.keypoints[:, 2].tolist() == expected
  skeleton = skeletons.from_category(data.category, 'lsp')
  assert skeleton.flip_pairs == ((3, 2), (4, 1), (5, 0), (9, 8), (10, 7), (11, 6))
  assert [skeleton.keypoints[i] for i in skeleton.limbs[-1]] == ['neck', 'head_top']


def test_lspet_marks_the_labelled(tmp_path):
  joints = np.random.default_rng(0).uniform(1, 100, (14, 3, 3))
  joints[:, 2] = 1
  joints[0, :, 0] = 0
  joints[:, 2, 2] = 0
  data = leeds.read(foreign_files.leeds(tmp_path, joints, digits=5))
  assert [len(image.people) for image in data.images] == [1, 1, 0]
  (person,) = data.images[0].people
  assert person.keypoints[:, 2].tolist() == [0] + [2] * 13
  np.testing.assert_array_equal(person.keypoints[1:, :2], joints[1:, :2, 0] - 1)


def test_the_real_lspet_there_and_back(tmp_path):
  """The keypoints of COCO's form again, and its boxes where all sides are equally long."""
  source = shared_data.data('lspet')
  content = json.loads((source / 'annotations/person_keypoints_val.json').read_text())
  assert tuple(content['categories'][0]['keypoints']) == leeds.KEYPOINTS
  assert [list(limb) for limb in leeds.LIMBS] == content['categories'][0]['skeleton']
  rows = content['annotations'][:20]
  expected = np.array([row['keypoints'] for row in rows]).reshape(-1, 14, 3)
  joints = expected.transpose(1, 2, 0).copy()
  joints[:, :2] += 1
  joints[:, 2] = joints[:, 2] > 0
  data = leeds.read(foreign_files.leeds(tmp_path, joints))
  for image, keypoints in zip(data.images, expected, strict=True):
    (person,) = image.people
    labelled = keypoints[:, 2] > 0
    np.testing.assert_allclose(person.keypoints[labelled], keypoints[labelled], atol=1e-12)
    np.testing.assert_array_equal(person.keypoints[:, 2], keypoints[:, 2])


@pytest.mark.parametrize(
  ('joints', 'message'),
  [
    (np.zeros((3, 16, 2)), r'joints of shape \(3, 16, 2\), not 3 x 14 x N or 14 x 3 x N'),
    (np.full((3, 14, 1), np.nan), 'person 1: a joint is not finite'),
    (np.array('abc'), r'joints of shape \(1,\), not 3 x 14'),
  ],
)
def test_joints_that_are_refused(tmp_path, joints, message):
  foreign_files.image(tmp_path / 'images/im0001.jpg')
  io.savemat(tmp_path / 'joints.mat', {'joints': joints})
  with pytest.raises(errors.DataError, match=message):
    leeds.read(tmp_path / 'joints.mat')


def test_mat_files_that_are_none(tmp_path):
  path = foreign_files.leeds(tmp_path, np.ones((3, 14, 2)))
  (tmp_path / 'images/im0002.jpg').unlink()
  with pytest.raises(errors.DataError, match=r'person 2: there is no image im0002\.jpg or im00002'):
    leeds.read(path)
  with pytest.raises(errors.DataError, match="no MATLAB file with a readable 'RELEASE'"):
    mpii_mat.read(path)
  for content in (b'', b'no MATLAB file at all' * 20, path.read_bytes()[:200]):
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match="no MATLAB file with a readable 'joints'"):
      leeds.read(path)
  io.savemat(path, {'RELEASE': 5})
  with pytest.raises(errors.DataError, match='RELEASE has no annolist or img_train'):
    mpii_mat.read(path)


POINTS = [(6, 101.0, 51.0, 1), (9, 111.0, 21.0, 0), (0, 91.0, 121.0, []), (1, 3.5, 4.5, '0')]
MPII_PERSON = {'points': POINTS, 'objpos': (101, 81), 'scale': 0.5}


def test_mpii_by_hand(tmp_path):
  path = foreign_files.mpii(
    tmp_path,
    [
      ('b.jpg', 1, [MPII_PERSON, {'points': POINTS}, {'objpos': (1, 2), 'scale': 1.0}]),
      ('test.jpg', 0, [MPII_PERSON]),
      ('a.jpg', 1, [MPII_PERSON | {'points': POINTS[:1]}]),
      ('empty.jpg', 1, []),
    ],
  )
  data = mpii_mat.read(path)
  assert [image.path.name for image in data.images] == ['b.jpg', 'a.jpg']
  assert data.dropped == {
    'without objpos, scale or joints': 2,
    'image of the test set': 1,
    'training image without people': 1,
  }
  (person,) = data.images[0].people
  # 0-based centre (100, 80), moved down by 15 x 0.5 to 87.5; side 100.
  assert person.box == (50, 37.5, 100, 100)
  labelled = {k: person.keypoints[k].tolist() for k in np.flatnonzero(person.keypoints[:, 2])}
  assert labelled == {6: [100, 50, 2], 9: [110, 20, 1], 0: [90, 120, 2], 1: [2.5, 3.5, 1]}
  assert data.images[1].people[0].keypoints[:, 2].sum() == 2


def test_the_real_mpii_there_and_back(tmp_path):
  """People of the JSON form, written as the benchmark's structure, have the same boxes."""
  source = shared_data.data('mpii_sample')
  rows = json.loads((source / 'annot/valid.json').read_text())
  by_name = {}
  for row in rows:
    joints = zip(row['joints'], row['joints_vis'])
    points = [(k, x, y, 1) for k, ((x, y), visible) in enumerate(joints) if visible]
    person = {'points': points, 'objpos': tuple(row['center']), 'scale': row['scale']}
    by_name.setdefault(row['image'], []).append(person)
  path = foreign_files.mpii(tmp_path, [(name, 1, people) for name, people in by_name.items()])
  data = mpii_mat.read(path)
  for image, expected in zip(
    data.images, mpii.read(source / 'annot/valid.json').images, strict=True
  ):
    for person, other in zip(image.people, expected.people, strict=True):
      np.testing.assert_allclose(person.box, other.box, rtol=1e-6)
      np.testing.assert_allclose(person.keypoints[:, :2], other.keypoints, rtol=1e-6)
      np.testing.assert_array_equal(person.keypoints[:, 2], other.visible)


def test_mpii_joints_that_do_not_exist(tmp_path):
  person = MPII_PERSON | {'points': [(16, 1, 2, 1)]}
  path = foreign_files.mpii(tmp_path, [('b.jpg', 1, [person, person])])
  with pytest.raises(errors.DataError, match=r'annolist\(1\): index 16 is out of bounds'):
    mpii_mat.read(path)


def test_boxes_are_derived_from_keypoints():
  points = np.array([[10, 20, 2], [30, 60, 1], [99, 99, 0]], float)
  # Extent 20 x 40: 0.15 x 40 = 6 pixels on each side.
  assert foreign.derived_box(points, (100, 80)) == [4, 14, 32, 52]
  assert foreign.derived_box(points, (32, 61)) == [4, 14, 28, 47]
  assert foreign.derived_box(np.zeros((3, 3)), (100, 80)) == [0, 0, 0, 0]
  assert foreign.derived_box(np.array([[5, 5, 2.0]]), (100, 80)) == [5, 5, 0, 0]
  assert foreign.derived_box(np.array([[5, 5, 2], [5, 45, 2.0]]), (100, 80)) == [0, 0, 11, 51]
