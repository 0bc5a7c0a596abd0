import numpy as np
import pytest
from PIL import Image

from input_pipeline import annotations
from input_pipeline import boxes
from input_pipeline import images
from input_pipeline import loader
from input_pipeline.builders import coco
from input_pipeline.builders import mpii
from input_pipeline.builders import pose_builder
from mrpose_jax import errors
from tests import shared_data
from tests.input_pipeline import tiny_coco


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return tiny_coco.write(tmp_path_factory.mktemp('source'))


def prepare(builder_class, splits, data_dir, **crops):
  crops = pose_builder.CropSettings(**crops)
  builder_class(splits=splits, crops=crops, data_dir=data_dir).download_and_prepare()
  return loader.open_dataset(builder_class.name, data_dir)


@pytest.fixture(scope='module')
def dataset(source, tmp_path_factory):
  splits = {
    'train': coco.find_split(source, 'train2017'),
    'validation': coco.find_split(source, 'val2017'),
  }
  return prepare(coco.Coco, splits, tmp_path_factory.mktemp('data'))


def records_of(dataset, split):
  source = dataset.source(split)
  return [source[i] for i in range(len(source))]


def people_of(path):
  return {
    person.id: (entry, person)
    for entry in annotations.read_coco(path).images
    for person in entry.people
  }


def test_a_training_record_is_a_person_with_what_training_can_reach(dataset, source):
  expected = people_of(source / 'annotations/person_keypoints_train2017.json')
  records = records_of(dataset, 'train')
  assert sorted(record['people']['person_id'][0] for record in records) == sorted(expected)
  for record in records:
    found = record['people']
    entry, person = expected[found['person_id'][0]]
    assert (record['image_id'], record['file_name'].decode()) == (entry.id, entry.file_name)
    assert found['area'] == [np.float32(person.area)]
    for name in ('box', 'keypoints', 'visible'):
      np.testing.assert_array_equal(found[name][0], getattr(person, name), err_msg=name)

    image = images.read(source / 'images/train2017' / entry.file_name)
    region = boxes.box_to_region(person.box, aspect=0.75, padding=1.25)
    patch = images.cut_patch(image, *boxes.reach(*region, scale=0.4, rotated=True), canvas=512)
    np.testing.assert_array_equal(record['origin'], patch.origin)
    np.testing.assert_array_equal(record['zoom'], [1, 1])
    pixels = images.decode(record['image'], 'patch')
    assert pixels.shape == patch.pixels.shape
    assert np.abs(pixels - patch.pixels.astype(float)).mean() < 6  # JPEG, of noise


def test_an_evaluation_record_is_an_image_in_its_original_bytes(dataset, source):
  records = {int(record['image_id']): record for record in records_of(dataset, 'validation')}
  assert sorted(records) == [21, 22, 23]
  for number, record in records.items():
    original = source / f'images/val2017/{number}.png'
    assert record['image'] == original.read_bytes()
    assert record['file_name'].decode() == original.name
    found = record['people']['person_id']
    assert sorted(found) == [
      10 * number + i for i in range(len(tiny_coco.BOXES['val2017'][number]))
    ]


def test_a_patch_is_never_larger_than_the_canvas(source, tmp_path):
  splits = {'train': coco.find_split(source, 'train2017')}
  records = records_of(prepare(coco.Coco, splits, tmp_path, canvas=24), 'train')
  sides = [max(images.decode(record['image'], 'patch').shape[:2]) for record in records]
  assert max(sides) == 24
  large = next(record for record in records if record['image_id'] == 12)
  np.testing.assert_allclose(large['zoom'], [24 / 80, 19 / 64])  # 80 x 64 -> 24 x 19.2


def test_fingerprint_tells_data_sets_apart(dataset, source, tmp_path):
  splits = {'train': coco.find_split(source, 'train2017')}
  one, same, other = (
    prepare(coco.Coco, splits, tmp_path / name, canvas=canvas).fingerprint()
    for name, canvas in (('one', 24), ('same', 24), ('other', 25))
  )
  assert one == same
  assert len({one, other, dataset.fingerprint()}) == 3


def test_images_beside_the_annotations_are_found_too(source, tmp_path):
  (tmp_path / 'annotations').symlink_to(source / 'annotations')
  (tmp_path / 'val2017').symlink_to(source / 'images/val2017')
  split = coco.find_split(tmp_path, 'val2017')
  assert split.image_folder == tmp_path / 'val2017'
  assert len(records_of(prepare(coco.Coco, {'validation': split}, tmp_path), 'validation')) == 3


def test_no_person_at_all_is_refused(tmp_path):
  file = tmp_path / 'annotations/person_keypoints_none.json'
  file.parent.mkdir()
  category = '{"id": 1, "name": "robot", "keypoints": ["head"]}'
  file.write_text(f'{{"images": [], "annotations": [], "categories": [{category}]}}')
  with pytest.raises(errors.DataError, match='no person with keypoints is left'):
    coco.Coco(
      splits={'train': coco.find_split(tmp_path, 'none')},
      crops=pose_builder.CropSettings(),
      data_dir=tmp_path,
    )


def test_report_counts_what_was_left_out(tmp_path):
  source = shared_data.data('coco_mini')
  builder = coco.Coco(
    splits={'train': coco.find_split(source, 'train2017')},
    crops=pose_builder.CropSettings(),
    data_dir=tmp_path,
  )
  assert builder.report().startswith('train: 86 people in 80 images (left out: ')
  assert ' crowd' in builder.report()


def test_mpii_keeps_the_benchmarks_ground_truth(tmp_path):
  source = tmp_path / 'source'
  (source / 'images').mkdir(parents=True)
  (source / 'annot').mkdir()
  Image.new('RGB', (50, 40), 'navy').save(source / 'images/a.jpg')
  person = '{"image": "a.jpg", "center": [21, 11], "scale": 0.1}'
  (source / 'annot/valid.json').write_text(f'[{person}]')
  (source / 'annot/gt_valid.mat').write_bytes(b'ground truth')
  splits = {'validation': mpii.find_split(source, 'valid')}
  dataset = prepare(mpii.Mpii, splits, tmp_path / 'data', aspect=1.0)
  assert (dataset.folder / 'gt_valid.mat').read_bytes() == b'ground truth'
  assert dataset.annotation_file('validation').read_text() == f'[{person}]'
  (record,) = records_of(dataset, 'validation')
  # 0-based centre (20, 10), moved down by 1.5; side 20.
  np.testing.assert_array_equal(record['people']['box'], [[10, 1.5, 20, 20]])
