"""Converts the official files of a data set to ArrayRecord shards, once.

  python -m mrpose_jax.input_pipeline.prepare --dataset=coco --source=/data/coco --data_dir=/data
  python -m mrpose_jax.input_pipeline.prepare --dataset=mpii --source=/data/mpii --data_dir=/data
  python -m mrpose_jax.input_pipeline.prepare --dataset=synthetic_people --data_dir=runs/data

Exit codes: 0 done (also if the same was prepared before), 2 wrong flags, 3 unusable data.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import tensorflow_datasets as tfds
from absl import flags

from mrpose_jax import command_line
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.datasets import coco
from mrpose_jax.input_pipeline.datasets import mpii
from mrpose_jax.input_pipeline.datasets import pose_builder
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
from mrpose_jax.input_pipeline.host import cores
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import records


class Known(NamedTuple):
  """A data set's builder, the finder of its files, its official sets, and its aspect ratio."""

  builder: type[pose_builder.PoseBuilder]
  find_split: Callable[[pathlib.Path, str], pose_builder.Split]
  train: str
  validation: str
  aspect: float


DATASETS = {
  'coco': Known(coco.Coco, coco.find_split, 'train2017', 'val2017', 192 / 256),
  'mpii': Known(mpii.Mpii, mpii.find_split, 'train', 'valid', 1.0),
  'synthetic_people': Known(
    coco.SyntheticPeople, coco.find_split, 'train', 'validation', 192 / 256
  ),
}
SYNTHETIC_IMAGES = {'train': 1600, 'validation': 200}
SYNTHETIC_SEED = 0
# One process reads fewer images than this before additional processes have started.
MANY_IMAGES = 2000


def prepare(
  dataset: str,
  source,
  data_dir,
  train: str | None = None,
  validation: str | None = None,
  canvas: int = 512,
  scale: float = 0.4,
  overwrite: bool = False,
  processes: int | None = None,
  aspect: float | None = None,
  shift: float = 0.0,
  half_body: bool = False,
  category: str | None = None,
) -> str:
  """Prepares a data set; an earlier preparation with the same settings is left unchanged.

  Args:
    dataset: a key of DATASETS.
    source: folder of the official files; not used for synthetic_people, whose pictures are drawn
      into data_dir first.
    data_dir: the data set is written to data_dir/dataset.
    train, validation: names of the sets; None for the official ones, '' to leave the split out. A
      validation of '0.1' is one tenth of the images of set train, which does not keep them.
    canvas, scale, shift, half_body: see `pose_builder.CropSettings`.
    overwrite: replace an earlier preparation.
    processes: number of processes that read and cut images; by default one per core that this
      process may use, or one for a small data set. The result does not depend on it.
    aspect: width / height of the network's input; None for 3/4, or 1 for MPII.
    category: category of a COCO file to prepare, 'all' for all; None for the only one that defines
      keypoints.

  Returns:
    A report with one line per split.

  Raises:
    ConfigError: both splits are left out, other files lie in the folder to replace, or `category`
      is given for a data set that has none.
    DataError: files that cannot be used, or an earlier preparation with other settings.
  """
  known = DATASETS[dataset]
  if category is not None and dataset != 'coco':
    raise errors.ConfigError(f'--categories: {dataset} has no categories; only coco has')
  data_dir = paths.parse_local(data_dir, '--data_dir', written=True)
  if dataset == 'synthetic_people':
    source = data_dir / 'synthetic_people_images'
    for split, count in SYNTHETIC_IMAGES.items():
      annotation_file = known.find_split(source, split).annotation_file
      if overwrite or not annotation_file.exists():
        with _lock(data_dir, dataset):
          # Another process may have drawn the split in the meantime.
          if overwrite or not annotation_file.exists():
            num_processes = processes or cores.available()
            synthetic_people.write_coco(source, split, count, SYNTHETIC_SEED, num_processes)
  source = paths.parse_local(source, '--source')
  if not source.is_dir():
    raise errors.DataError(f'--source={source}: there is no such folder')
  folder = data_dir / dataset
  if overwrite and folder.is_dir():
    _check_replaceable(folder)
  sets = {
    'train': known.train if train is None else train,
    'validation': known.validation if validation is None else validation,
  }
  share = _share(sets['validation'])
  if share and (dataset != 'coco' or not sets['train']):
    raise errors.ConfigError(
      f'--validation={sets["validation"]}: is a share of the images of --train, which has to be a '
      'set of --dataset=coco'
    )
  splits = {
    name: known.find_split(source, sets['train'] if share else image_set)
    for name, image_set in sets.items()
    if image_set
  }
  if share:
    for name, part in {'train': (share, 1.0), 'validation': (0.0, share)}.items():
      splits[name] = dataclasses.replace(splits[name], part=part)
  if not splits:
    raise errors.ConfigError('--train and --validation are both empty: nothing to prepare')
  for name, split in splits.items():
    if not split.annotation_file.exists():
      present = sorted(path.name for path in split.annotation_file.parent.glob('*.json'))
      raise errors.DataError(
        f'{split.annotation_file}: there is no such file '
        f'(found: {", ".join(present) or "no .json"}); '
        f"name the set with --{name}=SET, or leave the split out with --{name}=''"
      )

  # A replacement is written beside the old data, which stay until the new data are complete.
  replacement = data_dir / f'{dataset}.replacement'
  crops = pose_builder.CropSettings(
    aspect=aspect or known.aspect, scale=scale, canvas=canvas, shift=shift, half_body=half_body
  )
  builder = known.builder(
    splits=splits,
    crops=crops,
    category=category,
    data_dir=replacement if overwrite else data_dir,
  )
  num_images = sum(len(annotations.images) for annotations in builder.annotations.values())
  builder.processes = processes or (cores.available() if num_images >= MANY_IMAGES else 1)
  unchanged = f'{folder} was prepared before and stays as it is (--overwrite replaces it)'
  if not overwrite and _is_prepared(folder, builder):
    return unchanged
  with _lock(data_dir, dataset):
    if not overwrite and _is_prepared(folder, builder):
      return unchanged
    _remove_leftovers(folder, replacement)
    try:
      _write(builder)
      if overwrite:
        if folder.exists():
          folder.rename(replacement / 'old')
        (replacement / dataset).rename(folder)
    finally:
      _remove_leftovers(folder, replacement)
  return f'{builder.report()}\nwritten to {folder}'


def _share(image_set):
  """The fraction that the name of a set is, or None."""
  try:
    share = float(image_set)
  except ValueError:
    return None
  return share if 0 < share < 1 else None


def _check_replaceable(folder):
  """Raises ConfigError if the folder holds more than prepared data, perhaps the official files."""
  for path in sorted(folder.iterdir()):
    if not re.match(r'\.|\d+\.\d+\.\d+$', path.name) and 'incomplete' not in path.name:
      raise errors.ConfigError(
        f'--overwrite: {folder} would be replaced, but holds {path.name}, which is no prepared '
        'data; choose another --data_dir'
      )


def _is_prepared(folder, builder):
  """Whether `folder` was prepared with the builder's settings; raises DataError for other ones."""
  path = folder / str(builder.VERSION) / 'metadata.json'
  if not path.exists():
    return False
  metadata = records.read_json(path)
  complete = metadata.pop(pose_builder.IMAGES_SHA256, None) is not None
  metadata['crops'] = prepared_data.NEWER_CROPS | metadata.get('crops', {})
  with contextlib.suppress(AttributeError, KeyError, TypeError):  # damaged: not equal below
    skeleton = skeletons.from_dict(metadata['skeleton'])  # without sigmas that were assumed
    metadata['skeleton'] = json.loads(json.dumps(dataclasses.asdict(skeleton)))
  if not complete or metadata != json.loads(json.dumps(builder.settings)):
    raise errors.DataError(
      f'{folder}: was prepared with other settings, from other annotations or by an older version; '
      'replace it with --overwrite, or choose another --data_dir'
    )
  return True


def _write(builder: pose_builder.PoseBuilder):
  tfds.disable_progress_bar()
  # TFDS requires a download folder and reports a download, although nothing is downloaded.
  with (
    tempfile.TemporaryDirectory() as downloads,
    contextlib.redirect_stdout(io.StringIO()),
  ):
    builder.download_and_prepare(download_dir=downloads)


def _remove_leftovers(folder, replacement):
  """Removes the files that a killed or failed preparation has left."""
  if (replacement / 'old').exists() and not folder.exists():
    (replacement / 'old').rename(folder)  # the process ended between the two renames
  shutil.rmtree(replacement, ignore_errors=True)
  for path in folder.glob('*incomplete*'):
    shutil.rmtree(path, ignore_errors=True)
  with contextlib.suppress(OSError):
    folder.rmdir()  # only if it is empty


@contextlib.contextmanager
def _lock(data_dir, dataset):
  """Waits until no other process prepares this data set in `data_dir`, and keeps others waiting."""
  data_dir.mkdir(parents=True, exist_ok=True)
  with open(data_dir / f'.{dataset}.lock', 'w') as file:
    with contextlib.suppress(OSError):  # some file systems have no locks
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def define_flags():
  """Defines the flags of the command. Importing this module defines none."""
  flags.DEFINE_enum('dataset', None, sorted(DATASETS), 'Data set to prepare.')
  flags.DEFINE_string('source', '', 'Folder of the official files.')
  flags.DEFINE_string('data_dir', None, 'Folder to write prepared data sets into.')
  flags.DEFINE_string('train', None, "Set to train on, '' for none [the official set].")
  flags.DEFINE_string(
    'validation',
    None,
    "Set to evaluate on, '' for none, or a share of the images of --train, such as 0.1 [the "
    'official set].',
  )
  flags.DEFINE_integer('canvas', 512, 'Longest side of a training patch, in pixels.')
  flags.DEFINE_float('scale', 0.4, 'Largest scale augmentation to cut the patches for.')
  flags.DEFINE_float('shift', 0.0, 'Largest augment.shift to cut the patches for.', lower_bound=0)
  flags.DEFINE_bool('half_body', False, 'Cut the patches for augment.half_body as well.')
  flags.DEFINE_float(
    'aspect', None, "Width / height of the network's input [the data set's].", lower_bound=0.1
  )
  flags.DEFINE_integer(
    'processes',
    None,
    'Number of processes that read and cut images [one per core; one for few images].',
    lower_bound=1,
  )
  flags.DEFINE_string(
    'categories',
    None,
    "Name of the category to prepare, or 'all' for all, which then have the same keypoints [the "
    'only one with keypoints].',
  )
  flags.DEFINE_alias('category', 'categories')
  flags.DEFINE_bool('overwrite', False, 'Replace an earlier preparation.')


def main(arguments):
  command_line.no_arguments(arguments)
  values = flags.FLAGS
  print(
    prepare(
      values.dataset,
      values.source,
      values.data_dir,
      values.train,
      values.validation,
      values.canvas,
      values.scale,
      values.overwrite,
      values.processes,
      values.aspect,
      values.shift,
      values.half_body,
      values.categories,
    )
  )


if __name__ == '__main__':
  define_flags()
  flags.mark_flags_as_required(['dataset', 'data_dir'])
  command_line.run(main)
