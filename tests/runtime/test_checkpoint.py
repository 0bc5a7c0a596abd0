"""Checkpoints: which ones count, which ones are kept, and how damage is handled."""

import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import training_step
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import digests

META = {'config': {}, 'iterator': None}


def state_of(step):
  """A state whose arrays are filled with the number of the step."""
  array = jax.numpy.full((40, 50), float(step))
  return training_step.TrainState(
    step=jax.numpy.int32(step),
    params={'w': array},
    batch_stats={'m': array},
    opt_state=(array,),
    diverged=jax.numpy.zeros((), bool),
  )


def save(workdir, scores):
  """Saves a checkpoint for each step with its score; None stores no score."""
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  for step, score in scores.items():
    checkpoints.save(step, state_of(step), META)
    if score is not None:
      checkpoints.set_score(step, score)
  checkpoints.close()
  return checkpoints


def restore(checkpoints, step):
  target = checkpoint.restore_target(
    jax.eval_shape(lambda: state_of(0)), jax.sharding.SingleDeviceSharding(jax.devices()[0])
  )
  return checkpoints.restore_state(step, target)


@pytest.mark.parametrize(
  ('scores', 'kept', 'best'),
  [
    ({1: 0.1, 2: 0.5, 3: 0.3, 4: 0.2}, [2, 3, 4], 2),
    ({1: 0.5, 2: np.nan, 3: np.inf, 4: None}, [1, 3, 4], 1),
    ({1: None, 2: None, 3: None}, [2, 3], 3),
    ({1: np.nan, 2: np.nan, 3: np.nan}, [2, 3], 3),
  ],
)
def test_the_latest_and_the_best_are_kept(tmp_path, scores, kept, best):
  save(tmp_path, scores)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.steps() == kept
  assert checkpoints.latest_step() == max(scores)
  assert checkpoints.best_step() == best
  restored = restore(checkpoints, best)
  assert int(restored.step) == best
  for leaf in jax.tree.leaves((restored.variables, restored.opt_state)):
    np.testing.assert_array_equal(leaf, best)


def flip_a_bit(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 4
  file.write_bytes(content)


def cut(file):
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_scores_of_another_metric_are_not_compared(tmp_path):
  """After a change of `eval.primary`; errors are negative scores."""
  checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
  scores = (
    (1, 0.9, 'AP'),
    (2, -3.0, 'EPE'),
    (3, -2.0, 'EPE'),
    (4, -4.0, 'EPE'),
    (5, np.nan, 'EPE'),
  )
  for step, score, metric in scores:
    checkpoints.save(step, state_of(step), META)
    checkpoints.set_score(step, score, metric)
  assert checkpoints.best_step() == 3
  # A score without a name is from an older version and is compared with all.
  (checkpoints.folder / '4' / 'score.json').write_text('{"score": 0.5}')
  assert checkpoints.best_step() == 4
  checkpoints.close()


def test_a_flipped_bit_a_cut_and_a_missing_file_are_seen_wherever_they_are(tmp_path):
  """Damages each file of a checkpoint in turn; those that Orbax adds later do not matter."""
  save(tmp_path, {1: None, 2: None})
  folder = tmp_path / 'checkpoints' / '2'
  sealed = paths.read_json(folder / digests.NAME)
  files = [path for path in sorted(folder.rglob('*')) if path.is_file()]
  assert len(sealed) > 10
  for file in files:
    content = file.read_bytes()
    for damage in (flip_a_bit, cut, pathlib.Path.unlink) if content else (pathlib.Path.unlink,):
      damage(file)
      checkpoints = checkpoint.Checkpoints(tmp_path)
      found = checkpoints.latest_step()
      name = str(file.relative_to(folder))
      if name in sealed or name == digests.NAME:
        assert found == 1, (name, damage)
      else:  # the state is intact
        assert found == 2, (name, damage)
        np.testing.assert_array_equal(restore(checkpoints, 2).params['w'], 2)
      file.write_bytes(content)


def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(tmp_path, caplog):
  save(tmp_path, {1: None, 2: None})
  flip_a_bit(next((tmp_path / 'checkpoints' / '2' / 'variables' / 'd').iterdir()))
  with caplog.at_level(logging.WARNING):
    checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
    assert checkpoints.latest_step() == 1
  assert 'checkpoints/2: not used, damaged: variables/d/' in caplog.text
  assert (tmp_path / 'damaged' / '2' / 'variables').is_dir()
  checkpoints.save(2, state_of(2), META)
  checkpoints.close()
  assert checkpoint.Checkpoints(tmp_path).latest_step() == 2


def test_a_step_asked_for_by_number_is_that_step_or_nothing(tmp_path):
  save(tmp_path, {1: None, 2: None})
  flip_a_bit(next((tmp_path / 'checkpoints' / '2' / 'variables' / 'd').iterdir()))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  with pytest.raises(errors.CheckpointError, match=r'checkpoints/2: damaged: variables/d/'):
    checkpoints.meta(2)
  with pytest.raises(errors.CheckpointError, match=r'no checkpoint of step 7; there are \[1, 2\]'):
    checkpoints.meta(7)


def test_folders_that_are_not_whole_checkpoints(tmp_path):
  """An empty folder, one without an item, and the remains of a killed save."""
  save(tmp_path, {1: None})
  folder = tmp_path / 'checkpoints'
  (folder / '5').mkdir()
  shutil.copytree(folder / '1', folder / '6')
  shutil.rmtree(folder / '6' / 'training')
  shutil.copytree(folder / '1', folder / '7.orbax-checkpoint-tmp')
  (folder / 'notes').mkdir()
  assert checkpoint.Checkpoints(tmp_path).latest_step() == 1
  checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
  assert checkpoints.latest_step() == 1
  assert sorted(path.name for path in folder.iterdir()) == ['1', 'notes']


@pytest.mark.parametrize('text', ['', '{"score": 0.', '[]', '{}', '{"score": "high"}'])
def test_a_corrupt_score_is_no_score(tmp_path, text):
  save(tmp_path, {1: 0.5, 2: 0.9})
  (tmp_path / 'checkpoints' / '2' / checkpoint.SCORE).write_text(text)
  assert checkpoint.Checkpoints(tmp_path).best_step() == 1


def test_the_best_is_damaged(tmp_path):
  save(tmp_path, {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.1})
  cut(tmp_path / 'checkpoints' / '2' / 'meta' / 'metadata')
  assert checkpoint.Checkpoints(tmp_path).best_step() == 3
  shutil.rmtree(tmp_path / 'checkpoints' / '4')
  shutil.rmtree(tmp_path / 'checkpoints' / '3')
  with pytest.raises(errors.CheckpointError, match='no intact checkpoint'):
    checkpoint.Checkpoints(tmp_path).best_step()


def test_shapes_of_another_network_are_refused(tmp_path):
  save(tmp_path, {1: None})
  checkpoints = checkpoint.Checkpoints(tmp_path)
  target = {
    'params': {'w': jax.ShapeDtypeStruct((40, 51), np.float32)},
    'batch_stats': {'m': jax.ShapeDtypeStruct((40, 50), np.float32)},
  }
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with pytest.raises(
    errors.CheckpointError, match=r'params/w is \(40, 50\) in .* and \(40, 51\) in'
  ):
    checkpoints.restore_variables(1, checkpoint.restore_target(target, place))


def test_restoring_onto_other_devices_is_exact(tmp_path):
  """Saves from one device and restores onto four, replicated and split."""
  save(tmp_path, {1: None})
  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  for spec in (jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec('data')):
    place = jax.sharding.NamedSharding(mesh, spec)
    target = {
      'params': {'w': jax.ShapeDtypeStruct((40, 50), np.float32)},
      'batch_stats': {'m': jax.ShapeDtypeStruct((40, 50), np.float32)},
    }
    restored = checkpoint.Checkpoints(tmp_path).restore_variables(
      1, checkpoint.restore_target(target, place)
    )
    assert restored['params']['w'].sharding == place
    np.testing.assert_array_equal(restored['params']['w'], 1)


def test_a_checkpoint_is_found_by_its_place(tmp_path, monkeypatch):
  save(tmp_path / 'run', {3: 0.1})
  folder = tmp_path / 'run' / 'checkpoints' / '3'
  monkeypatch.setenv('HOME', str(tmp_path))
  assert checkpoint.locate('~/run') == (tmp_path / 'run', None)
  assert checkpoint.locate('~/run/checkpoints/3') == (tmp_path / 'run', 3)
  for copy in (tmp_path / '3', tmp_path / 'best'):
    shutil.copytree(folder, copy)
    with pytest.raises(errors.CheckpointError, match='has to be WORKDIR/checkpoints/STEP'):
      checkpoint.locate(copy)
  shutil.copytree(folder, tmp_path / 'alone' / 'checkpoints' / '3')
  assert checkpoint.Checkpoints(checkpoint.locate(tmp_path / 'alone')[0]).best_step() == 3


def test_json_is_replaced_in_one_step(tmp_path):
  paths.write_json(tmp_path / 'a.json', {'x': 1})
  paths.write_json(tmp_path / 'a.json', {'x': 2})
  assert json.loads((tmp_path / 'a.json').read_text()) == {'x': 2}
  assert [path.name for path in tmp_path.iterdir()] == ['a.json']


@pytest.mark.parametrize('name', ['[exp1]', 'a*b', 'what?', 'back\\slash'])
def test_a_path_that_orbax_would_take_for_a_pattern(tmp_path, name):
  """Orbax wrote checkpoints there that nothing can read, without an error."""
  with pytest.raises(errors.ConfigError, match='choose another folder'):
    checkpoint.Checkpoints(tmp_path / name / 'run', create=True)


def test_a_checkpoint_is_read_back_before_older_ones_are_removed(tmp_path, monkeypatch):
  checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
  for step in (1, 2):
    checkpoints.save(step, state_of(step), META)
  checkpoints.wait()
  monkeypatch.setattr(checkpoint, '_stored_shapes', lambda folder: {})
  checkpoints.save(3, state_of(3), META)
  with pytest.raises(errors.CheckpointError, match='does not hold the arrays that were saved'):
    checkpoints.wait()
  assert checkpoints.steps() == [1, 2]
  checkpoints.close()


def test_a_checkpoint_that_is_removed_while_it_is_read(tmp_path, caplog):
  """By a run that trains in the workdir; the best of the others is read then."""
  save(tmp_path, {1: 0.5, 2: 0.1, 3: 0.2})
  checkpoints = checkpoint.Checkpoints(tmp_path)
  asked = []

  def read_step(step):
    asked.append(step)
    if step == 1:
      shutil.rmtree(checkpoints.folder / '1')
    return checkpoints.meta(step)

  with caplog.at_level(logging.INFO):
    step, _ = checkpoints.read(None, read_step)
  assert (step, asked) == (3, [1, 3])
  assert 'checkpoint 1 was removed' in caplog.text
  with pytest.raises(errors.CheckpointError, match='no checkpoint of step 1'):
    checkpoints.read(1, checkpoints.meta)
