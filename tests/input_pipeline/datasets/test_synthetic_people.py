"""The drawn people: exact labels, correct visibility flags, the same files on every run."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.datasets.synthetic import painting
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
from mrpose_jax.input_pipeline.datasets.synthetic.figures import PARTS

FACE = slice(0, 3)  # nose and eyes


@pytest.fixture(scope='module')
def scenes():
  return [synthetic_people.render_scene(seed) for seed in range(24)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('people')
  synthetic_people.write_coco(folder, 'train', 6, seed=1, processes=1)
  synthetic_people.write_coco(folder, 'validation', 4, seed=1, processes=1)
  return folder


def annotations_of(folder, split):
  return json.loads((folder / f'annotations/person_keypoints_{split}.json').read_text())


def files_of(folder):
  return {
    path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


def test_a_seed_fixes_the_scene():
  image, people = synthetic_people.render_scene(7)
  again, people_again = synthetic_people.render_scene(7)
  np.testing.assert_array_equal(image, again)
  assert len(people) == len(people_again) > 0
  for a, b in zip(people, people_again):
    np.testing.assert_array_equal(a['keypoints'], b['keypoints'])
  other, _ = synthetic_people.render_scene(8)
  assert image.shape != other.shape or (image != other).any()


def test_masks_hold_what_is_visible(scenes):
  """Masks of a scene are disjoint, lie in the boxes, and hold all keypoints that are visible."""
  hidden = 0
  for image, people in scenes:
    assert sum(person['mask'].astype(int) for person in people).max() <= 1
    for person in people:
      x, y, width, height = person['box']
      in_box = person['mask'][y : y + height, x : x + width].sum()
      assert person['mask'].shape == image.shape[:2]
      assert person['mask'].sum() == in_box <= person['area']
      hidden += person['area'] - in_box
      columns, rows = np.round(person['keypoints'][person['visible'] == 2]).astype(int).T
      assert person['mask'][rows, columns].all()
  assert hidden > 0


def test_shapes_and_types(scenes):
  for image, people in scenes:
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert 200 <= min(image.shape[:2]) and 256 <= max(image.shape[:2]) <= 384
    assert 1 <= len(people) <= synthetic_people.MAX_PEOPLE
    for person in people:
      assert person['keypoints'].shape == (17, 2) and person['visible'].shape == (17,)


def test_keypoints_are_labelled_iff_inside_the_frame(scenes):
  """The exceptions are eyes and nose of a face turned away, which stay unlabelled."""
  for image, people in scenes:
    height, width, _ = image.shape
    for person in people:
      x, y = np.round(person['keypoints']).T
      inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
      labelled = person['visible'] > 0
      assert not (labelled & ~inside).any()
      np.testing.assert_array_equal(labelled[FACE.stop :], inside[FACE.stop :])


def test_boxes_hold_the_person(scenes):
  for image, people in scenes:
    height, width, _ = image.shape
    for person in people:
      x, y, w, h = person['box']
      assert 0 <= x < x + w <= width and 0 <= y < y + h <= height
      assert 0 < person['area'] <= w * h
      # Every labelled keypoint lies on a painted part, hence in the box, up to rounding.
      points = person['keypoints'][person['visible'] > 0]
      assert (points >= np.array([x, y]) - 1).all() and (points <= np.array([x + w, y + h])).all()


def test_every_flag_occurs_and_most_keypoints_are_seen(scenes):
  flags = np.stack([person['visible'] for _, people in scenes for person in people])
  assert set(np.unique(flags)) == {0, 1, 2}
  assert np.median((flags == 2).sum(1)) >= 12


def test_left_is_on_the_right_of_the_image_when_the_face_is_seen(scenes):
  left, right = (skeletons.COCO.keypoints.index(f'{side}_eye') for side in ('left', 'right'))
  seen = 0
  for _, people in scenes:
    for person in people:
      across = (person['keypoints'][left] - person['keypoints'][right])[0]
      upright = person['keypoints'][left, 1] < person['keypoints'][11:13, 1].min()
      if upright and (person['visible'][[left, right]] == 2).all():
        seen += 1
        assert across > 0
  assert seen > 10


def test_outline_of_a_disc_and_of_two():
  circle = painting.outline(np.array([[3.0, 4.0, 2.0]]))
  np.testing.assert_allclose(np.hypot(*(circle - [3, 4]).T), 2)
  capsule = painting.outline(np.array([[0.0, 0.0, 1.0], [10.0, 0.0, 2.0]]))
  np.testing.assert_allclose(capsule.min(0), [-1, -2], atol=1e-9)
  np.testing.assert_allclose(capsule.max(0), [12, 2], atol=1e-9)


def test_paint_is_centred_on_integer_pixels_and_records_what_is_on_top():
  canvas = painting.Canvas(np.zeros((3, 21, 31)), np.array([0.0, -1.0]))
  canvas.paint([painting.outline(np.array([[15.0, 10.0, 6.0]]))], (90, 60, 30), ident=1)
  canvas.paint([painting.outline(np.array([[15.0, 10.0, 2.0]]))], (9, 9, 9), ident=2)
  np.testing.assert_array_equal(canvas.ids, canvas.ids[::-1, ::-1])
  np.testing.assert_array_equal(canvas.ids[10, [8, 9, 12, 13, 15]], [0, 1, 1, 2, 2])
  assert canvas.paint([np.array([[40.0, 2], [50, 2], [50, 9]])], (0, 0, 0)) is None
  np.testing.assert_allclose(canvas.rgb[:, 10, 11], (90, 60, 30))


def test_part_ids_of_all_people_fit():
  assert 1 + synthetic_people.MAX_PEOPLE * len(PARTS) < np.iinfo(np.int16).max


def test_pycocotools_reads_what_is_written(folder, capsys):
  for split, count in (('train', 6), ('validation', 4)):
    coco = COCO(folder / f'annotations/person_keypoints_{split}.json')
    assert len(coco.imgs) == count
    for image in coco.imgs.values():
      with Image.open(folder / 'images' / split / image['file_name']) as picture:
        assert picture.size == (image['width'], image['height'])
      assert image['file_name'] == f'{image["id"]:012d}.jpg'
    for annotation in coco.anns.values():
      triplets = np.array(annotation['keypoints']).reshape(17, 3)
      assert annotation['num_keypoints'] == (triplets[:, 2] > 0).sum() > 0
      assert not triplets[triplets[:, 2] == 0].any()
      _, _, w, h = annotation['bbox']
      assert mask.area(coco.annToRLE(annotation)) == w * h
  (category,) = coco.cats.values()
  assert category['keypoints'] == list(skeletons.COCO.keypoints)
  assert category['skeleton'][0] == [16, 14] and len(category['skeleton']) == 19
  capsys.readouterr()


def test_splits_share_nothing(folder):
  train, validation = (annotations_of(folder, split) for split in ('train', 'validation'))
  ids = [image['id'] for image in train['images'] + validation['images']]
  assert len(set(ids)) == len(ids) == 10 and max(ids) < 2**31
  pictures = [content for path, content in files_of(folder).items() if path.suffix == '.jpg']
  assert len(set(pictures)) == 10
  seeds = {
    synthetic_people.scene_seed(split, 1, index)
    for split in ('train', 'validation')
    for index in range(500)
  }
  assert len(seeds) == 1000
  names = ('train', 'val', 'validation', 'test', 'train2017', 'val2017')
  assert len({synthetic_people.image_id(name, 0) for name in names}) == len(names)


def test_number_of_processes_does_not_change_the_files(folder, tmp_path):
  synthetic_people.write_coco(tmp_path, 'validation', 4, seed=1, processes=2)
  written = files_of(tmp_path)
  assert len(written) == 5
  assert written.items() <= files_of(folder).items()


@pytest.mark.parametrize('count', [0, synthetic_people.MAX_IMAGES + 1])
def test_impossible_number_of_images(tmp_path, count):
  with pytest.raises(errors.DataError, match=f'{count} images'):
    synthetic_people.write_coco(tmp_path, 'train', count, seed=0)
