"""Checks of a configuration before a run, and the data and the workdir that it names."""

import contextlib
import dataclasses
import logging
import math

import ml_collections

from mrpose_jax import defaults
from mrpose_jax import errors
from mrpose_jax import optimizers
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import mixing
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import records
from mrpose_jax.metrics import choice
from mrpose_jax.runtime import data_copies
from mrpose_jax.runtime import number_types
from mrpose_jax.runtime import parallel
from mrpose_jax.runtime import run_locks
from mrpose_jax.weights import hub

log = logging.getLogger(__name__)


def check(config: ml_collections.ConfigDict):
  """Raises ConfigError for invalid values, before data are read and programs are compiled."""
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
  optimizers.check(config.train)
  if config.train.profile_steps < 0:
    raise errors.ConfigError(f'train.profile_steps={config.train.profile_steps}: must be 0 or more')
  if config.model.channel_order not in ('rgb', 'bgr'):
    raise errors.ConfigError(
      f"model.channel_order={config.model.channel_order!r}: use 'rgb' or 'bgr'"
    )
  try:
    augment.Augmentation(**config.augment)
    predict.codec_of(config)
    predict.mean_scale(config)
  except ValueError as error:
    raise errors.ConfigError(str(error)) from error
  choice.check_names(config.eval)
  if config.eval.detections:
    paths.parse_local(config.eval.detections, 'eval.detections')
  if config.model.pretrained and not hub.is_address(config.model.pretrained):
    paths.parse(config.model.pretrained)
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


def open_dataset(config: ml_collections.ConfigDict) -> prepared_data.Dataset:
  """Opens the prepared data; synthetic_people, which need no source files, are drawn on first use.

  Raises:
    ConfigError: the data were prepared for crops of another aspect, or flip pairs or sigmas do not
      match the keypoints, or the chosen metrics do not exist for them.
  """
  dataset = _open(config, config.data.name, config.data.data_dir)
  try:
    skeleton = skeletons.change(dataset.skeleton, config.data.flip_pairs, config.data.sigmas)
  except ValueError as error:
    raise errors.ConfigError(f'data.{error}') from error
  if not skeleton.flip_pairs:
    log.warning('%s: no flip pairs are known%s', dataset.folder, _without_pairs(config, skeleton))
  if not 0 <= config.train.hard_keypoints <= skeleton.num_keypoints:
    raise errors.ConfigError(
      f'train.hard_keypoints={config.train.hard_keypoints}: {config.data.name} has '
      f'{skeleton.num_keypoints} keypoints'
    )
  dataset = dataclasses.replace(dataset, skeleton=skeleton)
  choice.check(config.eval, dataset)
  return dataset


def open_mix(
  config: ml_collections.ConfigDict, dataset: prepared_data.Dataset
) -> prepared_data.Dataset:
  """Returns the data set with the members of data.mix, which are then trained on in its place.

  Checks that what is trained on suits the augmentation. Logs the share of each member and its
  keypoints. Without data.mix, the data set stays as it is.

  Args:
    config: the configuration.
    dataset: from `open_dataset`; names the keypoints.

  Raises:
    ConfigError: data.mix or data.synonyms are malformed, or data were prepared for smaller crops
      than augment.* asks for, or a member was prepared for other crops or has no such keypoint.
    DataError: a member is not prepared, or has no split train.
  """
  mix = tuple(_open_member(config, dataset, entry) for entry in config.data.mix)
  _check_augmentation(config, dataset.skeleton, [member.dataset for member in mix] or [dataset])
  if not mix:
    return dataset
  folders = [member.dataset.folder.resolve() for member in mix]
  for folder in folders:
    if folders.count(folder) > 1:
      raise errors.ConfigError(f'data.mix: names {folder} twice; name it once, with both weights')
  known = [dataset.skeleton, *(member.dataset.skeleton for member in mix)]
  for name in (name for group in config.data.synonyms for name in group):
    if not any(name in skeleton.keypoints for skeleton in known):
      raise errors.ConfigError(f'data.synonyms: no data set has a keypoint {name!r:.60}')
  dataset = dataclasses.replace(dataset, mix=mix)
  _log_mix(dataset)
  return dataset


def _open_member(config, dataset, entry):
  """Opens the data set of an entry (name, folder, weight) of data.mix."""
  try:
    name, data_dir, weight = entry
    usable = isinstance(name, str) and isinstance(data_dir, str) and 0 < weight < math.inf
  except (TypeError, ValueError):
    usable = False
  if not usable:
    raise errors.ConfigError(
      f'data.mix: {entry!r:.200} is not (name, folder, weight) with a weight above 0, as in '
      "--config.data.mix=\"(('coco','runs/data',3),('mpii','runs/data',1))\""
    )
  other = _open(config, name, data_dir)
  if other.crops['padding'] != dataset.crops['padding']:
    raise errors.ConfigError(
      f'data.mix: {other.folder} was prepared with boxes padded by {other.crops["padding"]:g}, '
      f'{dataset.folder} by {dataset.crops["padding"]:g}; {records.PREPARE_AGAIN}'
    )
  try:
    positions = skeletons.match(dataset.skeleton, other.skeleton, config.data.synonyms)
  except ValueError as error:
    raise errors.ConfigError(f'data.{error}') from error
  if max(positions) < 0:
    raise errors.ConfigError(
      f'data.mix: no keypoint of {other.folder} ({", ".join(other.skeleton.keypoints)}) is one of '
      f'{dataset.folder} ({", ".join(dataset.skeleton.keypoints)}); names that mean the same can '
      'be given as data.synonyms'
    )
  return prepared_data.Member(other, float(weight), positions)


def _open(config, name, data_dir):
  """Opens a data set whose patches have the shape of the configuration's crops."""
  if name == 'synthetic_people' and not paths.in_bucket(data_dir):
    folder = paths.parse_local(data_dir, '--data_dir') / name
    if not prepared_data.newest(path.name for path in folder.glob('*')):
      from mrpose_jax.input_pipeline import prepare  # inside, because it imports TFDS

      log.info('%s', prepare.prepare(name, None, data_dir))
  dataset = prepared_data.open_dataset(name, data_copies.local_folder(name, data_dir))
  height, width = config.data.image_size
  if not math.isclose(width / height, dataset.crops['aspect'], rel_tol=1e-3):
    raise errors.ConfigError(
      f'data.image_size={height, width}: {name} in {data_dir} was prepared for width / height = '
      f'{dataset.crops["aspect"]:g}; choose a size with this ratio, or '
      f'{_prepare_again(dataset, aspect=width / height)}'
    )
  return dataset


def _check_augmentation(config, skeleton, trained: list[prepared_data.Dataset]):
  """Raises ConfigError if training crops can show more than the prepared patches hold.

  Also if there are to be crops of half of a body, and the skeleton has no two halves. Warns if
  patches have fewer pixels than crops.
  """
  augmentation = augment.Augmentation(**config.augment)
  needed = {
    'scale': augmentation.largest_scale,
    'shift': augmentation.shift,
    'half_body': float(augmentation.half_body > 0),
  }
  for dataset in trained:
    has = {name: dataset.crops[name] for name in needed}
    if any(needed[name] > has[name] + 1e-6 for name in needed):
      larger = {name: max(needed[name], has[name]) for name in needed}
      raise errors.ConfigError(
        f'{dataset.folder}: its patches were cut for smaller crops than augment.* asks for '
        f'({", ".join(f"{name} {value:g}" for name, value in has.items())}); '
        f'{_prepare_again(dataset, **larger)}'
      )
    canvas = math.hypot(*config.data.image_size) * (1 + has['scale'])
    if dataset.crops['canvas'] < canvas:
      log.warning(
        '%s: its patches have sides of %d pixels at most, so crops of %d x %d are blurred; %s',
        *(dataset.folder, dataset.crops['canvas'], *config.data.image_size),
        _prepare_again(dataset, canvas=64 * math.ceil(canvas / 64)),
      )
  lower = skeleton.lower_body()
  if augmentation.half_body and len(set(lower)) < 2:
    raise errors.ConfigError(
      f'augment.half_body={augmentation.half_body}: {config.data.name} has no keypoints of the '
      f'{"upper" if all(lower) else "lower"} half of a body (by names such as hip, knee, ankle)'
    )


def _prepare_again(dataset, **changed) -> str:
  """The command that prepares a data set for crops with some settings changed."""
  crops = dataset.crops | changed
  settings = [f'--{name}={crops[name]:.6g}' for name in ('aspect', 'canvas', 'scale', 'shift')]
  settings += ['--half_body'] * bool(crops['half_body'])
  return (
    'prepare it again, with the --source, --data_dir, sets and categories of before: '
    f'python -m mrpose_jax.input_pipeline.prepare --dataset={dataset.folder.parent.name} '
    f'{" ".join(settings)} --overwrite'
  )


def _log_mix(dataset):
  """Logs what is trained on, and warns of keypoints that none of it has."""
  trained = mixing.TrainingRecords(dataset)
  total = sum(member.weight for member in dataset.mix)
  names = dataset.skeleton.keypoints
  for member, size in zip(dataset.mix, trained.sizes):
    share, theirs = member.weight / total, member.dataset.skeleton.keypoints
    groups = {
      'matched': [
        name if theirs[position] == name else f'{name} ({theirs[position]})'
        for name, position in zip(names, member.positions)
        if position >= 0
      ],
      'missing': [name for name, position in zip(names, member.positions) if position < 0],
      'dropped': [name for i, name in enumerate(theirs) if i not in member.positions],
    }
    log.info(
      'data.mix: %s: %.1f %% of each step, its %d people %.3g times an epoch; keypoints %s',
      *(member.dataset.folder, 100 * share, size, share * len(trained) / size),
      '; '.join(f'{group}: {", ".join(found) or "none"}' for group, found in groups.items()),
    )
  if all(not member.dataset.folder.samefile(dataset.folder) for member in dataset.mix):
    log.info('data.mix: %s is evaluated on, not trained on', dataset.folder)
  untrained = [name for k, name in enumerate(names) if all(m.positions[k] < 0 for m in dataset.mix)]
  if untrained:
    log.warning(
      'data.mix: no data set has %s, which the network therefore does not learn',
      ', '.join(untrained),
    )


def _without_pairs(config, skeleton):
  """What a run without flip pairs does and, if the names give pairs, how to use them."""
  settings = {'augment.flip': config.augment.flip, 'eval.flip_test': config.eval.flip_test}
  on = ' and '.join(f'{name}={value}' for name, value in settings.items() if value)
  told = f'; {skeletons.NO_PAIRS}'
  if on:
    told = (
      f', although {on}: a mirrored crop keeps the name of every keypoint, which is right only if '
      'mirroring moves no keypoint to the place of another one; otherwise set data.flip_pairs'
    )
  names = skeleton.keypoints
  pairs = ','.join(f"('{names[a]}','{names[b]}')" for a, b in skeletons.mirror_pairs(names))
  if pairs:
    told += (
      '. The names give pairs, which data of an older preparation lack: prepare again with '
      f'--overwrite, or set --config.data.flip_pairs="({pairs},)"'
    )
  return told


@contextlib.contextmanager
def hold_workdir(config: ml_collections.ConfigDict, workdir: paths.Path):
  """Context that locks the workdir against other runs; creates it if it is missing.

  It gives the lock, see `run_locks.acquire`; None in processes other than process 0.

  Raises:
    ConfigError: the workdir cannot be created or written to.
    CheckpointError: another run trains in it, or it holds another network; see `match_workdir`.
  """
  lock = None
  with contextlib.ExitStack() as stack:
    if parallel.is_main():
      lock = stack.enter_context(contextlib.closing(run_locks.acquire(workdir)))
    file = workdir / 'config.json'
    if file.exists():
      stored = paths.read_json(file)
      match_workdir(config, stored, workdir)
      number_types.go_on(config, stored)
    yield lock


def match_workdir(config: ml_collections.ConfigDict, stored: dict, workdir):
  """Checks that a workdir holds the configured network, and copies its channel order to `config`.

  The channel order is a property of the weights in the workdir.

  Raises:
    CheckpointError: the workdir holds another network than the configuration asks for.
  """
  requested = config.to_dict()
  names = [
    *(('model', name) for name in ('network', 'depth', 'width')),
    *(('data', name) for name in ('name', 'image_size', 'codec')),
  ]
  # Workdirs that are older than a field were trained with its default.
  default = defaults.get_config().to_dict()
  values = {
    (section, name): (
      _plain(stored[section].get(name, default[section][name])),
      _plain(requested[section][name]),
    )
    for section, name in names
  }
  different = [
    f'{section}.{name} is {held!r} in the workdir and {asked!r} in this configuration'
    for (section, name), (held, asked) in values.items()
    if held != asked
  ]
  if different:
    raise errors.CheckpointError(
      f'{workdir} holds another network: {"; ".join(different)}; choose another --workdir, or the '
      'configuration of that network'
    )
  config.model.channel_order = stored['model']['channel_order']


def differences(stored: dict, current: dict) -> list[str]:
  """Fields whose values differ, as 'section.field was A, is B'; new and removed fields are not."""
  return [
    f'{section}.{name} was {_plain(stored[section][name])!r}, is {_plain(value)!r}'
    for section, fields in current.items()
    if isinstance(fields, dict)
    for name, value in fields.items()
    if name in stored.get(section, {}) and _plain(stored[section][name]) != _plain(value)
  ]


def _plain(value):
  """Tuples as lists, which is what JSON stores."""
  return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
