"""The example of another task: masks of drawn people by the pose networks' encoder and decoder."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from examples import masks
from examples import masks_config
from mrpose_jax import errors
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.models import decoders
from mrpose_jax.models import pose_network
from tests import test_docs

SMALL = {
  **{'width': 4, 'image_size': (32, 32), 'batch_size': 8, 'steps': 40},
  **{'train_images': 6, 'validation_images': 8},
}


@pytest.fixture(scope='module')
def config():
  config = masks_config.get_config()
  config.update(SMALL)
  return config


@pytest.fixture(scope='module')
def people(config):
  return masks.draw_people('train', config.train_images, seed=0)


def rectangle(box, rows, columns) -> masks.Person:
  """A person in a picture of noise, with a rectangle as mask."""
  image = np.random.default_rng(0).integers(0, 256, (200, 180, 3), np.uint8)
  mask = np.zeros((200, 180), bool)
  mask[rows, columns] = True
  return masks.Person(image, mask, np.array(box, np.float32))


def test_iou_by_hand():
  target = np.zeros((4, 6, 6), bool)
  target[:3, 1:4, 1:4] = True  # 9 pixels; the last mask is empty
  predicted = np.zeros_like(target)
  predicted[0] = target[0]
  predicted[1, 2:5, 1:4] = True  # 6 of 12 pixels are common
  np.testing.assert_allclose(masks.iou(predicted, target), [1, 0.5, 0, 1])


def test_mask_and_picture_are_cropped_alike():
  """The region of this box is 96 pixels wide, so that the crop's pixels are the picture's."""
  person = rectangle((57.6, 57.6, 76.8, 76.8), slice(60, 80), slice(70, 100))
  batch = masks.batch_of([person], aspect=1.0)
  inputs, cropped = jax.jit(lambda *batch: masks.crop((96, 96), *batch))(*batch)
  expected = np.zeros((96, 96))
  expected[12:32, 22:52] = 1
  np.testing.assert_allclose(cropped[0], expected, atol=1e-4)
  pixels = augment.to_pixels(np.asarray(inputs[0]), 'rgb')
  np.testing.assert_array_equal(pixels, person.image[48:144, 48:144])

  # Mirrored about the region's centre, column 48 of the crop, at half the zoom.
  drawn = augment.Draw(np.full(1, 2, np.float32), np.zeros(1, np.float32), np.ones(1, bool))
  _, mirrored = jax.jit(lambda *batch: masks.crop((96, 96), *batch, drawn))(*batch)
  rows, columns = np.nonzero(np.asarray(mirrored[0]) == 1)
  assert (rows.min(), rows.max()) == (30, 39)  # 48 + (12..31 - 48) / 2
  assert (columns.min(), columns.max()) == (47, 61)  # 48 - (22..51 - 48) / 2


def test_drawn_people(config, people):
  assert len(people) > config.train_images
  for person in people:
    box = masks.fill_box(person).mask
    assert box.sum() == person.box[2:].prod()
    assert person.mask.any() and not (person.mask & ~box).any()


def test_training_and_evaluation(config, people):
  variables, losses = masks.train(config, people)
  assert len(losses) == config.steps
  assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])

  # People whose mask is their box, one more than a batch.
  boxes = [rectangle((40, 30, 60, 90), slice(30, 120), slice(40, 100))] * (config.batch_size + 1)
  scores, picture = masks.evaluate(config, variables, boxes, boxes)
  assert list(scores) == ['box', 'mean mask', 'mrfeanet2']
  assert scores['box'] == scores['mean mask'] == 1
  assert 0 <= scores['mrfeanet2'] <= 1
  assert picture.shape[2] == 3 and picture.shape[1] > masks.NUM_SHOWN * config.image_size[1]

  def target(inputs, true):
    return true > 0.5

  repeated = masks.apply_to_people(target, boxes, config)
  assert repeated.shape == (config.batch_size + 1, 32, 32)


@pytest.mark.parametrize('name', decoders.DECODERS)
def test_every_decoder_and_its_names(name):
  """The encoder's variables have the names of a pose checkpoint's."""
  model = masks.MaskNetwork(name, 18, 4)
  images = jax.ShapeDtypeStruct((2, 64, 32, 3), np.float32)
  logits, variables = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
  )
  assert logits.shape == (2, 64, 32)
  pose = training_step.abstract_variables(pose_network.create_model(name, 18, 1, width=4))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, pose)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('decoder', 'unet', 'decoder=unet: use one of simple_baseline, mrheatnet1'),
    ('depth', 20, 'depth=20: use one of 18, 34'),
    ('steps', 0, 'steps=0: must be positive'),
    ('image_size', (96, 100), r'image_size=\(96, 100\): give multiples of 32'),
  ],
)
def test_wrong_values(config, field, value, message):
  config = config.copy_and_resolve_references()
  config[field] = value
  with pytest.raises(errors.ConfigError, match=message):
    masks.check(config)


def test_the_command(tmp_path):
  fields = [f'--config.{name}={value}' for name, value in SMALL.items()]
  file = '--config=examples/masks_config.py'
  command = (sys.executable, '-m', 'examples.masks', file, f'--output={tmp_path}', *fields)
  done = subprocess.run(
    command, cwd=test_docs.ROOT, env=os.environ, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert '| | IoU |' in done.stdout and '| mrfeanet2 |' in done.stdout
  with Image.open(tmp_path / 'masks.png') as picture:
    assert picture.width > masks.NUM_SHOWN * 32
