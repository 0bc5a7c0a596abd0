"""`model.dtype='auto'`: what it stands for, and what continued and evaluated runs do with it."""

import contextlib
import shutil
import types

import jax
import pytest

import mrpose_jax
from configs import coco
from configs import mpii
from mrpose_jax import evaluate
from mrpose_jax import paths
from mrpose_jax import train
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import number_types
from tests.helpers import tiny_people


def device(platform, compute_capability=None):
  named = types.SimpleNamespace(platform=platform, device_kind=f'a {platform}')
  if compute_capability:
    named.compute_capability = compute_capability
  return named


@pytest.mark.parametrize(
  ('made', 'expected'),
  [
    (device('cpu'), 'float32'),
    (device('tpu'), 'bfloat16'),
    (device('gpu', '9.0'), 'bfloat16'),
    (device('cuda', '12.0'), 'bfloat16'),
    (device('gpu', '8.0'), 'bfloat16'),
    (device('gpu', '7.5'), 'float32'),
    (device('rocm', 'gfx942'), 'bfloat16'),
  ],
)
def test_auto_by_device(made, expected, caplog):
  caplog.set_level('INFO', 'mrpose_jax')
  assert number_types.choose('auto', made) == expected
  assert number_types.choose('float32', made) == 'float32'
  for module in (coco, mpii):
    config = module.get_config()
    number_types.settle(config, made)
    assert config.model.dtype == expected
  told = f'computes in {expected} (model.dtype=auto) on {made.device_kind}, model.precision=default'
  assert caplog.text.count(told) == 2


def stored_types(workdir):
  """The types in config.json and in the latest checkpoint."""
  checkpoints = checkpoint.Checkpoints(workdir)
  meta = checkpoints.meta(checkpoints.latest_step())
  return {
    paths.read_json(workdir / 'config.json')['model']['dtype'],
    meta['config']['model']['dtype'],
    meta['evaluation']['dtype'],
  }


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run in bfloat16, as on an accelerator, that was stopped before its first step."""
  workdir = tmp_path_factory.mktemp('bfloat16')
  config = tiny_people.config(epochs=1.0)
  config.model.dtype = 'bfloat16'
  run = train.build(config, configuration.open_dataset(config), workdir)
  with contextlib.closing(checkpoint.Checkpoints(workdir, create=True)) as checkpoints:
    state = train.restore_or_start(run, checkpoints)
    train.describe(run, state)
    checkpoints.save(0, state, run.meta)
  assert stored_types(workdir) == {'bfloat16'}
  return workdir


def test_auto_evaluates_by_the_device_and_says_so(workdir, caplog):
  evaluate.evaluate(tiny_people.config(), workdir)
  assert 'the run computed in bfloat16, and this evaluation computes in float32' in caplog.text
  (folder,) = (workdir / 'eval').iterdir()
  assert folder.name == '0-dtype=float32'
  caplog.clear()
  config = tiny_people.config()
  config.model.dtype = 'bfloat16'
  number_types.tell_change(config, paths.read_json(workdir / 'config.json'))
  assert not caplog.text


def test_a_predictor_on_a_cpu_computes_in_float32(workdir):
  assert mrpose_jax.load_predictor(workdir).config.model.dtype == 'float32'
  made = mrpose_jax.load_predictor(workdir, dtype='bfloat16', device=jax.devices()[1])
  assert made.config.model.dtype == 'bfloat16'
  assert mrpose_jax.load_predictor(workdir, dtype='auto').config.model.dtype == 'float32'


def test_a_continued_run_keeps_its_type(workdir, caplog):
  """'auto' stands for the type that the run began with."""
  config = tiny_people.config()
  with configuration.hold_workdir(config, workdir):
    assert config.model.dtype == 'bfloat16'
  assert 'the run began in bfloat16 and goes on in it; float32 suits cpu better' in caplog.text


def test_a_type_that_is_named_replaces_that_of_the_run(workdir, tmp_path, caplog):
  continued = shutil.copytree(workdir, tmp_path / 'continued')
  caplog.set_level('INFO', 'mrpose_jax')
  config = tiny_people.config(epochs=1.0)
  config.model.dtype = 'float32'
  train.train_and_evaluate(config, continued)
  assert "another setting: model.dtype was 'bfloat16', is 'float32'" in caplog.text
  assert 'the run began in' not in caplog.text
  assert caplog.text.count('computes in float32 on cpu, model.precision=default') == 1
  assert stored_types(continued) == {'float32'}


def test_a_new_run_stores_its_choice(tmp_path, caplog):
  caplog.set_level('INFO', 'mrpose_jax')
  config = tiny_people.config(epochs=1.0)
  assert config.model.dtype == 'auto'
  train.train_and_evaluate(config, tmp_path)
  assert stored_types(tmp_path) == {'float32'}
  assert caplog.text.count('computes in float32 (model.dtype=auto) on cpu') == 1
