"""Runs that are killed, stopped, started twice, or out of disk space."""

import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import kill_runs
from examples import mice
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import train
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import metric_writer
from tests.helpers import tiny_people
from tests.runtime import test_checkpoint


def test_killed_five_times_it_ends_with_the_same_bits(tmp_path, capsys):
  """The short form of `python -m benchmarks.kill_runs --kills=50`, with two data sets.

  The run also keeps a moving average.
  """
  source, sets = tmp_path / 'source', {'train': 'train', 'validation': 'validation'}
  mice.write(source, {'train': 8, 'validation': 2})
  prepare.prepare('coco', source, tmp_path / 'mice', **sets, canvas=200)
  mix = (('coco', str(kill_runs.data_dir()), 3), ('coco', str(tmp_path / 'mice'), 1))
  settings = ('--config.train.ema=0.9', f'--config.data.mix={mix}')
  kill_runs.run(tmp_path / 'runs', 5, 18.0, 0, *settings)
  assert 'equal those of an uninterrupted run, bit for bit' in capsys.readouterr().out


def until(process, text):
  """Reads a run's standard error up to a line with this text."""
  said = ''
  for line in process.stderr:
    said += line
    if text in line:
      return
  raise AssertionError(said)


def test_signals_save_and_a_second_run_is_refused(tmp_path):
  """SIGTERM twice, then SIGINT while the first step compiles; the result is as without them."""
  kill_runs.finish(tmp_path / 'whole', 6.0)
  workdir = tmp_path / 'run'
  process = kill_runs.start(workdir, 6.0)
  until(process, 'step 3/')
  with (
    pytest.raises(
      errors.CheckpointError, match=rf'another run trains here \(process {process.pid}'
    ),
    configuration.hold_workdir(tiny_people.config(), workdir),
  ):
    pass

  asked = time.perf_counter()
  process.send_signal(signal.SIGTERM)
  time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate()
  assert process.returncode == 143
  assert time.perf_counter() - asked < 30
  stopped = said.strip().splitlines()[-1]
  assert stopped.startswith('Stopped: SIGTERM at step '), said
  step = int(stopped.split()[4].strip(','))
  assert checkpoint.Checkpoints(workdir).latest_step() == step

  process = kill_runs.start(workdir, 6.0)
  until(process, f'continuing from step {step}')
  process.send_signal(signal.SIGINT)
  _, said = process.communicate()
  assert process.returncode == 143
  assert f'Stopped: SIGINT at step {step + 1}' in said
  kill_runs.finish(workdir, 6.0)
  assert kill_runs.contents(workdir) == kill_runs.contents(tmp_path / 'whole')


def test_a_signal_during_an_evaluation(tmp_path, monkeypatch):
  """The step is already saved, and the next start evaluates it first."""
  config = tiny_people.config(epochs=1.0)
  predict_split = evaluate.predict_split

  def interrupted(*arguments):
    signal.raise_signal(signal.SIGTERM)
    return predict_split(*arguments)

  with monkeypatch.context() as patched:
    patched.setattr(evaluate, 'predict_split', interrupted)
    with pytest.raises(errors.Stopped, match='SIGTERM at step 3'):
      train.train_and_evaluate(config, tmp_path)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.latest_step() == 3
  assert not checkpoints.evaluated(3)
  assert train.train_and_evaluate(config, tmp_path).keys() >= {'AP'}
  assert checkpoints.evaluated(3)


def test_a_step_that_does_not_end_is_not_waited_for():
  code = (
    'import os, signal\n'
    'from mrpose_jax.runtime import preemption\n'
    'preemption.PATIENCE = 0.2\n'
    'with preemption.StopSignals():\n'
    '  signal.pthread_sigmask(signal.SIG_UNBLOCK, preemption.SIGNALS)\n'
    '  os.kill(os.getpid(), signal.SIGTERM)\n'
    '  import time\n'
    '  time.sleep(60)\n'
  )
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=kill_runs.ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 143
  assert 'no step ended within 0.2 s' in done.stderr
  assert time.perf_counter() - start < 30


def test_a_workdir_that_cannot_be_written(tmp_path):
  """Changes the user if the tests run as root, whom permissions do not stop."""
  config = tiny_people.config()  # before the change, because it imports and writes
  tmp_path.chmod(0o555)
  user = os.geteuid()
  try:
    if user == 0:
      os.seteuid(65534)
    with (
      pytest.raises(errors.ConfigError, match=r'run: cannot be written to \(Permission denied\)'),
      configuration.hold_workdir(config, tmp_path / 'run'),
    ):
      pass
  finally:
    os.seteuid(user)
    tmp_path.chmod(0o755)


# TensorStore reports the other failed writes to an event loop that Orbax has closed by then.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_full_disk(tmp_path):
  """The save fails with one line, no partial files remain, and the last checkpoint is intact."""
  test_checkpoint.save(tmp_path, {1: None})
  checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
  random = jax.random.normal(jax.random.key(0), (300, 300))  # does not compress
  state = test_checkpoint.state_of(2).replace(params={'w': random})
  unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
  try:
    with pytest.raises(errors.CheckpointError, match=r'checkpoints/2: cannot be written .* 1 is'):
      checkpoints.save(2, state, test_checkpoint.META)
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
  assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['1']
  checkpoints.save(2, state, test_checkpoint.META)
  checkpoints.close()
  assert checkpoint.Checkpoints(tmp_path).latest_step() == 2


def test_metrics_are_cut_back_to_the_step_that_a_run_goes_on_from(tmp_path, caplog):
  writer = metric_writer.MetricWriter(tmp_path)
  for step in (1, 2, 3):
    writer.write(step, {'loss': step})
  writer.close()
  file = tmp_path / 'metrics.jsonl'
  file.write_text(file.read_text().replace('{"step": 1', '{"ste\0') + '{"step": 4, "lo')
  with caplog.at_level(logging.WARNING):
    writer = metric_writer.MetricWriter(tmp_path, start_step=2)
  assert 'line 1 cannot be read' in caplog.text
  writer.write(3, {'loss': np.nan})
  writer.close()
  assert file.read_text() == '{"step": 2, "loss": 2.0}\n{"step": 3, "loss": NaN}\n'
  assert len(list(tmp_path.glob('events.*'))) == 1


def test_restarts_leave_nothing_behind(tmp_path):
  """Files, threads, open files and processes after 3 and after 10 more starts."""
  before, after = kill_runs.restart(tmp_path, 3), kill_runs.restart(tmp_path, 10)
  # The machine's other processes have shared memory as well, such as workers of other tests.
  end = time.monotonic() + 60
  while after['shared memory'] >= before['shared memory'] + 5 and time.monotonic() < end:
    time.sleep(0.5)
    after['shared memory'] = len(os.listdir('/dev/shm'))
  # A thread that is about to end may still be counted; one leaked per start would add ten.
  growth = {name: after[name] - before[name] for name in before if name != 'MB'}
  assert max(growth.values()) < 5, growth
  assert growth['files'] == 0, growth


def test_writing_errors_are_one_line(tmp_path):
  code = (
    'from mrpose_jax import command_line\n'
    'def command(arguments):\n'
    f'  raise OSError({errno.ENOSPC}, "No space left on device", "{tmp_path}/x")\n'
    'command_line.run(command)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=kill_runs.ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == errors.CheckpointError.exit_code
  assert done.stderr == f'CheckpointError: {tmp_path}/x: No space left on device\n'
