import json

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.formats import mpii
from tests.helpers import shared_data

CATEGORY = {
  'id': 1,
  'name': 'robot',
  'keypoints': ['left_hand', 'right_hand', 'head'],
  'skeleton': [[1, 3], [2, 3]],
}
IMAGE = {'id': 7, 'file_name': 'a.jpg', 'width': 100, 'height': 80}
PERSON = {
  'id': 1,
  'image_id': 7,
  'category_id': 1,
  'iscrowd': 0,
  'bbox': [10, 20, 31, 41],
  'area': 900.5,
  'keypoints': [12, 30, 2, 14.5, 32, 1, 99, 99, 0],
}
MPII_ROW = {
  'image': 'b.jpg',
  'center': [101.0, 201.0],
  'scale': 2.0,
  'joints': [[float(10 * i), float(10 * i + 1)] for i in range(16)],
  'joints_vis': [1] * 15 + [0],
}


@pytest.fixture
def write(tmp_path):
  """Returns a function that writes JSON, or text unchanged, to a file in tmp_path."""

  def to_file(content):
    path = tmp_path / 'annotations.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path

  return to_file


def coco(people=(PERSON,), images=(IMAGE,), categories=(CATEGORY,)):
  return {'images': list(images), 'annotations': list(people), 'categories': list(categories)}


def without(row, key):
  return {k: v for k, v in row.items() if k != key}


def test_coco_by_hand(write):
  found = coco_json.read(write(coco()))
  assert found.skeleton.keypoints == ('left_hand', 'right_hand', 'head')
  assert found.skeleton.flip_pairs == ((0, 1),)
  assert found.skeleton.limbs == ((0, 2), (1, 2))
  assert not found.dropped
  (image,) = found.images
  (person,) = image.people
  assert (image.id, image.file_name, person.id, person.area) == (7, 'a.jpg', 1, 900.5)
  np.testing.assert_array_equal(person.box, [10, 20, 30, 40])  # ends at pixel 40, 60
  np.testing.assert_array_equal(person.keypoints, [[12, 30], [14.5, 32], [0, 0]])
  np.testing.assert_array_equal(person.visible, [2, 1, 0])
  assert (person.box.dtype, person.keypoints.dtype) == (np.float32, np.float32)


def test_people_of_the_released_code():
  g = np.load(shared_data.golden('coco_db.npz'))
  path = shared_data.data('coco_mini') / 'annotations/person_keypoints_train2017.json'
  found = coco_json.read(path)
  assert found.skeleton is skeletons.COCO
  assert len(found.images) == 80
  assert found.num_people == len(g['image_ids']) == 86
  assert found.dropped['crowd'] > 0
  people = {image.id: image.people for image in found.images}
  order = np.argsort(g['image_ids'], kind='stable')
  ours = [person for image in sorted(people) for person in people[image]]
  box = np.stack([person.box for person in ours])
  np.testing.assert_allclose(box[:, :2] + box[:, 2:] / 2, g['center'][order], rtol=0, atol=1e-3)
  visible = np.stack([person.visible for person in ours])
  np.testing.assert_array_equal(visible > 0, g['visible'][order] > 0)
  keypoints = np.stack([person.keypoints for person in ours])
  np.testing.assert_array_equal(keypoints, g['joints'][order] * (visible > 0)[..., None])
  width, height = box[:, 2] * 1.25, box[:, 3] * 1.25
  size = np.stack([np.maximum(width, 0.75 * height), np.maximum(height, width / 0.75)], -1)
  np.testing.assert_allclose(size, 200 * g['scale'][order], rtol=1e-5)


@pytest.mark.parametrize(
  ('box', 'expected'),
  [
    ([-5, -6, 20, 20], [0, 0, 19, 19]),  # moved in, not cut, as in the released code
    ([90, 70, 50, 50], [90, 70, 9, 9]),
    ([0, 0, 100, 80], [0, 0, 99, 79]),
  ],
)
def test_boxes_are_clipped_to_the_image(write, box, expected):
  found = coco_json.read(write(coco([PERSON | {'bbox': box}])))
  np.testing.assert_array_equal(found.images[0].people[0].box, expected)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'iscrowd': 1, 'keypoints': [0] * 9}, 'crowd'),
    ({'keypoints': [0] * 9}, 'no keypoints'),
    ({'keypoints': [5, 5, 0] * 3}, 'no keypoints'),
    ({'keypoints': None}, 'no keypoints'),
    ({'category_id': 2}, 'another category'),
    ({'bbox': [10, 10, 0, 20]}, 'box without area in the image'),
    ({'bbox': [10, 10, 20, -3]}, 'box without area in the image'),
    ({'bbox': [100, 10, 20, 20]}, 'box without area in the image'),
    ({'bbox': [10, float('nan'), 20, 20]}, 'box is not finite'),
    ({'bbox': [10, 1e300, 20, 20]}, 'box is not finite'),
    ({'bbox': [10, 20, 30]}, 'box is not four numbers'),
    ({'bbox': '1234'}, 'box is not four numbers'),
    ({'bbox': [10**400, 20, 30, 40]}, 'box is not four numbers'),
    ({'iscrowd': '1', 'keypoints': 'none'}, 'crowd'),
    ({'keypoints': []}, 'no keypoints'),
    ({'bbox': None}, 'box is not four numbers'),
  ],
)
def test_unusable_people_are_dropped_and_counted(write, change, reason):
  found = coco_json.read(write(coco([PERSON, PERSON | {'id': 2} | change])))
  assert dict(found.dropped) == {reason: 1}
  assert [person.id for person in found.images[0].people] == [1]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (json.dumps(coco())[:100], 'not a readable JSON file'),
    ('', 'not a readable JSON file'),
    ('[' * 100_000, 'not a readable JSON file'),
    ([PERSON], 'not a COCO annotation file'),
    ({'images': [], 'annotations': []}, 'not a COCO annotation file'),
    (coco(categories=[]), '0 categories'),
    (coco(categories=['person']), '0 categories'),
    (coco(categories=[without(CATEGORY, 'id')]), '0 categories'),
    (coco(categories=[CATEGORY, CATEGORY | {'id': 2}]), '2 categories'),
    (coco(categories=[without(CATEGORY, 'keypoints')]), 'lists no keypoints'),
    (coco(categories=[CATEGORY | {'skeleton': [[1, 4]]}]), 'beyond 3'),
    (coco(images=[IMAGE, IMAGE]), 'image id 7 occurs twice'),
    (coco(images=[without(IMAGE, 'width')]), 'lacks id, file_name, width or height'),
    (coco(images=['a.jpg']), 'lacks id, file_name, width or height'),
    (coco(images=[IMAGE | {'id': float('inf')}]), 'its id Infinity is not a whole number'),
    (coco(images=[IMAGE | {'id': 'frame_1'}]), 'its id "frame_1" is not a whole number'),
    (coco(images=[IMAGE | {'id': 7.5}]), 'its id 7.5 is not a whole number'),
    (coco(images=[IMAGE | {'id': 2**63}]), 'is not a whole number'),
    (coco(images=[IMAGE | {'width': '100'}]), "width or height '100' is not a number"),
    (coco(images=[IMAGE | {'height': 10**400}]), 'pixels is not a usable size'),
    (coco(images=[IMAGE | {'file_name': 5}]), 'file name 5 is not a text'),
    (coco(images=[IMAGE | {'file_name': None}]), 'file name null is not a text'),
    (coco(images=[IMAGE | {'file_name': 'a\0.jpg'}]), 'leaves the image folder'),
    (coco(images=[IMAGE | {'file_name': '\ud800'}]), 'leaves the image folder'),
    (coco(categories=[CATEGORY | {'id': 'x'}]), 'the category\'s id "x" is not a whole number'),
    (coco(categories=[CATEGORY | {'keypoints': 5}]), 'each needs a unique name'),
    (coco(categories=[CATEGORY | {'skeleton': [3]}]), 'pairs of keypoint numbers are needed'),
    (coco(images=[IMAGE | {'width': None}]), 'image 7: None x 80 pixels'),
    (coco(images=[IMAGE | {'width': 0}]), 'image 7: 0 x 80 pixels'),
    (coco(images=[IMAGE | {'height': float('nan')}]), 'image 7: 100 x nan pixels'),
    (coco(images=[IMAGE | {'file_name': '../a.jpg'}]), 'leaves the image folder'),
    (coco(images=[IMAGE | {'file_name': 'x/../../a.jpg'}]), 'leaves the image folder'),
    (coco(images=[IMAGE | {'file_name': '/etc/passwd'}]), 'leaves the image folder'),
    (coco(images=[IMAGE | {'file_name': ''}]), 'leaves the image folder'),
    (coco([PERSON, PERSON]), 'annotation id 1 occurs twice'),
    (coco([PERSON | {'image_id': 8}]), 'annotation 1: there is no image 8'),
    (coco([without(PERSON, 'bbox')]), 'lacks id, image_id, category_id or bbox'),
    (coco([without(PERSON, 'category_id')]), 'lacks id, image_id, category_id or bbox'),
    (coco([PERSON | {'id': 'first'}]), '"first" is not a whole number'),
    (coco([PERSON | {'image_id': float('nan')}]), 'NaN is not a whole number'),
    (coco([PERSON | {'category_id': [1]}]), '[1] is not a whole number'),
    (coco([PERSON | {'iscrowd': 'no'}]), 'annotation 1: iscrowd "no" is not 0 or 1'),
    (coco([PERSON | {'iscrowd': []}]), 'annotation 1: iscrowd [] is not 0 or 1'),
    (coco([PERSON | {'area': 10**400}]), 'is not usable'),
    (coco([PERSON | {'keypoints': [10**400, 0, 2] * 3}]), 'keypoints are not numbers'),
    (coco([PERSON | {'keypoints': [1e30, 0, 2] * 3}]), 'a keypoint is beyond all images'),
    (coco([PERSON | {'keypoints': {'x': 1}}]), 'keypoints are not numbers'),
    (coco([PERSON | {'keypoints': [[1, 1, 2]] * 3}]), 'not 3 x 3'),
    (coco([None]), 'lacks id, image_id, category_id or bbox'),
    (coco([PERSON | {'keypoints': [12, 30, 2]}]), '3 keypoint numbers, not 3 x 3'),
    (coco([PERSON | {'keypoints': 5}]), '1 keypoint numbers, not 3 x 3'),
    (coco([PERSON | {'keypoints': ['x'] * 9}]), 'keypoints are not numbers'),
    (coco([PERSON | {'keypoints': [float('nan'), 0, 2] * 3}]), 'a keypoint is not finite'),
    (coco([PERSON | {'keypoints': [1, 1, 3] * 3}]), 'a visibility flag is not 0, 1 or 2'),
    (coco([PERSON | {'keypoints': [1, 1, 0.5] * 3}]), 'a visibility flag is not 0, 1 or 2'),
    (coco([PERSON | {'area': 'large'}]), "annotation 1: area 'large' is not usable"),
    (coco([PERSON | {'area': float('nan')}]), 'annotation 1: area nan is not usable'),
  ],
)
def test_bad_coco_files_are_refused(write, content, message):
  path = write(content)
  with pytest.raises(errors.DataError) as raised:
    coco_json.read(path)
  assert message in str(raised.value)
  assert str(path) in str(raised.value)


def test_keypoints_outside_the_image_stay_as_labelled(write):
  outside = PERSON | {'keypoints': [-20, 30, 2, 5000, 1e6, 1, 0, 0, 0]}
  (person,) = coco_json.read(write(coco([outside]))).images[0].people
  np.testing.assert_array_equal(person.keypoints, np.float32([[-20, 30], [5000, 1e6], [0, 0]]))
  np.testing.assert_array_equal(person.visible, [2, 1, 0])


@pytest.mark.parametrize('row', [without(PERSON, 'area'), PERSON | {'area': 0}])
def test_area_of_the_box_where_there_is_none(write, row):
  found = coco_json.read(write(coco([row])))
  assert found.images[0].people[0].area == 30 * 40


def test_many_problems_are_counted_and_the_first_named(write):
  people = [PERSON | {'id': i, 'image_id': 100 + i} for i in range(12)]
  with pytest.raises(errors.DataError) as raised:
    coco_json.read(write(coco(people)))
  assert 'there is no image 104 and 7 more' in str(raised.value)
  assert '105' not in str(raised.value)


def test_missing_file_names_those_beside_it(write):
  path = write(coco())
  with pytest.raises(errors.DataError, match=r'no such file; found there: annotations\.json'):
    coco_json.read(path.with_name('other.json'))


def test_mpii_by_hand(write):
  rows = [MPII_ROW, MPII_ROW | {'image': 'a.jpg'}, MPII_ROW | {'scale': 1.0}]
  found = mpii.read(write(rows))
  assert found.skeleton is skeletons.MPII
  assert [(image.id, image.file_name) for image in found.images] == [(0, 'b.jpg'), (1, 'a.jpg')]
  assert [[p.id for p in image.people] for image in found.images] == [[0, 2], [1]]
  person = found.images[0].people[0]
  # 0-based centre (100, 200), moved down by 15 x 2 to 230; side 400.
  np.testing.assert_array_equal(person.box, [-100, 30, 400, 400])
  assert person.area == 160_000
  np.testing.assert_array_equal(person.keypoints[:2], [[-1, 0], [9, 10]])
  np.testing.assert_array_equal(person.keypoints[15], [0, 0])
  np.testing.assert_array_equal(person.visible, [2] * 15 + [0])


def test_mpii_test_set_has_no_joints(write):
  found = mpii.read(write([without(without(MPII_ROW, 'joints'), 'joints_vis')]))
  assert not found.images[0].people[0].visible.any()


def test_mpii_sample_reads():
  found = mpii.read(shared_data.data('mpii_sample') / 'annot/valid.json')
  assert len(found.images) == 5
  for image in found.images:
    for person in image.people:
      labelled = person.keypoints[person.visible > 0]
      inside = (labelled > person.box[:2]) & (labelled < person.box[:2] + 1.25 * person.box[2:])
      assert inside.mean() > 0.8


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({'images': []}, 'not an MPII annotation file'),
    ([without(MPII_ROW, 'scale')], 'row 0 {"image": "b.jpg"'),
    (['b.jpg'], 'lacks image, center, scale, joints or joints_vis'),
    ([MPII_ROW | {'joints': [[1, 2]] * 15}], 'row 0: joints of shape (15, 2)'),
    ([MPII_ROW | {'joints': None}], 'row 0: joints of shape ()'),
    (
      [MPII_ROW | {'joints': [[1, 2]] * 15 + [[1]]}],
      'lacks image, center, scale, joints or joints_vis',
    ),
    ([MPII_ROW | {'joints_vis': [1] * 4}], 'row 0: joints of shape (16, 2)'),
    ([MPII_ROW | {'joints': [[float('nan'), 2]] * 16}], 'row 0: a joint is not finite'),
    ([without(MPII_ROW, 'joints_vis')], 'lacks image, center, scale, joints or joints_vis'),
    ([MPII_ROW | {'joints': [[1e30, 2]] * 16}], 'or beyond all images'),
    ([MPII_ROW | {'scale': 1e200}], 'is not usable'),
    ([MPII_ROW | {'scale': -1.0}], 'scale -1.0 is not usable'),
    ([MPII_ROW | {'scale': 10**400}], 'lacks image, center, scale, joints or joints_vis'),
    ([MPII_ROW | {'center': [1, float('nan')]}], 'is not usable'),
    ([MPII_ROW | {'center': None}], 'is not usable'),
    ([MPII_ROW | {'image': '../b.jpg'}], 'leaves the image folder'),
  ],
)
def test_bad_mpii_files_are_refused(write, content, message):
  with pytest.raises(errors.DataError) as raised:
    mpii.read(write(content))
  assert message in str(raised.value)


def detection(image_id=3, box=(1, 2, 3, 4), score=0.5, **more):
  return {'image_id': image_id, 'bbox': list(box), 'score': score} | more


def test_detections_by_hand(write):
  rows = [
    detection(3, (1, 2, 3.5, 4), 0.9, category_id=1),
    detection(2, score=0.2, category_id=1),
    detection(5, score=0.8, category_id=18),
    detection(4, score=0.3),  # without a category: a person
  ]
  found = detection_files.read(write(rows), score_threshold=0.3)
  assert {name: array.dtype.name for name, array in found.items()} == {
    'image_ids': 'int64',
    'boxes': 'float32',
    'scores': 'float32',
    'category_ids': 'int64',
  }
  np.testing.assert_array_equal(found['image_ids'], [3, 4])
  np.testing.assert_array_equal(found['boxes'], [[1, 2, 3.5, 4], [1, 2, 3, 4]])
  np.testing.assert_array_equal(found['scores'], np.float32([0.9, 0.3]))
  assert len(detection_files.read(write(rows))['scores']) == 3


def test_detections_of_another_category(write):
  path = write([detection(3, category_id=1), detection(4, category_id=3), detection(5)])
  assert detection_files.read(path, category_ids=[3])['image_ids'].tolist() == [4, 5]
  several = detection_files.read(path, category_ids=[3, 1])
  assert several['image_ids'].tolist() == [3, 4]  # a box without a category may be of either
  assert several['category_ids'].tolist() == [1, 3]
  path = write([detection(3, category_id=1)])
  with pytest.raises(errors.DataError, match='category_id 1 and none of 3'):
    detection_files.read(path, category_ids=[3])


def test_no_detections_are_empty_arrays(write):
  found = detection_files.read(write([]))
  assert {name: array.shape for name, array in found.items()} == {
    'image_ids': (0,),
    'boxes': (0, 4),
    'scores': (0,),
    'category_ids': (0,),
  }


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    (without(detection(), 'score'), 'lacks image_id, bbox or score'),
    (detection() | {'bbox': None}, 'lacks image_id, bbox or score'),
    (detection() | {'bbox': ['a', 2, 3, 4]}, 'lacks image_id, bbox or score'),
    (detection(image_id=float('inf')), 'lacks image_id, bbox or score'),
    ('box', 'lacks image_id, bbox or score'),
    (detection(box=(1, 2, 3)), 'row 1: box [1.0, 2.0, 3.0]'),
    (detection(box=(1, 2, 0, 4)), 'is not usable'),
    (detection(box=(1, 2, 3, -4)), 'is not usable'),
    (detection(box=(1, float('inf'), 3, 4)), 'is not usable'),
    (detection(score=float('nan')), 'score nan is not usable'),
  ],
)
def test_bad_detections_are_refused(write, row, message):
  with pytest.raises(errors.DataError) as raised:
    detection_files.read(write([detection(), row]))
  assert message in str(raised.value)


def test_detections_must_be_a_list(write):
  with pytest.raises(errors.DataError, match='not a detection file'):
    detection_files.read(write(detection()))
