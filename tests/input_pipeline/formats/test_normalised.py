"""The normalised annotation file, doubts about coordinates, and odd values."""

import json

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.formats import mpii
from mrpose_jax.input_pipeline.formats import plausibility
from tests.helpers import shared_data
from tests.input_pipeline.formats import test_annotations

CATEGORY, IMAGE, PERSON = test_annotations.CATEGORY, test_annotations.IMAGE, test_annotations.PERSON
coco, without, write = test_annotations.coco, test_annotations.without, test_annotations.write


def test_ids_and_crowds_as_text_and_a_byte_order_mark(write):
  person = PERSON | {'id': '1', 'image_id': '7', 'category_id': '1', 'iscrowd': '0'}
  image, category = IMAGE | {'id': '7'}, CATEGORY | {'id': 1.0}
  path = write('\ufeff' + json.dumps(coco([person], [image], [category])))
  found = coco_json.read(path)
  assert (found.categories, found.num_people) == ({1: 'robot'}, 1)
  assert found.rows[0]['image_id'] == 7


def test_what_is_written_reads_back_and_has_all_fields(write, tmp_path):
  """Everyone whom the evaluation must know is there: crowds and people without keypoints, too."""
  people = [
    PERSON | {'image_id': '7', 'num_keypoints': 0},
    without(PERSON, 'area') | {'id': 2, 'iscrowd': None},
    PERSON | {'id': 3, 'keypoints': []},
    PERSON | {'id': 4, 'iscrowd': 1, 'keypoints': None},
    PERSON | {'id': 5, 'bbox': None},
    PERSON | {'id': 6, 'bbox': [10, 20, 0, 5]},
  ]
  found = coco_json.read(write(coco(people)))
  assert [row['id'] for row in found.rows] == [1, 2, 3, 4, 6]
  assert [row['num_keypoints'] for row in found.rows] == [2, 2, 0, 0, 2]
  assert [row['iscrowd'] for row in found.rows] == [0, 0, 0, 1, 1]
  assert [row['area'] for row in found.rows] == [900.5, 31 * 41, 900.5, 900.5, 900.5]
  assert found.left_out() == (
    '1 box is not four numbers, 1 box without area in the image, 1 crowd, 1 no keypoints'
  )
  coco_json.write(found, tmp_path / 'normalised.json')
  again = coco_json.read(tmp_path / 'normalised.json')
  assert again.skeleton == found.skeleton
  for one, two in zip(found.rows, again.rows, strict=True):
    np.testing.assert_array_equal(one.pop('keypoints'), two.pop('keypoints'))
    assert one == two
  people_of = [[(p.id, p.area) for p in a.images[0].people] for a in (found, again)]
  assert people_of[0][0] == people_of[1][0] == (1, 900.5)


def test_the_official_rows_are_unchanged():
  path = shared_data.data('coco_mini') / 'annotations/person_keypoints_train2017.json'
  official = [a for a in json.loads(path.read_text())['annotations'] if a['category_id'] == 1]
  for row, other in zip(coco_json.read(path).rows, official, strict=True):
    assert row['keypoints'].tolist() == other['keypoints']
    assert all(row[key] == other[key] for key in row if key != 'keypoints')


def test_a_file_without_annotations_is_a_test_set_whatever_its_name(write):
  assert coco_json.read(write({'images': [IMAGE]})).test_set
  assert not coco_json.read(write(coco())).test_set


def corners(row):
  x, y, width, height = row['bbox']
  row['bbox'] = [x, y, x + width, y + height]


def fractions(row):
  row['keypoints'] = [v / (100, 80, 1)[i % 3] for i, v in enumerate(row['keypoints'])]


def all_fractions(row):
  fractions(row)
  row['bbox'] = [v / (100, 80)[i % 2] for i, v in enumerate(row['bbox'])]


def swapped(row):
  row['keypoints'] = [row['keypoints'][i + (1, -1, 0)[i % 3]] for i in range(9)]


@pytest.mark.parametrize(
  ('edit', 'messages'),
  [
    (lambda row: None, []),
    (corners, ['8 of 8 boxes reach out of their images, 8 of them would not if they were left']),
    (
      fractions,
      ['8 of 8 people have all their keypoints between 0 and 1', '16 of 16 labelled keypoints lie'],
    ),
    (all_fractions, ['8 of 8 people have all', '8 of 8 boxes lie between 0 and 1']),
    (swapped, ['16 of 16 labelled keypoints lie outside their own boxes']),
  ],
)
def test_coordinates_that_can_hardly_be_meant(write, edit, messages):
  people = []
  for i in range(8):
    row = {'id': i, 'image_id': 7, 'category_id': 1, 'bbox': [55 + i, 9 + i, 31, 41]}
    people.append(row | {'keypoints': [60 + i, 20 + i, 2, 75, 30, 1, 0, 0, 0]})
    edit(people[-1])
  found = plausibility.doubts(coco_json.read(write(coco(people))))
  assert len(found) == len(messages)
  for line, message in zip(found, messages):
    assert line.startswith(message) and 'pixels' in line


def test_official_files_raise_no_doubts():
  path = shared_data.data('coco_mini') / 'annotations/person_keypoints_train2017.json'
  assert plausibility.doubts(coco_json.read(path)) == []
  path = shared_data.data('mpii_sample') / 'annot/valid.json'
  assert plausibility.doubts(mpii.read(path)) == []


ODD = (
  *(
    None,
    '',
    '7',
    'x',
    '\ud800',
    [],
    [1],
    [[]],
    {},
    True,
    False,
    0,
    -1,
    1.5,
    1e300,
    10**400,
    2**70,
  ),
  *(float('nan'), float('inf'), [None] * 9, [1e9] * 9, [0] * 4, [10, 20, 1e-320, 5], [[1, 2]]),
)


def with_odd_values(content):
  """Yields the content with each of its parts replaced by each odd value."""
  yield from ODD
  for key in content if isinstance(content, dict) else range(len(content)):
    parts = ODD
    if isinstance(content[key], dict | list):
      parts = with_odd_values(content[key])
    for part in parts:
      changed = content.copy()
      changed[key] = part
      yield changed


@pytest.mark.parametrize(
  ('reader', 'content'), [(coco_json, coco()), (mpii, [test_annotations.MPII_ROW])]
)
def test_every_odd_value_is_understood_or_one_line(write, tmp_path, reader, content):
  refused = []
  for changed in with_odd_values(content):
    path = write(json.dumps(changed))
    try:
      found = reader.read(path)
    except errors.DataError as error:
      refused.append(str(error))
      continue
    plausibility.doubts(found)
    coco_json.write(found, tmp_path / 'normalised.json')
    for image in found.images:
      for person in image.people:
        assert np.isfinite([*person.box, person.area]).all() and person.area > 0
        assert np.isfinite(person.keypoints).all()
    if reader is coco_json and not found.test_set:
      assert coco_json.read(tmp_path / 'normalised.json').num_people == found.num_people
  assert len(refused) > 500
  assert all(message.startswith(str(tmp_path)) and '\n' not in message for message in refused)
