"""JAX's global settings of types, which a user's program may change, change no number."""

import contextlib
import json

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mrpose_jax import codecs
from mrpose_jax import predictors
from mrpose_jax import skeletons
from mrpose_jax import train
from mrpose_jax.inference import export
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
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


@pytest.mark.parametrize('config_of', [tiny_people.config, tiny_people.strong_config])
def test_training(tmp_path, config_of):
  """The losses of a short run, with augmentation."""
  losses = {}
  for name, setting in {'default': contextlib.nullcontext, **SETTINGS}.items():
    with setting():
      train.train_and_evaluate(config_of(epochs=1.0, log_every=1), tmp_path / name)
    lines = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
    losses[name] = [json.loads(line)['loss'] for line in lines if 'loss' in json.loads(line)]
  assert len(losses['default']) > 2
  for name in SETTINGS:
    np.testing.assert_allclose(losses[name], losses['default'], rtol=1e-4)


def test_crops_with_every_augmentation():
  patches = np.random.default_rng(0).integers(0, 256, (4, 60, 60, 3), np.uint8)
  ones = np.ones((4, 2), np.float32)
  keypoints = np.random.default_rng(1).uniform(10, 50, (4, 17, 2)).astype(np.float32)
  batch = batching.PersonBatch(
    patches, 0 * ones, ones, 30 * ones, 40 * ones, keypoints, np.ones((4, 17), np.float32)
  )
  augmentation = augment.Augmentation(
    *(30.0, 0.4, 0.5, 'uniform'),
    **{'shift': 0.1, 'half_body': 1.0, 'brightness': 0.2, 'contrast': 0.2, 'saturation': 0.2},
    **{'hue': 0.1, 'dropout': 1.0},
  )
  codec = codecs.UdpCodec((32, 32), (8, 8))

  def crops():
    drawn = augment.draw(jax.random.key(0), 4, augmentation)
    arrays = augment.crop_people(batch, drawn, codec, skeletons.COCO)
    return [*jax.tree.leaves(drawn), *arrays, *codec.encode(*arrays[1:])]

  expected = jax.jit(crops)()
  for setting in SETTINGS.values():
    with setting():
      for result, reference in zip(jax.jit(crops)(), expected, strict=True):
        assert result.dtype == reference.dtype
        np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-4)
