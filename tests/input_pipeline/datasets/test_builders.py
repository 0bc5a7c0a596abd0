import json
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mrpose_jax import codecs
from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.datasets import coco
from mrpose_jax.input_pipeline.datasets import mpii
from mrpose_jax.input_pipeline.datasets import pose_builder
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp
from mrpose_jax.input_pipeline.formats import annotation_types
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import prepared_data
from tests.helpers import shared_data
from tests.helpers import tiny_coco

affine = jax.jit(warp.affine, static_argnums=2)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return tiny_coco.write(tmp_path_factory.mktemp('source'))


def prepare(builder_class, splits, data_dir, **crops):
  crops = pose_builder.CropSettings(**crops)
  builder_class(splits=splits, crops=crops, data_dir=data_dir).download_and_prepare()
  return prepared_data.open_dataset(builder_class.name, data_dir)


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
    person.id: (entry, person) for entry in coco_json.read(path).images for person in entry.people
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

    image = image_files.read(source / 'images/train2017' / entry.file_name)
    region = geometry.box_to_region(person.box, aspect=0.75, padding=1.25)
    patch = image_files.cut_patch(
      image, *geometry.reach(*region, scale=0.4, rotated=True), canvas=512
    )
    np.testing.assert_array_equal(record['origin'], patch.origin)
    np.testing.assert_array_equal(record['zoom'], [1, 1])
    pixels = image_files.decode(record['image'], 'patch')
    assert pixels.shape == patch.pixels.shape
    assert np.abs(pixels - patch.pixels.astype(float)).mean() < 6  # the JPEG error of noise


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
  sides = [max(image_files.decode(record['image'], 'patch').shape[:2]) for record in records]
  assert 16 < max(sides) <= 24
  people = people_of(source / 'annotations/person_keypoints_train2017.json')
  for record in records:
    person = people[record['people']['person_id'][0]][1]
    _, size = geometry.box_to_region(person.box, aspect=0.75, padding=1.25)
    # The whole reach, 1.4 times the diagonal, would fill the canvas, inside the image or not.
    zoom = 24 / (1.4 * np.hypot(*size) + image_files.MARGIN)
    assert (record['zoom'] <= np.float32(zoom)).all()
    assert (record['zoom'] > zoom - 1 / 20).all()  # rounding to whole pixels of a patch of 20


def test_training_crops_of_patches_are_those_of_the_image():
  crops = pose_builder.CropSettings(canvas=1024)  # nothing is scaled down, only compressed
  quality = []
  for seed in range(6):
    image, people = synthetic_people.render_scene(seed)
    for person in people:
      patch = pose_builder.train_patch(image, person_in(person['box']), crops, skeletons.COCO)
      np.testing.assert_array_equal(patch.zoom, [1, 1])
      data = image_files.encode_jpeg(patch.pixels, pose_builder.JPEG_QUALITY)
      to_image = np.array([[1, 0, patch.origin[0]], [0, 1, patch.origin[1]]])
      center, size = geometry.box_to_region(np.array(person['box'], float), 0.75, 1.25)
      for scale, rotation, flip in ((1.4, -30, False), (0.6, 20, True)):
        matrix = geometry.region_to_crop(center, scale * size, (256, 192), rotation, flip)
        expected, inside = crop_of(image, matrix)
        found, _ = crop_of(image_files.decode(data, 'patch'), geometry.compose(matrix, to_image))
        error = np.square(found - expected)[inside].mean()
        quality.append(10 * np.log10(255**2 / error))
  assert len(quality) > 20
  assert np.mean(np.array(quality) >= 45) >= 0.95
  assert np.mean(quality) >= 45


def person_in(box, keypoints=None):
  """An annotated person in this box; all keypoints are labelled, by default in the box's corner."""
  keypoints = np.tile(box[:2], (17, 1)) if keypoints is None else keypoints
  return annotation_types.Person(1, np.array(box, float), 0.0, keypoints, np.ones(17, np.int32))


def test_patches_hold_all_that_shift_and_half_body_can_show():
  """In an image that is large enough, no crop of the patch has a pixel from beyond it."""
  r = np.random.default_rng(0)
  image = np.full((1000, 1000, 3), 255, np.uint8)
  crops = pose_builder.CropSettings(scale=0.25, shift=0.2, half_body=True, canvas=2000)
  augmentation = augment.Augmentation(
    rotation=180.0, scale=0.25, flip=0.5, draw='uniform', shift=0.2, half_body=1.0
  )
  examples = []
  for _ in range(40):
    keypoints = r.uniform(440, 560, (17, 2)).astype(np.float32)
    person = person_in([450, 450, 100, 100], keypoints)
    patch = pose_builder.train_patch(image, person, crops, skeletons.COCO)
    assert (patch.zoom == 1).all()
    region = geometry.box_to_region(person.box, crops.aspect, crops.padding)
    examples.append(batching.person_example(patch, *region, keypoints, person.visible))
  batch = batching.stack(examples, 800)
  drawn = augment.draw(jax.random.key(0), len(examples), augmentation)
  codec = codecs.Codec((64, 48), (16, 12))
  inputs, _, _ = jax.jit(augment.crop_people, static_argnums=(2, 3))(
    batch, drawn, codec, skeletons.COCO
  )
  assert augment.to_pixels(np.asarray(inputs), 'rgb').min() == 255
  plain = pose_builder.CropSettings(scale=0.25)
  assert (
    pose_builder.train_patch(image, person, plain, skeletons.COCO).pixels.size < patch.pixels.size
  )


def crop_of(pixels, matrix):
  """Returns the 256x192 crop, and a mask of its pixels that lie in the image."""
  padded = np.zeros((400, 400, 4), np.uint8)
  padded[: pixels.shape[0], : pixels.shape[1]] = np.dstack([pixels, 255 + 0 * pixels[..., :1]])
  crop = np.asarray(affine(padded[None], matrix[None], (256, 192)))[0]
  return crop[..., :3], crop[..., 3] > 254.9


def test_a_training_crop_never_steps_farther_than_the_canvas_allows():
  rng = np.random.default_rng(0)
  image = np.zeros((300, 400, 3), np.uint8)
  for canvas in (64, 160, 512):
    crops = pose_builder.CropSettings(canvas=canvas)
    for _ in range(50):
      corner, sides = rng.uniform(-20, 300, 2), rng.uniform(1, 400, 2)
      box = np.concatenate([corner, sides])
      patch = pose_builder.train_patch(image, person_in(box), crops, skeletons.COCO)
      _, size = geometry.box_to_region(box, crops.aspect, crops.padding)
      step = 1.4 * size[0] / 192 * patch.zoom.max()  # patch pixels per crop pixel
      assert step <= canvas / np.hypot(256, 192)
      assert max(patch.pixels.shape) <= canvas


def test_several_shards_read_back(source, tmp_path):
  builder = coco.Coco(
    splits={'train': coco.find_split(source, 'train2017')},
    crops=pose_builder.CropSettings(),
    data_dir=tmp_path,
  )
  config = tfds.download.DownloadConfig(num_shards=3)
  builder.download_and_prepare(download_config=config, download_dir=tmp_path / 'downloads')
  assert len(list(tmp_path.glob('coco/1.0.0/coco-train.array_record-*-of-00003'))) == 3
  records = records_of(prepared_data.open_dataset('coco', tmp_path), 'train')
  people = people_of(source / 'annotations/person_keypoints_train2017.json')
  assert sorted(record['people']['person_id'][0] for record in records) == sorted(people)


def test_fingerprint_tells_data_sets_apart(dataset, source, tmp_path):
  splits = {'train': coco.find_split(source, 'train2017')}
  one, same, other = (
    prepare(coco.Coco, splits, tmp_path / name, canvas=canvas).fingerprint()
    for name, canvas in (('one', 24), ('same', 24), ('other', 25))
  )
  assert one == same
  assert len({one, other, dataset.fingerprint()}) == 3


def test_fingerprint_knows_images_of_equal_sizes_apart(source, tmp_path):
  def prepared(name, pixel):
    copy = shutil.copytree(source, tmp_path / name)
    for path in (copy / 'images').glob('*/*.png'):
      pixels = np.zeros((64, 80, 3), np.uint8)
      pixels[20, 20] = pixel
      Image.fromarray(pixels).save(path.with_suffix('.bmp'))
      path.with_suffix('.bmp').rename(path)
    splits = {'validation': coco.find_split(copy, 'val2017')}
    return prepare(coco.Coco, splits, tmp_path / f'{name}_data')

  one, same, other = prepared('one', 1), prepared('same', 1), prepared('other', 2)
  sizes = [
    sorted((path.name, path.stat().st_size) for path in found.folder.iterdir())
    for found in (one, other)
  ]
  assert sizes[0] == sizes[1]
  assert one.fingerprint() == same.fingerprint() != other.fingerprint()


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
  assert (dataset.kind, dataset.image_set('validation')) == ('mpii', 'valid')
  assert 'annotations' not in json.loads(dataset.annotation_file('validation').read_text())
  (record,) = records_of(dataset, 'validation')
  # 0-based centre (20, 10), moved down by 1.5; side 20.
  np.testing.assert_array_equal(record['people']['box'], [[10, 1.5, 20, 20]])
