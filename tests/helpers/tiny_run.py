"""Writes a workdir like that of a training run, with an untrained network with clear peaks."""

import dataclasses

import jax
import numpy as np

from configs import custom
from mrpose_jax import optimizers
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import training_step
from mrpose_jax.runtime import checkpoint


def write(workdir, network='simple_baseline', skeleton=skeletons.COCO, without=()) -> paths.Path:
  """Writes checkpoint 0 of a network of width 4 with small batches, canvas and input.

  `without`: (section, field) pairs to omit from the stored configuration.
  """
  config = custom.get_config(f'{network},width=4')
  config.data.image_size = (64, 64)
  config.eval.update({'batch_size': 8, 'canvas': 160})
  model = predict.model_of(config, skeleton.num_keypoints)
  optimizer = optimizers.adam(lambda step: 1e-3)
  state = training_step.create(model, optimizer, jax.random.key(0))
  r = np.random.default_rng(0)

  def drawn(path, x):
    """Draws kernels that keep a signal's size, so that float32 always finds the same peaks."""
    if path[-1].key != 'kernel':
      return x
    fan_in = x.shape[0] * x.shape[1] * min(x.shape[2:])
    return r.normal(0, fan_in**-0.5, x.shape).astype(np.float32)

  state = state.replace(params=jax.tree_util.tree_map_with_path(drawn, state.params))
  workdir = paths.parse(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  meta = {
    'config': config.to_dict(),
    'skeleton': dataclasses.asdict(skeleton),
    'crops': {'aspect': 1.0, 'padding': 1.25},
    'iterator': None,
  }
  for section, field in without:
    del meta['config'][section][field]
  checkpoints.save(0, state, meta)
  checkpoints.close()
  paths.write_json(workdir / 'config.json', meta['config'])
  return workdir
