"""The training step and the loop, on four CPU devices."""

import json

import jax
import numpy as np
import pytest

from input_pipeline.device import augment
from input_pipeline.host import loader
from mrpose_jax import errors
from mrpose_jax import optimizers
from mrpose_jax import predict
from mrpose_jax import train
from mrpose_jax import train_state
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import parallel
from tests.helpers import tiny_people


def variables_of(workdir, config):
  checkpoints = checkpoint.Checkpoints(workdir)
  target = train_state.abstract_variables(predict.model_of(config, 17))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  step = checkpoints.latest_step()
  variables = checkpoints.restore_variables(step, checkpoint.restore_target(target, device))
  checkpoints.close()
  return step, variables


def test_a_run_and_its_continuation_equal_an_unbroken_run(tmp_path, capsys):
  """Everything a workdir promises, and the same bits after a stop between two steps."""
  config = tiny_people.config(epochs=2.0)
  metrics = train.train_and_evaluate(config, tmp_path / 'whole')
  table = capsys.readouterr().out
  assert table.startswith('| | AP | AP50 | AP75 | APM | APL | AR | AR50 | AR75 | ARM | ARL |')
  assert set(metrics) >= {'AP', 'AR'}

  train.train_and_evaluate(tiny_people.config(epochs=1.0), tmp_path / 'broken')
  train.train_and_evaluate(config, tmp_path / 'broken')
  whole_step, whole = variables_of(tmp_path / 'whole', config)
  step, continued = variables_of(tmp_path / 'broken', config)
  dataset = loader.open_dataset('coco', config.data.data_dir)
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

  with pytest.raises(errors.CheckpointError, match="network is 'simple_baseline' there"):
    other = tiny_people.config()
    other.model.network = 'mrfeanet1'
    train.train_and_evaluate(other, workdir)
  with pytest.raises(errors.CheckpointError, match='seed was 0, is 1'):
    other = tiny_people.config()
    other.seed = 1
    train.train_and_evaluate(other, workdir)


def test_sharding_does_not_change_the_step():
  """One step on one device and on four: the same loss and statistics of the whole batch."""
  config = tiny_people.config()
  dataset = loader.open_dataset('coco', config.data.data_dir)
  model = predict.model_of(config, 17)
  optimizer = optimizers.adam(optimizers.piecewise_schedule(1e-3, 0.1, (10,)))
  step = train.make_train_step(
    model,
    optimizer,
    predict.codec_of(config),
    augment.Augmentation(**config.augment),
    dataset.skeleton,
    seed=0,
  )
  batch = next(loader.train_batches(dataset, 8, seed=0))
  state = jax.jit(lambda: train_state.create(model, optimizer, jax.random.key(0)))()
  mesh = parallel.data_mesh()
  assert mesh.size == 4
  place = parallel.replicated(mesh)
  one_state, one = jax.jit(step)(state, batch)
  sharded = jax.jit(step, out_shardings=(place, place))
  four_state, four = sharded(jax.device_put(state, place), parallel.put_batch(batch, mesh))
  np.testing.assert_allclose(one['loss'], four['loss'], rtol=1e-5)
  np.testing.assert_allclose(one['gradient_norm'], four['gradient_norm'], rtol=1e-4)
  for a, b in zip(jax.tree.leaves(one_state.batch_stats), jax.tree.leaves(four_state.batch_stats)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert int(four_state.step) == 1


def test_durations():
  assert train.steps_of(170, num_people=149813, batch_size=64) == 397941
  assert train.steps_of(0.001, num_people=10, batch_size=64) == 1


def test_a_step_that_is_not_finite_stops_the_run_and_keeps_the_state_before_it(tmp_path):
  """Losses are read every second step; the state is that before the first bad one."""
  config = tiny_people.config(learning_rate=1e30, epochs=4.0)
  with pytest.raises(errors.DivergedError, match=r'learning rate 1e\+30') as error:
    train.train_and_evaluate(config, tmp_path)
  step, variables = variables_of(tmp_path, config)
  message = str(error.value)
  assert f' at step {step + 1} (' in message
  assert f'checkpoint {step};' in message
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
  dataset = loader.open_dataset('coco', config.data.data_dir)
  ids = message.partition('people ')[2].partition(')')[0]
  found = {tuple(xy) for xy in next(loader.train_batches(dataset, 8, 0, step)).keypoints[:, 0]}
  records = [record['people'] for record in dataset.source('train')]
  wanted = {
    tuple(people['keypoints'][0, 0])
    for people in records
    if str(people['person_id'][0]) in ids.split(', ')
  }
  assert found == wanted
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
    ('augment', 'scale', 0.5, 'prepared for at most 0.4'),
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
