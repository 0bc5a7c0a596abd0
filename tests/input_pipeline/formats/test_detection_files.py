"""Which boxes of a file belong to which image or frame."""

import json

import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline.formats import detection_files

BOX = [1, 2, 30, 40]


@pytest.fixture
def write(tmp_path):
  def write_content(content):
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    return tmp_path / 'boxes.json'

  return write_content


def coco(names, *image_ids, categories=(), category_id=1):
  return {
    'images': [{'id': number, 'file_name': name} for number, name in names.items()],
    'annotations': [
      {'image_id': number, 'bbox': BOX, 'category_id': category_id} for number in image_ids
    ],
    'categories': list(categories),
  }


def files_of(path, *names, **settings):
  boxes = detection_files.read_by_file(path, names, **settings)
  return {name: file_boxes.shape for name, file_boxes in boxes.items()}


def test_without_a_list_of_images_the_id_is_the_files_number(write, caplog):
  rows = [{'image_id': number, 'bbox': BOX} for number in (7, 7, '8', 9)]
  assert files_of(write(rows), '007.jpg', '8.png') == {'007.jpg': (2, 4), '8.png': (1, 4)}
  assert 'left out 1 of 4 boxes: 1 on other images' in caplog.text


def test_file_names_may_have_folders(write):
  rows = [{'file_name': 'set\\a.jpg', 'bbox': BOX}, {'file_name': '/data/b.jpg', 'bbox': BOX}]
  assert files_of(write(rows), 'a.jpg', 'b.jpg') == {'a.jpg': (1, 4), 'b.jpg': (1, 4)}
  path = write(coco({'x': 'set/a.jpg', 'y': 'b.jpg'}, 'x', 'x', 'y'))
  assert files_of(path, 'a.jpg', 'b.jpg') == {'a.jpg': (2, 4), 'b.jpg': (1, 4)}


def test_the_category_of_a_file(write):
  person, mouse = {'id': 1, 'name': 'person'}, {'id': 4, 'name': 'mouse', 'keypoints': ['nose']}
  names = {1: 'a.jpg'}
  for categories, category_id in (
    ([], 1),
    ([person | {'id': 5}, {'id': 6, 'name': 'car'}], 5),
    ([{'id': 9, 'name': 'mouse'}], 9),
    ([person, mouse], 4),
  ):
    path = write(coco(names, 1, categories=categories, category_id=category_id))
    assert files_of(path, 'a.jpg') == {'a.jpg': (1, 4)}
  path = write(coco(names, 1, categories=[person, mouse], category_id=1))
  with pytest.raises(errors.DataError, match='boxes of category_id 1 and none of 4'):
    files_of(path, 'a.jpg')


def test_the_category_of_a_list(write, caplog):
  """Boxes of one category count whatever its number is; among several, those of people count."""
  rows = [{'image_id': 7, 'bbox': BOX, 'category_id': category} for category in (5, 5)]
  assert files_of(write(rows), '7.jpg') == {'7.jpg': (2, 4)}
  assert 'has boxes of category_id 5 alone, so these count' in caplog.text
  assert detection_files.read_by_frame(write(rows))[7].shape == (2, 4)
  assert files_of(write({'annotations': rows}), '7.jpg') == {'7.jpg': (2, 4)}
  caplog.clear()
  assert files_of(write([*rows, rows[0] | {'category_id': 1}]), '7.jpg') == {'7.jpg': (1, 4)}
  assert 'left out 2 of 3 boxes: 2 not of category 1' in caplog.text
  with pytest.raises(errors.DataError, match='boxes of category_id 3 and none of 1'):
    files_of(write([*rows, rows[0] | {'category_id': 3}]), '7.jpg')
  scored = [row | {'score': 0.9} for row in rows]
  with pytest.raises(errors.DataError, match='boxes of category_id 5 and none of 1'):
    detection_files.read(write(scored))  # the data set says which category counts


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({'images': []}, 'needs a list of boxes'),
    ([], 'no box is left for the images of --input'),
    ([{'image_id': 5, 'bbox': BOX}], 'no box is left for the images of --input'),
    ([{'image_id': 1, 'bbox': BOX}], r'image_id 1 may be 1.jpg or 01.jpg; give file_name'),
    (coco({1: 's/2.jpg', 2: 't/2.jpg'}, 1), 'lists 2 images with the file name 2.jpg'),
    (coco({1: 7}, 1), 'an entry of "images" lacks id or file_name'),
    ([{'bbox': BOX}], "lacks 'file_name' or 'image_id', or 'bbox'"),
    ([{'image_id': 2, 'bbox': [1, 2, 3]}], r'row 0: box \[1.0, 2.0, 3.0\] or score 1.0 is not'),
    ([{'image_id': 2, 'bbox': [1, 2, 3, 0]}], 'is not usable'),
    ([{'image_id': 2, 'bbox': BOX, 'score': None}], 'lacks'),
    ([{'image_id': [2], 'bbox': BOX}], 'lacks'),
    ([7], 'row 0 7 lacks'),
  ],
)
def test_files_that_cannot_be_used(write, content, message):
  with pytest.raises(errors.DataError, match=message) as raised:
    files_of(write(content), '1.jpg', '01.jpg', '2.jpg')
  assert '\n' not in str(raised.value)


def test_frames(write):
  rows = [{'frame': 3, 'bbox': BOX}, {'image_id': 4, 'bbox': BOX, 'score': 0.4}]
  assert sorted(detection_files.read_by_frame(write(rows))) == [3, 4]
  assert sorted(detection_files.read_by_frame(write(rows), score_threshold=0.5)) == [3]
  path = write(coco({1: 'images/frame_000012.PNG', 2: '7'}, 1, 1, 2, 5))
  boxes = detection_files.read_by_frame(path)
  assert {frame: len(frame_boxes) for frame, frame_boxes in boxes.items()} == {12: 2, 7: 1}
  with pytest.raises(errors.DataError, match="lacks 'frame"):
    detection_files.read_by_frame(write(coco({1: 'walk.png'}, 1)))


def test_the_evaluation_goes_by_file_names_where_there_are_some(write, caplog):
  content = coco({1: 'a.jpg', 2: 'b.jpg', 3: 'c.jpg'}, 1, 2, 3)
  for row in content['annotations']:
    row['score'] = 0.5
  ids = {'a.jpg': 20, 'b.jpg': 10}
  found = detection_files.read(write(content), image_ids=ids)
  assert found['image_ids'].tolist() == [20, 10]
  assert 'left out 1 of 3 boxes: 1 on other images' in caplog.text
  rows = [{'file_name': 'b.jpg', 'image_id': 5, 'bbox': BOX, 'score': 1}]
  assert detection_files.read(write(rows), image_ids=ids)['image_ids'].tolist() == [10]
  del rows[0]['file_name']
  assert detection_files.read(write(rows), image_ids=ids)['image_ids'].tolist() == [5]


def test_a_tilde_that_no_shell_expands(write, monkeypatch):
  row = {'image_id': 1, 'category_id': 1, 'bbox': BOX, 'score': 0.5}
  monkeypatch.setenv('HOME', str(write([row]).parent))
  assert detection_files.read('~/boxes.json')['image_ids'].tolist() == [1]
