"""Configurations that cannot be run, or not here, and the data that they name."""

import contextlib
import dataclasses
import fcntl
import logging
import math
import os
import pathlib
import socket

import ml_collections

from input_pipeline.device import augment
from input_pipeline.host import loader
from mrpose_jax import errors
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)


def check(config: ml_collections.ConfigDict):
  """Raises ConfigError for values that cannot be run, before anything is read or compiled."""
  size = config.data.image_size
  if len(size) != 2 or any(n < 32 or n % 32 for n in size):
    raise errors.ConfigError(
      f'data.image_size={tuple(size)}: give (height, width), multiples of 32'
    )
  parallel.check_batch_size('train.batch_size', config.train.batch_size)
  parallel.check_batch_size('eval.batch_size', config.eval.batch_size)
  for name in ('epochs', 'learning_rate', 'log_every', 'evaluate_every', 'checkpoint_every'):
    if not config.train[name] > 0:
      raise errors.ConfigError(f'train.{name}={config.train[name]}: must be positive')
  if config.model.channel_order not in ('rgb', 'bgr'):
    raise errors.ConfigError(f"model.channel_order={config.model.channel_order!r}: 'rgb' or 'bgr'")
  try:
    augment.Augmentation(**config.augment)
    predict.codec_of(config)
  except ValueError as error:
    raise errors.ConfigError(str(error)) from error
  predict.model_of(config, num_keypoints=1)
  parts = config.train.accumulate
  if parts < 1 or config.train.batch_size % parts:
    raise errors.ConfigError(f'train.accumulate={parts}: must divide train.batch_size')
  parallel.check_batch_size('train.batch_size / train.accumulate', config.train.batch_size // parts)
  if config.train.batch_size // parts % config.model.norm_groups:
    raise errors.ConfigError(
      f'model.norm_groups={config.model.norm_groups}: must divide the '
      f'{config.train.batch_size // parts} people of train.batch_size / train.accumulate'
    )


def open_dataset(config: ml_collections.ConfigDict) -> loader.Dataset:
  """The prepared data; synthetic_people, which need no files, are drawn on first use.

  Raises:
    ConfigError: the patches were cut for crops that this configuration does not make, or flip
      pairs or sigmas do not go with the keypoints.
  """
  name, data_dir = config.data.name, config.data.data_dir
  if name == 'synthetic_people':
    from input_pipeline import prepare  # here, because it defines the flags of its command

    log.info('%s', prepare.prepare(name, None, data_dir))
  dataset = loader.open_dataset(name, data_dir)
  height, width = config.data.image_size
  if not math.isclose(width / height, dataset.crops['aspect'], rel_tol=1e-3):
    raise errors.ConfigError(
      f'data.image_size={height, width}: {name} was prepared for width / height = '
      f'{dataset.crops["aspect"]:g}; choose a size of that, or prepare again with '
      f'--aspect={width / height:g} --overwrite'
    )
  if config.augment.scale > dataset.crops['scale'] + 1e-6:
    raise errors.ConfigError(
      f'augment.scale={config.augment.scale}: {name} was prepared for at most '
      f'{dataset.crops["scale"]:g}; prepare it again with a larger --scale and --overwrite'
    )
  try:
    skeleton = skeletons.change(dataset.skeleton, config.data.flip_pairs, config.data.sigmas)
  except ValueError as error:
    raise errors.ConfigError(f'data.{error}') from error
  return dataclasses.replace(dataset, skeleton=skeleton)


@contextlib.contextmanager
def hold_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path):
  """While entered, no other run trains in the workdir, which is made if it is not there.

  The kernel lets go of the lock when the process ends, however it ends.

  Raises:
    ConfigError: it cannot be made or written to.
    CheckpointError: another run trains there, or it holds another network; see `match_workdir`.
  """
  with contextlib.ExitStack() as stack:
    if parallel.is_main():
      try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(open(workdir / '.lock', 'a+', encoding='utf-8'))
      except OSError as error:
        raise errors.ConfigError(
          f'--workdir={workdir}: cannot be written to ({error.strerror})'
        ) from error
      _lock(lock, workdir)
    file = workdir / 'config.json'
    if file.exists():
      match_workdir(config, checkpoint.read_json(file), workdir)
    yield


def _lock(file, workdir):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    raise errors.CheckpointError(
      f'{workdir}: another run trains here ({file.read()}); choose another --workdir'
    ) from error
  except OSError:
    log.warning('%s: a file system without locks; start only one run in it', workdir)
  file.truncate(0)
  file.write(f'process {os.getpid()} on {socket.gethostname()}')
  file.flush()


def match_workdir(config: ml_collections.ConfigDict, stored: dict, workdir):
  """Takes the channel order over from what a workdir holds, whose weights decide it.

  Raises:
    CheckpointError: the workdir holds another network than the configuration asks for.
  """
  asked = config.to_dict()
  names = [
    *(('model', name) for name in ('network', 'depth', 'width')),
    *(('data', name) for name in ('name', 'image_size')),
  ]
  different = [
    f'{section}.{name} is {_plain(stored[section][name])!r} there and '
    f'{_plain(asked[section][name])!r} here'
    for section, name in names
    if _plain(stored[section][name]) != _plain(asked[section][name])
  ]
  if different:
    raise errors.CheckpointError(
      f'{workdir} holds another network: {"; ".join(different)}; choose another --workdir, or its '
      'configuration'
    )
  config.model.channel_order = stored['model']['channel_order']


def _plain(value):
  return list(value) if isinstance(value, tuple) else value
