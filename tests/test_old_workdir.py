"""A workdir that was written before the networks became plain Flax, in November 2026.

`mrfeanet2` on ResNet-18 of width 2, trained for six steps; beside it the heatmaps that the code of
that day predicted.
"""

import pathlib
import zipfile

import jax
import numpy as np
import pytest

from mrpose_jax import optimizers
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax import training_step
from mrpose_jax.runtime import checkpoint

ARCHIVE = pathlib.Path(__file__).parent / 'files' / 'workdir_2026_11.zip'


@pytest.fixture
def folder(tmp_path):
  with zipfile.ZipFile(ARCHIVE) as archive:
    archive.extractall(tmp_path)
  return tmp_path


def test_it_predicts_as_it_did(folder):
  predictor = predictors.load_predictor(folder / 'run')
  image = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
  _, heatmaps = predictor.heatmaps(image, [5, 5, 60, 80])
  np.testing.assert_allclose(heatmaps, np.load(folder / 'heatmaps.npy'), rtol=0, atol=1e-7)


def test_training_goes_on_from_it(folder):
  """The whole state is restored: variables, step and Adam's moments."""
  checkpoints = checkpoint.Checkpoints(folder / 'run')
  config = predictors.load_predictor(folder / 'run').config
  model = predict.model_of(config, 17)
  optimizer = optimizers.adam(lambda step: 1e-3)
  fresh = jax.eval_shape(
    lambda key: training_step.create(model, optimizer, key), jax.random.key(config.seed)
  )
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  state = checkpoints.restore_state(6, checkpoint.restore_target(fresh, device))
  assert int(state.step) == 6
  assert int(state.opt_state[0].count) == 6
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
