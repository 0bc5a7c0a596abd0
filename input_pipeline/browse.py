"""Shows the crops that the network is trained and evaluated on, before a long run.

  python -m mrpose_jax.input_pipeline.browse --config=configs/quickstart.py --output=FOLDER

train.png shows the first 32 crops (--num) of a training run with this configuration, exactly as its
steps make them, with their keypoints; beside each crop is the sum of its target heatmaps. In a mix
of data sets, the caption ends with the folder and name of the person's data set. validation.png
shows the crops of an evaluation, of the mean of `eval.scales`, with the annotated keypoints where
they exist. Left limbs are blue and right limbs are red, whether or not the crop is mirrored.

mirrored.png shows each of the first training crops beside its mirrored twin, with the names of the
keypoints. Where the flip pairs are right, a name is at the same part of the body in both: the left
ear of the twin is the one on its own left. Where a pair is missing, both names stay where they are
and so are exchanged on the body.
"""

import functools
import itertools
import math
import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from absl import flags
from jax import numpy as jnp
from PIL import Image

from mrpose_jax import command_line
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import training_step
from mrpose_jax import visualize
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import transfer
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import parallel

# Small crops are enlarged to at least this many rows, so that the lines drawn on them are thin.
ROWS = 256
COLUMNS = 8
# Crops with the names of their keypoints are enlarged to at least this many rows.
NAMED_ROWS = 384


def browse(config: ml_collections.ConfigDict, output, num: int = 32) -> list[pathlib.Path]:
  """Writes one sheet of crops for each prepared split, and one of mirrored training crops.

  Args:
    config: see mrpose_jax/defaults.py.
    output: folder; created if missing.
    num: number of crops on a sheet.

  Returns:
    The files written.

  Raises:
    ConfigError, DataError: a setting or data that cannot be used; the message says what to do.
  """
  output = paths.parse_local(output, '--output', written=True)
  configuration.check(config)
  dataset = configuration.open_mix(config, configuration.open_dataset(config))
  output.mkdir(parents=True, exist_ok=True)
  written = []
  for name, split, cells_of, columns in (
    ('train', 'train', training_cells, COLUMNS // 2),
    ('mirrored', 'train', mirrored_cells, COLUMNS // 2),
    ('validation', 'validation', validation_cells, COLUMNS),
  ):
    if split not in dataset.annotation_files and not (split == 'train' and dataset.mix):
      continue
    cells, captions = zip(*itertools.islice(cells_of(dataset, config), num))
    sheet = visualize.contact_sheet(cells, min(columns, len(cells)), cells[0].shape[:2], captions)
    written.append(output / f'{name}.png')
    Image.fromarray(sheet).save(written[-1])
  return written


def training_cells(dataset, config):
  """Yields (crop beside its heatmaps, caption) for each person, step by step."""
  codec = predict.codec_of(config)
  order = config.model.channel_order
  make_examples = training_step.make_examples(
    codec, augment.Augmentation(**config.augment), dataset.skeleton, config.seed, order
  )
  make_examples = jax.jit(make_examples)
  batches = loader.train_batches(dataset, config.train.batch_size, config.seed)
  for step, batch in enumerate(transfer.to_device(batches)):
    examples = jax.device_get(make_examples(step, batch))
    if dataset.mix:
      people = loader.people_of_step(dataset, config.train.batch_size, config.seed, step)
    crops = augment.to_pixels(examples.inputs, order)
    # The sum saturates softly: one keypoint is bright, and the five of a face remain distinct.
    heat = 1 - np.exp(-examples.target.sum(-1))  # [N, h, w]
    for n, crop in enumerate(crops):
      picture = draw(crop, examples.keypoints[n], examples.visible[n], dataset.skeleton)
      heatmaps = visualize.heat_over(enlarge(crop)[0], heat[n])
      caption = f'step {step}, row {n}: {describe(examples.draws, n)}'
      if dataset.mix:
        folder, _ = people[n]  # DATA_DIR/NAME/VERSION
        caption += f', {folder.parents[1].name}/{folder.parent.name}'
      yield np.hstack([picture, heatmaps]), caption


def mirrored_cells(dataset, config):
  """Yields (crop beside its mirrored twin, both with names, caption) for each person, in order."""
  codec, order = predict.codec_of(config), config.model.channel_order
  skeleton = dataset.skeleton

  @jax.jit
  def crops_of(batch, mirrored):
    ones = jnp.ones(batch.patches.shape[0], jnp.float32)
    drawn = augment.Draw(scale=ones, rotation=0 * ones, flip=(mirrored * ones) > 0)
    return augment.crop_people(batch, drawn, codec, skeleton, order)

  caption = f'mirrored: {skeletons.named_pairs(skeleton) or "no flip pairs"}'
  batches = loader.train_batches(dataset, config.train.batch_size, config.seed)
  for batch in transfer.to_device(batches):
    twins = jax.device_get([crops_of(batch, mirrored) for mirrored in (False, True)])
    for n in range(len(batch.patches)):
      pictures = [
        draw(augment.to_pixels(inputs[n], order), points[n], visible[n], skeleton, NAMED_ROWS)
        for inputs, points, visible in twins
      ]
      between = np.zeros((len(pictures[0]), 4, 3), np.uint8)
      yield np.hstack([pictures[0], between, pictures[1]]), caption


def validation_cells(dataset, config):
  """Yields (crop, caption) for each box."""
  codec, order = predict.codec_of(config), config.model.channel_order
  scale = predict.mean_scale(config)
  detections = None
  if config.eval.detections:
    detections = detection_files.read(
      *(config.eval.detections, config.eval.detection_threshold),
      *(dataset.category_ids, dataset.image_ids),
    )

  @jax.jit
  def crop_people(batch):
    batch = batch._replace(size=scale * batch.size)
    return augment.crop_people(batch, None, codec, dataset.skeleton, order)[0]

  labels = _Labels(dataset)
  batches = loader.evaluation_batches(
    dataset, config.eval.batch_size, config.eval.canvas, detections, scale=scale
  )
  for batch, rows in transfer.to_device(batches):
    crops = augment.to_pixels(jax.device_get(crop_people(batch)), order)
    matrices = codec.region_to_crop(rows.center, scale * rows.size)
    for n, (image_id, person_id) in enumerate(zip(rows.image_ids, rows.person_ids)):
      keypoints, visible = labels.of(int(person_id))
      points = geometry.transform(matrices[n], keypoints)
      caption = f'person {person_id}' if person_id >= 0 else f'detection on {image_id}'
      yield draw(crops[n], points, visible, dataset.skeleton), caption


def describe(draws: augment.Draw, n: int) -> str:
  """Describes in words how crop n was augmented."""
  words = [f'{draws.rotation[n]:+.0f} degrees', f'size x{draws.scale[n]:.2f}']
  words += ['mirrored'] * bool(draws.flip[n])
  if draws.half_body is not None and draws.half_body[n]:
    words.append('half of the body, if enough of it is labelled')
  return ', '.join(words)


def draw(crop, keypoints, visible, skeleton, named_rows=None):
  """Draws the labelled keypoints and limbs on an enlarged crop.

  With `named_rows`, the crop has at least that many rows and the keypoints have their names.
  """
  crop, zoom = enlarge(crop, named_rows or ROWS)
  points = (np.asarray(keypoints) + 0.5) * zoom - 0.5
  person = np.concatenate([points, np.asarray(visible)[:, None] > 0], -1)
  picture = visualize.draw_people(crop, person[None], skeleton)
  return visualize.draw_names(picture, person, skeleton) if named_rows else picture


def enlarge(crop, rows=ROWS):
  """Returns the crop enlarged to at least `rows` rows, and the enlargement factor."""
  zoom = math.ceil(rows / crop.shape[0])
  return crop.repeat(zoom, 0).repeat(zoom, 1), zoom


class _Labels:
  """The keypoints of validation people; records are read only as far as needed."""

  def __init__(self, dataset):
    num_keypoints = dataset.skeleton.num_keypoints
    self._people = {-1: (np.zeros((num_keypoints, 2)), np.zeros(num_keypoints))}  # -1: a detection
    self._records = iter(dataset.source('validation'))

  def of(self, person_id: int):
    """Returns keypoints [K, 2] in image pixels, and visible [K]."""
    while person_id not in self._people:
      people = {name: np.asarray(values) for name, values in next(self._records)['people'].items()}
      ids = people['person_id'].tolist()
      self._people.update(zip(ids, zip(people['keypoints'], people['visible'])))
    return self._people[person_id]


def define_flags() -> Callable[[], ml_collections.ConfigDict]:
  """Defines the flags of the command; the returned function reads --config."""
  flags.DEFINE_string('output', None, 'Folder for train.png, mirrored.png and validation.png.')
  flags.DEFINE_integer('num', 32, 'Number of crops on a sheet.', lower_bound=1)
  return command_line.define_config()


def main(read_config, arguments):
  command_line.no_arguments(arguments)
  output = command_line.given(flags.FLAGS['output'], 'a folder to write to')
  parallel.start_devices()
  for path in browse(read_config(), output, flags.FLAGS.num):
    print(path)


if __name__ == '__main__':
  command_line.run(functools.partial(main, define_flags()))
