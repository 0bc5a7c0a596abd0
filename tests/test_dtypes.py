"""JAX's global settings of types, which a user's program may change, change no number."""

import contextlib
import json

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mrpose_jax import predictors
from mrpose_jax import train
from mrpose_jax.inference import export
from tests.helpers import tiny_people
from tests.helpers import tiny_run

SETTINGS = {
  'x64': lambda: jax.enable_x64(True),
  'strict': lambda: jax.numpy_dtype_promotion('strict'),
}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.write(tmp_path_factory.mktemp('dtypes') / 'run')


@pytest.mark.parametrize('setting', SETTINGS)
def test_predictions(workdir, setting):
  image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
  boxes = np.array([[9, 9, 50, 70], [40, 5, 60, 80]])

  def predict():
    predictor = predictors.load_predictor(workdir)
    function = jax.jit(predictor.predict_fn)
    people = function(predictor.variables, jnp.asarray(image)[None], jnp.asarray(boxes)[None])
    exported = export.exported(predictor).call(image[None], np.float32(boxes)[None])
    return predictor(image, boxes), predictor.heatmaps(image, boxes[0])[1], people, exported

  expected = predict()
  with SETTINGS[setting]():
    results = predict()
  for result, reference in zip(results, expected):
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-4)


def test_training(tmp_path):
  """The losses of a short run, with augmentation."""
  losses = {}
  for name, setting in {'default': contextlib.nullcontext, **SETTINGS}.items():
    with setting():
      train.train_and_evaluate(tiny_people.config(epochs=1.0, log_every=1), tmp_path / name)
    lines = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
    losses[name] = [json.loads(line)['loss'] for line in lines if 'loss' in json.loads(line)]
  assert len(losses['default']) > 2
  for name in SETTINGS:
    np.testing.assert_allclose(losses[name], losses['default'], rtol=1e-4)
