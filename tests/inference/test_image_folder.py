"""Prediction on folders of images: whose boxes are whose, and the user's files stay."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import mrpose_jax
from mrpose_jax import errors
from mrpose_jax.inference import image_folder
from mrpose_jax.inference import prediction_settings
from tests.helpers import tiny_run

BOX = [5, 5, 30, 40]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.write(tmp_path_factory.mktemp('folder') / 'run')


def write_images(folder, *names):
  folder.mkdir()
  for i, name in enumerate(names):
    pixels = np.random.default_rng(i).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
  return folder


def boxes_of(file, **settings):
  return prediction_settings.Settings(boxes=file, **settings)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def predictions(folder):
  return json.loads((folder / 'predictions.json').read_text())


def test_the_photographs_stay(workdir, tmp_path):
  photos = write_images(tmp_path / 'photos', 'a.jpg', 'b.png', 'b.jpg')
  before = contents(photos)
  linked = tmp_path / 'linked'
  linked.mkdir()
  os.link(photos / 'a.jpg', linked / 'a.jpg')
  (tmp_path / 'other').symlink_to(photos)
  for source, output in (
    (photos, photos),
    (photos, tmp_path / 'other'),
    (photos / 'b.png', photos),
    (photos, linked),
  ):
    with pytest.raises(errors.ConfigError, match='there is the input; choose another folder'):
      image_folder.predict_folder(workdir, source, output)
    assert contents(photos) == before

  boxes = tmp_path / 'boxes' / 'predictions.json'
  boxes.parent.mkdir()
  boxes.write_text(json.dumps([{'file_name': 'a.jpg', 'bbox': BOX}]))
  with pytest.raises(errors.ConfigError, match=r'predictions\.json there is the input'):
    image_folder.predict_folder(workdir, photos, boxes.parent, boxes_of(boxes))
  assert len(predictions(boxes.parent)) == 1


def test_every_image_has_a_picture_of_its_own(workdir, tmp_path):
  names = ('a.jpg', 'b.jpg', 'b.png', 'b.png.png', 'C.png', 'c.jpg')
  photos = write_images(tmp_path / 'photos', *names)
  for _ in range(2):  # the second time the pictures are there already
    image_folder.predict_folder(workdir, photos, tmp_path / 'out')
  pictures = {'a.jpg', 'b.jpg.jpg', 'b.png.jpg', 'b.png.png.jpg', 'C.png.jpg', 'c.jpg.jpg'}
  assert {path.name for path in (tmp_path / 'out').glob('*.jpg')} == pictures
  assert [row['file_name'] for row in predictions(tmp_path / 'out')] == sorted(names)


def test_boxes_of_a_coco_file(workdir, tmp_path, caplog):
  """Ids count from 1 and files from 0; the list of images says which is which."""
  photos = write_images(tmp_path / 'photos', '0.jpg', '1.jpg', '2.jpg')
  person = {'category_id': 1, 'iscrowd': 0}
  annotations = [person | {'image_id': i + 1, 'bbox': [i + 5, 5, 30, 40]} for i in range(3)]
  annotations += [person | {'image_id': 1, 'bbox': [0, 0, 79, 59], 'iscrowd': 1}]
  content = {
    'images': [{'id': i + 1, 'file_name': f'set/{i}.jpg'} for i in range(3)],
    'annotations': annotations,
    'categories': [{'id': 1, 'name': 'person'}, {'id': 3, 'name': 'car'}],
  }
  (tmp_path / 'coco.json').write_text(json.dumps(content))
  image_folder.predict_folder(workdir, photos, tmp_path / 'out', boxes_of(tmp_path / 'coco.json'))
  assert [(row['file_name'], row['bbox']) for row in predictions(tmp_path / 'out')] == [
    (f'{i}.jpg', [i + 5, 5, 30, 40]) for i in range(3)
  ]
  assert 'coco.json: left out 1 of 4 boxes: 1 crowd' in caplog.text


def test_boxes_of_a_detector_of_many_kinds(workdir, tmp_path, caplog):
  photos = write_images(tmp_path / 'photos', '0.jpg')
  rows = [
    {'image_id': 0, 'category_id': category, 'bbox': BOX, 'score': score}
    for category, score in ((1, 0.98), (62, 0.9), (3, 0.8), (1, 0.01))
  ]
  (tmp_path / 'boxes.json').write_text(json.dumps(rows))
  for threshold, count in ((0.0, 2), (0.5, 1)):
    settings = boxes_of(tmp_path / 'boxes.json', box_threshold=threshold)
    image_folder.predict_folder(workdir, photos, tmp_path / 'out', settings)
    assert len(predictions(tmp_path / 'out')) == count
  assert 'left out 2 of 4 boxes: 2 not of category 1\n' in caplog.text
  assert '3 of 4 boxes: 2 not of category 1, 1 with a score below 0.5\n' in caplog.text


def test_photographs_are_turned_upright(workdir, tmp_path):
  photos = write_images(tmp_path / 'photos', 'a.png')
  upright = Image.open(photos / 'a.png').convert('RGB')
  exif = Image.Exif()
  exif[0x0112] = 6
  upright.transpose(Image.Transpose.ROTATE_90).save(photos / 'a.png', exif=exif)
  settings = prediction_settings.Settings(batch_size=1)
  image_folder.predict_folder(workdir, photos, tmp_path / 'out', settings)
  with Image.open(tmp_path / 'out' / 'a.jpg') as picture:
    assert picture.size == (80, 60)
  expected = mrpose_jax.load_predictor(workdir)(upright)
  keypoints = np.reshape(predictions(tmp_path / 'out')[0]['keypoints'], (1, 17, 3))
  np.testing.assert_allclose(keypoints, expected, atol=1e-3)


@pytest.mark.parametrize('name', ['track', 'smooth'])
def test_only_videos_have_identities(workdir, tmp_path, name):
  photos = write_images(tmp_path / 'photos', 'a.png')
  with pytest.raises(errors.ConfigError, match='--track and --smooth need a video'):
    image_folder.predict_folder(
      workdir, photos, tmp_path / 'out', prediction_settings.Settings(**{name: True})
    )
  assert not (tmp_path / 'out').exists()
