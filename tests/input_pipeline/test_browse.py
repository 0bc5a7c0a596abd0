"""The sheets show what a training run sees."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import training_step
from mrpose_jax import visualize
from mrpose_jax.input_pipeline import browse
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from tests.helpers import tiny_people


@pytest.fixture(scope='module')
def config():
  return tiny_people.config()


@pytest.fixture(scope='module')
def dataset(config):
  return prepared_data.open_dataset('coco', config.data.data_dir)


def test_a_sheet_for_each_split(config, tmp_path):
  written = browse.browse(config, tmp_path / 'sheets', num=6)
  assert [path.name for path in written] == ['train.png', 'mirrored.png', 'validation.png']
  # Crops of 128 x 96 enlarged twice or three times, below each row a caption and a gap.
  sizes = (2 * 192, 256), (2 * 288 + 4, 384), (192, 256)
  for path, columns, (width, height) in zip(written, (4, 4, 6), sizes):
    with Image.open(path) as sheet:
      assert sheet.size[0] == columns * (width + 4) + 4
      assert sheet.size[1] == -(-6 // columns) * (height + 16 + 4) + 4
      assert np.asarray(sheet).std() > 20


def test_the_crops_are_those_of_the_training_steps(config, dataset):
  batch_size = config.train.batch_size
  cells = list(itertools.islice(browse.training_cells(dataset, config), 2 * batch_size))
  make_examples = training_step.make_examples(
    predict.codec_of(config), augment.Augmentation(**config.augment), dataset.skeleton, config.seed
  )
  batches = loader.train_batches(dataset, batch_size, config.seed)
  for step, batch in zip(range(2), batches):
    examples = make_examples(step, batching.unpack(batch))
    crops = augment.to_pixels(np.asarray(examples.inputs), 'rgb')
    for n in range(batch_size):
      cell, caption = cells[step * batch_size + n]
      assert caption.startswith(f'step {step}, row {n}: ')
      assert caption.endswith('mirrored') == bool(examples.draws.flip[n])
      expected = browse.draw(crops[n], examples.keypoints[n], examples.visible[n], dataset.skeleton)
      # Compiled and uncompiled code may round a pixel between two values differently.
      difference = np.abs(cell[:, :192].astype(int) - expected)
      assert difference.mean() < 0.05


def test_keypoints_lie_on_their_heatmaps(config, dataset):
  """The right half glows where the left half has a keypoint."""
  make_examples = training_step.make_examples(
    predict.codec_of(config), augment.Augmentation(**config.augment), dataset.skeleton, config.seed
  )
  batch = next(loader.train_batches(dataset, config.train.batch_size, config.seed))
  examples = make_examples(0, batching.unpack(batch))
  cells = browse.training_cells(dataset, config)
  for n, (cell, _) in zip(range(config.train.batch_size), cells):
    glow = np.ptp(cell[:, 192:].astype(int), axis=-1)  # everything else is grey
    seen = np.asarray(examples.weights[n]) > 0
    for x, y in 2 * np.asarray(examples.keypoints[n])[seen] + 0.5:
      if 0 <= x < 192 and 0 <= y < 256:
        assert glow[int(y), int(x)] > 80


def test_validation_crops_carry_their_annotations(config, dataset):
  """Each crop shows a keypoint in the colour of the body's middle, such as the nose."""
  cells = dict((caption, cell) for cell, caption in browse.validation_cells(dataset, config))
  people = sum(len(record['people']['person_id']) for record in dataset.source('validation'))
  assert len(cells) == people
  middle = np.array(visualize.SIDE_COLORS['middle'])
  for cell in cells.values():
    assert (np.abs(cell.astype(int) - middle).max(-1) < 40).any()


@pytest.mark.parametrize('pairs', [skeletons.COCO.flip_pairs, ()])
def test_a_mirrored_twin_has_each_side_where_the_person_has_it(config, dataset, pairs):
  """Without pairs the blue side of the crop is blue in the twin, which is then its right side."""
  skeleton = dataclasses.replace(dataset.skeleton, flip_pairs=pairs)
  changed = dataclasses.replace(dataset, skeleton=skeleton)
  colors = [np.array(visualize.SIDE_COLORS[side]) for side in ('left', 'right')]
  same = exchanged = 0
  for cell, caption in itertools.islice(browse.mirrored_cells(changed, config), 4):
    assert caption.startswith('mirrored: left_eye - right_eye' if pairs else 'mirrored: no flip')
    crop, twin = cell[:, :288].astype(int), cell[:, -288:][:, ::-1].astype(int)
    left, right = ((np.abs(crop - color).max(-1) < 12) for color in colors)
    twin_left, twin_right = ((np.abs(twin - color).max(-1) < 12) for color in colors)
    same += (left & twin_left).sum() + (right & twin_right).sum()
    exchanged += (left & twin_right).sum() + (right & twin_left).sum()
  assert (exchanged > 5 * same) if pairs else (same > 5 * exchanged)
