"""The training step and the training loop on four CPU devices."""

import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import optimizers
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax import train
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import transfer
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import parallel
from mrpose_jax.runtime import preemption
from mrpose_jax.runtime import profiling
from tests.helpers import tiny_people


def variables_of(workdir, config):
  """Returns the latest step of a workdir and its variables."""
  checkpoints = checkpoint.Checkpoints(workdir)
  target = training_step.abstract_variables(predict.model_of(config, 17))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  step = checkpoints.latest_step()
  variables = checkpoints.restore_variables(step, checkpoint.restore_target(target, device))
  checkpoints.close()
  return step, variables


def test_a_run_and_its_continuation_equal_an_unbroken_run(tmp_path, capsys):
  """A run that is stopped and resumed gives the same bits; also checks a workdir's files."""
  config = tiny_people.config(epochs=2.0)
  metrics = train.train_and_evaluate(config, tmp_path / 'whole')
  table = capsys.readouterr().out
  assert table.startswith('| | AP | AP50 | AP75 | APM | APL | AR | AR50 | AR75 | ARM | ARL |')
  assert set(metrics) >= {'AP', 'AR'}

  train.train_and_evaluate(tiny_people.config(epochs=1.0), tmp_path / 'broken')
  train.train_and_evaluate(config, tmp_path / 'broken')
  whole_step, whole = variables_of(tmp_path / 'whole', config)
  step, continued = variables_of(tmp_path / 'broken', config)
  dataset = prepared_data.open_dataset('coco', config.data.data_dir)
  assert step == whole_step == round(2 * len(dataset.source('train')) / 8)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(continued)):
    np.testing.assert_array_equal(a, b)

  workdir = tmp_path / 'whole'
  assert json.loads((workdir / 'config.json').read_text())['model']['width'] == 4
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  rates = {'people_per_second', 'data_wait_fraction'}
  assert {'loss', 'gradient_norm', 'learning_rate', *rates} <= set(lines[0])
  assert all(0 <= line['data_wait_fraction'] <= 1 for line in lines if 'loss' in line)
  assert lines[-1]['step'] == step
  assert 'eval/AP' in lines[-1]
  assert list(workdir.glob('events.out.tfevents.*'))
  assert json.loads((workdir / 'eval' / str(step) / 'metrics.json').read_text())
  people = json.loads((workdir / 'eval' / str(step) / 'predictions.json').read_text())
  assert all(len(person['keypoints']) == 51 for person in people)
  assert (workdir / 'eval' / str(step) / 'pictures' / 'sheet.jpg').exists()

  with pytest.raises(errors.CheckpointError, match="network is 'simple_baseline' in the workdir"):
    other = tiny_people.config()
    other.model.network = 'mrfeanet1'
    train.train_and_evaluate(other, workdir)
  with pytest.raises(errors.CheckpointError, match='predicts other keypoints'):
    run = train.build(config, dataset, workdir)
    nose_only = dataclasses.replace(dataset.skeleton, keypoints=('nose',))
    other_dataset = dataclasses.replace(dataset, skeleton=nose_only)
    other_run = dataclasses.replace(run, dataset=other_dataset)
    train.restore_or_start(other_run, checkpoint.Checkpoints(workdir))
  with pytest.raises(errors.CheckpointError, match='seed was 0, is 1'):
    other = tiny_people.config()
    other.seed = 1
    train.train_and_evaluate(other, workdir)


def test_the_whole_recipe_resumes_with_the_same_bits(tmp_path, monkeypatch):
  """UDP, AdamW, warm-up, cosine, clipping, hard keypoints, moving average, two test scales."""

  config = tiny_people.strong_config()
  train.train_and_evaluate(config, tmp_path / 'whole')
  calls = itertools.count()
  with monkeypatch.context() as patch, pytest.raises(errors.Stopped, match='SIGTERM at step 3'):
    patch.setattr(preemption.StopSignals, 'asked', lambda _: 'SIGTERM' * (next(calls) >= 2))
    train.train_and_evaluate(config, tmp_path / 'broken')
  train.train_and_evaluate(config, tmp_path / 'broken')
  run = train.build(config, prepared_data.open_dataset('coco', config.data.data_dir), None)
  create = functools.partial(training_step.create, run.model, run.optimizer, ema=True)
  abstract = jax.eval_shape(create, jax.random.key(0))
  target = checkpoint.restore_target(abstract, parallel.replicated(run.mesh))
  whole, broken = (
    checkpoint.Checkpoints(tmp_path / name).restore_state(run.total_steps, target)
    for name in ('whole', 'broken')
  )
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(broken), strict=True):
    np.testing.assert_array_equal(a, b)
  differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.variables, whole.ema)
  assert max(jax.tree.leaves(differences)) > 1e-4  # the average is not the latest state

  # Prediction restores the average by default.
  raw, average = (predictors.restore(tmp_path / 'whole', ema=ema)[0] for ema in (False, None))
  np.testing.assert_array_equal(
    average['params']['decoder']['head']['kernel'], whole.ema['params']['decoder']['head']['kernel']
  )
  np.testing.assert_array_equal(
    raw['params']['decoder']['head']['kernel'], whole.params['decoder']['head']['kernel']
  )
  config.data.codec = 'dark'
  with pytest.raises(errors.CheckpointError, match=r"data\.codec is 'udp' in the workdir"):
    train.train_and_evaluate(config, tmp_path / 'whole')


def test_settings_that_changed_are_named_on_resuming(tmp_path, caplog):
  train.train_and_evaluate(tiny_people.config(epochs=1.0), tmp_path)
  changed = tiny_people.config(epochs=2.0)
  changed.data.sigma = 2.0
  changed.augment.rotation = 10.0
  train.train_and_evaluate(changed, tmp_path)
  for difference in (
    'train.epochs was 1.0, is 2.0',
    'data.sigma was 1.0, is 2.0',
    'augment.rotation was 30.0, is 10.0',
  ):
    assert caplog.text.count(difference) == 1


def test_sharding_does_not_change_the_step():
  """One device and four give the same loss and batch statistics."""
  config = tiny_people.config()
  dataset = prepared_data.open_dataset('coco', config.data.data_dir)
  model = predict.model_of(config, 17)
  optimizer = optimizers.adam(optimizers.piecewise_schedule(1e-3, 0.1, (10,)))
  step = training_step.make_train_step(
    model,
    optimizer,
    predict.codec_of(config),
    augment.Augmentation(**config.augment),
    dataset.skeleton,
    seed=0,
  )
  packed = next(loader.train_batches(dataset, 8, seed=0))
  batch = batching.unpack(packed)
  state = jax.jit(lambda: training_step.create(model, optimizer, jax.random.key(0)))()
  mesh = parallel.data_mesh()
  assert mesh.size == 4
  place = parallel.replicated(mesh)
  one_state, one = jax.jit(step)(state, batch)
  sharded = jax.jit(step, out_shardings=(place, place))
  four_state, four = sharded(
    jax.device_put(state, place), transfer.put(packed, parallel.batched(mesh))
  )
  np.testing.assert_allclose(one['loss'], four['loss'], rtol=1e-5)
  np.testing.assert_allclose(one['gradient_norm'], four['gradient_norm'], rtol=1e-4)
  for a, b in zip(jax.tree.leaves(one_state.batch_stats), jax.tree.leaves(four_state.batch_stats)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert int(four_state.step) == 1


def test_durations():
  assert train.steps_of(170, num_people=149813, batch_size=64) == 397941
  assert train.steps_of(0.001, num_people=10, batch_size=64) == 1


def test_a_step_that_is_not_finite_stops_the_run_and_keeps_the_state_before_it(tmp_path):
  """Losses are checked every second step; the state before the first bad step is saved."""
  config = tiny_people.config(learning_rate=1e30, epochs=4.0)
  with pytest.raises(errors.DivergedError, match=r'learning rate 1e\+30') as error:
    train.train_and_evaluate(config, tmp_path)
  step, variables = variables_of(tmp_path, config)
  message = str(error.value)
  assert f' at step {step + 1} (' in message
  assert f'checkpoint {step};' in message
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
  dataset = prepared_data.open_dataset('coco', config.data.data_dir)
  ids = message.partition('people ')[2].partition(f' of {dataset.folder})')[0]
  batch = next(loader.train_batches(dataset, 8, 0, step))
  batch_keypoints = {tuple(xy) for xy in batch.keypoints[:, 0]}
  records = [record['people'] for record in dataset.source('train')]
  named_keypoints = {
    tuple(people['keypoints'][0, 0])
    for people in records
    if str(people['person_id'][0]) in ids.split(', ')
  }
  assert batch_keypoints == named_keypoints
  with pytest.raises(errors.DivergedError, match=f'at step {step + 1} '):
    train.train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
  ('section', 'key', 'value', 'message'),
  [
    ('train', 'batch_size', -8, 'train.batch_size=-8'),
    ('train', 'batch_size', 6, 'multiple of the 4 devices'),
    ('train', 'epochs', 0.0, 'train.epochs=0.0: must be positive'),
    ('data', 'image_size', (128, 100), 'multiples of 32'),
    ('data', 'image_size', (128, 128), 'prepared for width / height = 0.75'),
    ('augment', 'scale', 0.5, r'--scale=0\.5 --shift=0 --overwrite'),
    ('augment', 'scale_range', (0.5, 1.6), r'--scale=0\.6 --shift=0 --overwrite'),
    ('augment', 'shift', 0.1, r'--scale=0\.4 --shift=0\.1 --overwrite'),
    ('augment', 'half_body', 0.3, r'--scale=0\.4 --shift=0 --half_body --overwrite'),
    ('data', 'codec', 'msra', "data.codec='msra': use one of paper, dark, udp"),
    ('train', 'hard_keypoints', 18, 'train.hard_keypoints=18: coco has 17 keypoints'),
    ('train', 'optimizer', 'sgd', 'use one of adam, adamw'),
    ('eval', 'scales', (), 'eval.scales'),
    ('eval', 'ema', True, 'keeps no moving average'),
    ('augment', 'draw', 'gaussian', 'augment.draw'),
    ('model', 'channel_order', 'gbr', 'channel_order'),
    ('eval', 'offset', 'half', 'offset'),
  ],
)
def test_configurations_that_cannot_run(tmp_path, section, key, value, message):
  config = tiny_people.config()
  config[section][key] = value
  with pytest.raises(errors.ConfigError, match=message):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_a_step_copies_nothing_between_host_and_device():
  """Of a state and a batch that are in place; NumPy arrays in their place are refused."""
  config = tiny_people.config()
  dataset = prepared_data.open_dataset('coco', config.data.data_dir)
  run = train.build(config, dataset, workdir=None)
  place = parallel.replicated(run.mesh)
  create = functools.partial(training_step.create, run.model, run.optimizer)
  state = jax.jit(create, out_shardings=place)(jax.random.key(0))
  packed = next(loader.train_batches(dataset, 8, seed=0))
  host_batch = batching.unpack(packed)
  batch = transfer.put(packed, parallel.batched(run.mesh))
  state, _ = run.train_step(state, batch)  # compiles
  people = run.predict_step(state.variables, batch)
  with jax.transfer_guard('disallow'):
    state, metrics = run.train_step(state, batch)
    people = run.predict_step(state.variables, batch)
    with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to-device transfer'):
      run.predict_step(state.variables, host_batch)
  assert np.isfinite(metrics['loss']) and np.isfinite(people).all()


def test_a_profiler_trace_and_the_overview_of_parameters(tmp_path, caplog):
  config = tiny_people.config(epochs=1.0, profile_steps=2)
  with caplog.at_level('INFO'):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert list((tmp_path / 'run' / 'profile').rglob('*.xplane.pb'))
  assert caplog.text.count('profiler trace') == 1
  lines = (tmp_path / 'run' / 'parameters.txt').read_text().splitlines()
  assert lines[0].split() == ['decoder/head/bias', '(17,)', '17']
  model = predict.model_of(config, 17)
  params = training_step.abstract_variables(model)['params']
  assert len(lines) == 1 + len(jax.tree.leaves(params))
  total = sum(x.size for x in jax.tree.leaves(params))
  assert lines[-1].split() == ['total', f'{total:,}']


@pytest.mark.parametrize(('num_steps', 'recorded'), [(0, []), (1, [13]), (3, [13, 14, 15])])
def test_which_steps_a_trace_records(num_steps, recorded, tmp_path, monkeypatch):
  """After a start at step 10 the next two steps compile and warm up."""
  events = []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: events.append(folder))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: events.append('stop'))
  steps = []
  with profiling.StepTrace(tmp_path, 10, num_steps) as step_trace:
    for step in range(11, 20):
      with step_trace.step(step):
        if events and events[-1] != 'stop':
          steps.append(step)
  assert steps == recorded
  assert events == ([tmp_path / 'profile', 'stop'] if recorded else [])


def test_a_trace_ends_with_the_run(tmp_path, monkeypatch):
  """Also where the run is shorter than it, or fails."""
  events = []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: events.append('start'))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: events.append('stop'))
  with pytest.raises(ValueError):
    with profiling.StepTrace(tmp_path, 0, 100) as step_trace:
      with step_trace.step(3):
        raise ValueError
  assert events == ['start', 'stop']
