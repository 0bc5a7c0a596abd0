"""Compares two real processes with two devices each to one process with one device."""

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import kill_runs
from mrpose_jax import errors
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import parallel
from tests.helpers import tiny_people


def command(workdir, epochs, *more):
  return [
    *(sys.executable, str(kill_runs.ROOT / 'main.py'), f'--workdir={workdir}'),
    '--config=configs/custom.py:simple_baseline,width=4',
    f'--config.data.data_dir={tiny_people.data_dir()}',
    '--config.train.batch_size=8',
    '--config.eval.batch_size=8',
    '--config.eval.canvas=384',
    '--config.train.log_every=1',
    f'--config.train.epochs={epochs}',
    *more,
  ]


def start(arguments, devices, *more):
  environment = kill_runs.ENVIRONMENT | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'
  }
  return subprocess.Popen(
    [*arguments, *more],
    cwd=kill_runs.ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(arguments):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  common = (f'--coordinator=localhost:{port}', '--num_processes=2')
  return [start(arguments, 2, *common, f'--process_id={i}') for i in range(2)]


def finish(*processes):
  """Waits for the processes; returns their exit codes and their (stdout, stderr)."""
  said = [process.communicate() for process in processes]
  return [process.returncode for process in processes], said


def until(process, text):
  """Reads a process's standard error up to a line with this text; returns the line."""
  said = ''
  for line in process.stderr:
    said += line
    if text in line:
      return line
  raise AssertionError(f'ended without {text!r}: {said}')


def lines_of(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def predictions_of(workdir):
  (step,) = (workdir / 'eval').iterdir()
  return json.loads((step / 'predictions.json').read_text())


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The workdir of one process with one device."""
  workdir = tmp_path_factory.mktemp('alone')
  codes, said = finish(start(command(workdir, 2.0), 1))
  assert codes == [0], said
  return workdir


def test_two_processes_train_and_evaluate_as_one(alone, tmp_path):
  codes, said = finish(*start_two(command(tmp_path, 2.0)))
  assert codes == [0, 0], said
  assert '\n| | AP |' in said[0][0]
  assert '| AP |' not in said[1][0], 'only process 0 prints the table'
  losses = [line['loss'] for line in lines_of(tmp_path) if 'loss' in line]
  expected = [line['loss'] for line in lines_of(alone) if 'loss' in line]
  assert len(losses) == 6
  np.testing.assert_allclose(losses, expected, rtol=1e-4)
  # One and two processes evaluate the same network: every person once, with the same numbers.
  before = {path.name for path in alone.iterdir()}
  reference = predictions_of(alone)
  codes, said = finish(*start_two(command(alone, 2.0, '--mode=eval')))
  assert codes == [0, 0], said
  assert {path.name for path in alone.iterdir()} == before
  found = predictions_of(alone)
  assert [person['image_id'] for person in found] == [person['image_id'] for person in reference]
  for one, other in zip(found, reference):
    np.testing.assert_allclose(one['keypoints'], other['keypoints'], atol=1e-3)
  assert lines_of(tmp_path)[-1].keys() == lines_of(alone)[-1].keys()
  assert lines_of(tmp_path)[-1]['eval/AP'] == lines_of(alone)[-1]['eval/AP']


def test_one_is_asked_to_stop_and_both_stop_at_the_same_step(alone, tmp_path):
  """One process then resumes from what the two saved."""
  first, second = start_two(command(tmp_path, 60.0))
  until(first, 'step 2/')
  second.send_signal(signal.SIGTERM)
  codes, said = finish(first, second)
  assert codes == [143, 143], said
  stops = {err.strip().splitlines()[-1] for _, err in said}
  assert len(stops) == 1, said
  stopped = stops.pop()
  assert stopped.startswith('Stopped: SIGTERM at step ')
  step = int(stopped.split()[4].strip(','))
  assert checkpoint.Checkpoints(tmp_path).latest_step() == step
  process = start(command(tmp_path, 60.0), 1)
  assert f'continuing from step {step} of' in until(process, 'continuing')
  process.send_signal(signal.SIGKILL)
  process.communicate()


def test_one_dies_and_the_other_ends(tmp_path):
  first, second = start_two(command(tmp_path, 60.0, '--config.train.checkpoint_every=2'))
  until(first, 'step 5/')
  second.send_signal(signal.SIGKILL)
  killed = time.perf_counter()
  codes, said = finish(first, second)
  assert time.perf_counter() - killed < 20
  assert codes[0] != 0, said
  step = checkpoint.Checkpoints(tmp_path).latest_step()
  first, second = start_two(command(tmp_path, 60.0))
  assert f'continuing from step {step} of' in until(first, 'continuing')
  until(first, f'step {step + 2}/')
  second.send_signal(signal.SIGTERM)
  codes, said = finish(first, second)
  assert codes == [143, 143], said


@pytest.mark.parametrize('arguments', [('localhost:1', None, 0), (None, 2, None), (None, None, 0)])
def test_flags_of_processes_go_together(arguments):
  with pytest.raises(errors.ConfigError, match='give all three, or none'):
    parallel.initialize(*arguments)


@pytest.mark.parametrize(
  ('arguments', 'outcome'),
  [
    ('', '1 process'),
    ('num_processes=1', '1 process'),
    ("'localhost:1', 2, 2", 'ConfigError --coordinator=localhost:1: process_id'),
  ],
)
def test_joining_processes(arguments, outcome):
  """Without a cluster a process runs alone. Each case is a process, as JAX allows one attempt."""
  code = (
    'import jax\n'
    'from mrpose_jax.runtime import parallel\n'
    'try:\n'
    f'  parallel.initialize({arguments})\n'
    "  print(jax.process_count(), 'process')\n"
    'except Exception as error:\n'
    '  print(type(error).__name__, error)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=kill_runs.ROOT,
    env=kill_runs.ENVIRONMENT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stdout.startswith(outcome), done.stderr
