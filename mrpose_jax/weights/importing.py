"""Imports weights into a workdir (--mode=import), and loads initial weights of a run."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping

import jax
import ml_collections

from mrpose_jax import errors
from mrpose_jax import optimizers
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax import skeletons
from mrpose_jax import training_step
from mrpose_jax.models import pose_network
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import run_locks
from mrpose_jax.weights import hub
from mrpose_jax.weights import torch_files

log = logging.getLogger(__name__)

KNOWN_SKELETONS = {'coco': skeletons.COCO, 'mpii': skeletons.MPII}
PADDING = 1.25  # of boxes, in all codebases whose weights can be imported


def import_weights(
  config: ml_collections.ConfigDict, weights, workdir, channel_order: str | None = None
):
  """Creates a workdir whose checkpoint of step 0 holds the imported network.

  Training in that workdir starts from it with a new optimizer state.

  Args:
    config: configuration of the network and its data set; coco and mpii need not be prepared.
    weights: path or arrays of PyTorch weights, see `torch_files.import_torch_weights`, or a network
      of this project such as a published one, see `predictors.load_predictor`.
    workdir: a new folder.
    channel_order: 'rgb' or 'bgr'; by default derived from the file, see
      `torch_files.channel_order_of`. A network of this project keeps its own.

  Raises:
    CheckpointError: the weights do not fit, or the workdir holds a run or is locked by one.
    ConfigError: the workdir cannot be written to.
    DataError: a data set other than coco and mpii is not prepared.
  """
  workdir = paths.parse(workdir)
  _check_new(workdir)
  if _is_network(weights):
    variables, meta, _ = predictors.restore(weights)
    configuration.match_workdir(config, meta['config'], weights)
    skeleton, crops = meta['skeleton'], meta['crops']
  else:
    skeleton = KNOWN_SKELETONS.get(config.data.name)
    if skeleton is None:
      skeleton = configuration.open_dataset(config).skeleton
    tensors = torch_files.read(weights)
    config.model.channel_order = channel_order or torch_files.channel_order_of(tensors)
    model = predict.model_of(config, skeleton.num_keypoints)
    variables = jax.device_put(torch_files.import_torch_weights(tensors, model))
    height, width = config.data.image_size
    skeleton, crops = dataclasses.asdict(skeleton), {'aspect': width / height, 'padding': PADDING}
  optimizer = optimizers.optimizer_of(config.train, lambda step: config.train.learning_rate)
  state = training_step.TrainState(
    step=jax.numpy.zeros((), jax.numpy.int32),
    params=variables['params'],
    batch_stats=variables['batch_stats'],
    opt_state=optimizer.init(variables['params']),
    diverged=jax.numpy.zeros((), bool),
  )
  meta = {'config': config.to_dict(), 'skeleton': skeleton, 'crops': crops, 'iterator': None}
  with contextlib.closing(run_locks.acquire(workdir)) as lock:
    _check_new(workdir)  # another run may have begun and ended meanwhile
    with contextlib.closing(checkpoint.Checkpoints(workdir, create=True, lock=lock)) as checkpoints:
      checkpoints.save(0, state, meta)
    lock.check()
    paths.write_json(workdir / 'config.json', meta['config'])
  log.info('the network expects %s images', config.model.channel_order)
  print(f'{weights} -> {workdir}')


def _check_new(workdir):
  if (workdir / 'checkpoints').exists():
    raise errors.CheckpointError(f'{workdir} holds a run already; choose another --workdir')


def pretrained(source: str, model: pose_network.PoseNetwork, channel_order: str) -> dict:
  """The variables of `model` that training starts from.

  Args:
    source: a file of PyTorch weights, or the network of a run, see `predictors.load_predictor`.
    model: the network to train. If `source` has another number of keypoints, layers with a keypoint
      dimension are initialised anew, which is logged.
    channel_order: channel order of the training images, 'rgb' or 'bgr'.

  Raises:
    CheckpointError: the weights cannot be read, or are of another network.
    ConfigError: the run had another channel order.
  """
  if not _is_network(source):
    return torch_files.import_torch_weights(source, model, new_head=True)
  variables, meta, step = predictors.restore(source)
  config = ml_collections.ConfigDict(meta['config'])
  source_model = predict.model_of(config, len(meta['skeleton']['keypoints']))
  for name in ('network', 'depth', 'width'):
    if getattr(source_model, name) != getattr(model, name):
      raise errors.CheckpointError(
        f'model.pretrained={source}: its model.{name} is {getattr(source_model, name)!r}, not '
        f'{getattr(model, name)!r}'
      )
  if config.model.channel_order != channel_order:
    raise errors.ConfigError(
      f'model.pretrained={source}: trained on {config.model.channel_order} images; set '
      f'--config.model.channel_order={config.model.channel_order}'
    )
  log.info('starting from step %d of %s, K = %d', step, source, source_model.num_keypoints)
  weights = torch_files.export_torch_weights(variables, source_model)
  return torch_files.import_torch_weights(weights, model, new_head=True)


def _is_network(source):
  """Whether this names a network of this project rather than a file of PyTorch weights."""
  if isinstance(source, Mapping):
    return False
  return hub.is_address(source) or paths.parse(source).is_dir()
