"""Label Studio's exports, with values computed by hand."""

import json

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.converters import label_studio
from tests.helpers import foreign_files

keypoint, rectangle = foreign_files.keypoint, foreign_files.rectangle


def people_of(data):
  return [
    [(person.category, person.box, person.keypoints.tolist()) for person in image.people]
    for image in data.images
  ]


def test_keypoints_belong_to_the_smallest_rectangle_around_them(tmp_path):
  path = foreign_files.label_studio(
    tmp_path,
    [
      rectangle('r1', 0, 0, 100, 100),
      rectangle('r2', 10, 20, 30, 40),
      keypoint('tail', 15, 25),
      keypoint('nose', 50, 50),
      keypoint('nose', 20, 30),
    ],
  )
  data = label_studio.read(path)
  assert data.category == {'name': 'mouse', 'keypoints': ['nose', 'tail']}
  assert data.categories == {1: 'mouse'}
  assert people_of(data) == [
    [
      (1, (0, 0, 100, 80), [[50, 40, 2], [0, 0, 0]]),
      (1, (10, 16, 30, 32), [[20, 24, 2], [15, 20, 2]]),
    ]
  ]


def test_parents_and_relations_come_first(tmp_path):
  """The keypoint lies in both rectangles, or in none, but names its own."""
  large, small = rectangle('r1', 0, 0, 50, 50, 'rat'), rectangle('r2', 10, 10, 20, 20)
  relation = {'type': 'relation', 'from_id': 'k', 'to_id': 'r1', 'direction': 'right'}
  path = foreign_files.label_studio(
    tmp_path,
    [large, small, keypoint('nose', 15, 15, 'k', parent='r1')],
    [large, small, keypoint('nose', 15, 15, 'k'), relation],
    [large, small, keypoint('nose', 90, 90, 'k'), relation | {'from_id': 'r1', 'to_id': 'k'}],
    [large, small, keypoint('nose', 90, 90, 'k')],
  )
  data = label_studio.read(path)
  assert data.categories == {1: 'mouse', 2: 'rat'}
  labelled = [
    {category: keypoints[0][2] for category, _, keypoints in people} for people in people_of(data)
  ]
  assert labelled == [{2: 2, 1: 0}] * 3 + [{2: 0, 1: 0}]
  assert data.dropped == {'keypoint outside all rectangles': 1}


def test_without_rectangles_an_image_shows_one_person(tmp_path):
  names = skeletons.COCO.keypoints
  person = [keypoint(name, 5 * k, 2) for k, name in enumerate(names)]
  choice = {'id': 'c', 'type': 'choices', 'value': {'choices': ['x']}}
  data = label_studio.read(foreign_files.label_studio(tmp_path, person[::-1], [], [choice]))
  assert tuple(data.category['keypoints']) == names
  ((category, box, keypoints),), nobody, again = people_of(data)
  assert (category, box, nobody, again) == (1, None, [], [])
  np.testing.assert_allclose(keypoints, [[5 * k, 1.6, 2] for k in range(17)])
  assert data.dropped == {'region that is no labelled keypoint or rectangle': 1}


def test_of_several_annotations_one_counts(tmp_path):
  path = foreign_files.label_studio(tmp_path, [keypoint('nose', 10, 10)])
  (task,) = json.loads(path.read_text())
  (first,) = task['annotations']
  cancelled = first | {'was_cancelled': True, 'result': [keypoint('nose', 20, 20)]}
  truth = first | {'ground_truth': True, 'result': [keypoint('nose', 30, 30)]}
  for annotations, x, others in (
    ([cancelled, first], 10, 0),
    ([first, truth, cancelled], 30, 1),
  ):
    path.write_text(json.dumps([task | {'annotations': annotations}]))
    data = label_studio.read(path)
    assert people_of(data)[0][0][2] == [[x, 0.8 * x, 2]]
    assert data.dropped['further annotation of a task'] == others
  path.write_text(json.dumps([task | {'annotations': [cancelled]}, task]))
  data = label_studio.read(path)
  assert [len(people) for people in people_of(data)] == [1]
  assert data.dropped == {'task without an annotation': 1}


def test_json_min(tmp_path):
  foreign_files.image(tmp_path / 'pictures/deep/a b.png')
  regions = [rectangle('', 0, 0, 50, 50)['value']]
  points = [keypoint('nose', 10, 20)['value'], keypoint('tail', 30, 40)['value']]
  task = {
    'image': '/data/local-files/?d=mice/a%20b.png',
    'id': 5,
    'kp': points,
    'box': regions,
    'lead_time': 1.5,
  }
  path = tmp_path / 'min.json'
  path.write_text(json.dumps([task]))
  data = label_studio.read(path, tmp_path / 'pictures')
  assert people_of(data) == [[(1, (0, 0, 50, 40), [[10, 16, 2], [30, 32, 2]])]]


@pytest.mark.parametrize(
  ('result', 'message'),
  [
    ([keypoint('nose', 1, 2), keypoint('nose', 3, 4)], "keypoint 'nose' occurs twice in a person"),
    ([rectangle('r', 0, 0, 9, 9, rotation=30)], 'a rectangle is rotated'),
    ([{'id': 'r', 'type': 'keypointlabels', 'value': {'keypointlabels': ['a']}}], "lacks 'x'"),
    ([{'id': 'r', 'type': 'keypointlabels'}], r"not a task of Label Studio \('value'\)"),
    ([keypoint('nose', 'left', 4)], 'could not convert string'),
  ],
)
def test_what_is_refused(tmp_path, result, message):
  path = foreign_files.label_studio(tmp_path, result)
  with pytest.raises(errors.DataError, match=rf'project-3\.json: task 0: .*{message}'):
    label_studio.read(path)


def test_files_that_are_none(tmp_path):
  path = foreign_files.label_studio(tmp_path, [keypoint('nose', 1, 2)])
  (tmp_path / 'a0.png').unlink()
  with pytest.raises(errors.DataError, match=r'there is no image 0f1e2d3c-a0\.png in '):
    label_studio.read(path)
  path.write_text('[{"data": {"text": "x"}, "annotations": []}]')
  with pytest.raises(errors.DataError, match=r'no field of its data is the name of an image'):
    label_studio.read(path)
  path.write_text('{"images": []}')
  with pytest.raises(errors.DataError, match="is in COCO's format, which mrpose_jax"):
    label_studio.read(path)
  path.write_text('{}')
  with pytest.raises(errors.DataError, match='a list of tasks is needed'):
    label_studio.read(path)
