"""Compares two real processes with two devices each to one process with one device."""

import json
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import kill_runs
from mrpose_jax import errors
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
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


def start(arguments, devices, *more, **environment):
  environment = {
    **kill_runs.environment(),
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    **environment,
  }
  return subprocess.Popen(
    [*arguments, *more],
    cwd=kill_runs.ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(arguments, *for_second):
  """Starts two processes with two devices each; the second has some more arguments."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  common = (f'--coordinator=localhost:{port}', '--num_processes=2')
  first = start(arguments, 2, *common, '--process_id=0')
  return [first, start(arguments, 2, *common, '--process_id=1', *for_second)]


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


def test_one_of_two_has_no_people_to_evaluate(alone, tmp_path):
  """A run that starts from another run's network, with a single validation image."""
  source = tmp_path / 'source'
  for image_set, count in (('train', 4), ('validation', 1)):
    synthetic_people.write_coco(source, image_set, count, seed=0, processes=1)
  prepare.prepare('coco', source, tmp_path, train='train', validation='validation', canvas=160)
  arguments = command(tmp_path / 'run', 1.0, f'--config.model.pretrained={alone}')
  codes, said = finish(*start_two([*arguments, f'--config.data.data_dir={tmp_path}']))
  assert codes == [0, 0], said
  assert '| AP |' in said[0][0]
  assert f'of {alone}, K = 17' in said[0][1]
  assert len({person['image_id'] for person in predictions_of(tmp_path / 'run')}) == 1


FAILING = """
import sys
import time
from mrpose_jax import command_line
from mrpose_jax import errors

start = command_line.define_machines()

def command(arguments):
  start(together=True)
  if arguments:
    raise eval(arguments[0])
  time.sleep(600)  # in the place of a step that waits for the other process

command_line.run(command)
"""


def test_one_fails_and_both_end():
  started = time.perf_counter()
  runs = [
    (start_two([sys.executable, '-c', FAILING], error), code, line)
    for error, code, line in (
      ("errors.CheckpointError('damaged')", 4, 'CheckpointError: damaged'),
      ("TypeError('a bug')", 1, 'TypeError: a bug'),
    )
  ]
  for processes, code, line in runs:
    codes, said = finish(*processes)
    assert codes[1] == code, said
    assert codes[0] != 0, said
    assert said[1][1].splitlines()[-1] == line
  assert time.perf_counter() - started < 60


def test_both_fail_and_both_say_why():
  arguments = [sys.executable, '-c', FAILING, "errors.DataError('absent')"]
  codes, said = finish(*start_two(arguments))
  assert codes == [3, 3], said
  assert [err.strip().splitlines()[-1] for _, err in said] == 2 * ['DataError: absent']


# What `srun --pty --ntasks=4 bash` leaves in the environment of its one shell.
INTERACTIVE_SLURM = {
  **{'SLURM_JOB_ID': '1', 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '4'},
  **{'SLURM_PROCID': '0', 'SLURM_LOCALID': '0', 'SLURM_STEP_NUM_NODES': '1'},
}

JOINING = """
from mrpose_jax import command_line
from mrpose_jax.runtime import parallel

parallel.JOIN_SECONDS, parallel.QUIET_SECONDS = 2, 0.5
start = command_line.define_machines()
command_line.run(lambda arguments: print(start(together=True)))
"""


def test_waiting_for_others_is_said_and_ends():
  codes, ((_, err),) = finish(start([sys.executable, '-c', JOINING], 1, **INTERACTIVE_SLURM))
  assert codes == [2], err
  waits, ends = err.splitlines()
  others = 'the other 3 of 4 processes at localhost:61441 (this is process 0)'
  assert waits.endswith(f'waiting for {others}, for at most 2 s; --num_processes=1 runs alone')
  assert ends == (
    f'ConfigError: the processes of this run do not find each other (waited 2 s for {others}); '
    '--num_processes=1 runs alone'
  )


@pytest.mark.parametrize(
  ('mode', 'code'), [('predict', 3), ('export', 4), ('import', 4), ('show', 0), ('plan', 2)]
)
def test_modes_that_need_no_other_process_join_none(mode, code, tmp_path):
  """Each mode but show ends with the error of a missing file instead of waiting."""
  flags = f'--mode={mode}', '--topology=x', f'--input={tmp_path}/x', f'--output={tmp_path}/y.onnx'
  arguments = command(tmp_path / 'absent', 1.0, *flags)
  codes, ((_, err),) = finish(start(arguments, 1, **INTERACTIVE_SLURM))
  assert codes == [code], err
  assert 'waiting' not in err


def test_a_single_process_of_several_exports():
  flags = '--mode=export', '--coordinator=localhost:1', '--num_processes=2', '--process_id=1'
  arguments = command('absent', 1.0, *flags)
  codes, ((out, err),) = finish(start(arguments, 1))
  assert codes == [0]
  assert not out
  assert err.strip().endswith('process 0 alone runs this command')


def test_rows_are_gathered_from_processes_that_have_none(monkeypatch):
  """Stands in for a process with rows that gathers together with one without, and the reverse."""
  rows = np.arange(12, dtype=np.float64).reshape(2, 3, 2)
  monkeypatch.setattr(parallel.jax, 'process_count', lambda: 2)

  def gather_with(count):
    def gather(array):
      other = np.zeros_like(array) if array.ndim else np.int32(count)
      return np.stack([array, other])

    return gather

  for ours, others in ((rows, 0), (rows[:0], 0), (rows[:, 0, 0], 0)):
    monkeypatch.setattr(parallel.multihost_utils, 'process_allgather', gather_with(others))
    np.testing.assert_array_equal(parallel.gather_rows(ours), ours)
  monkeypatch.setattr(parallel.multihost_utils, 'process_allgather', gather_with(2))
  assert parallel.gather_rows(rows[:0]).shape == (2, 3, 2)


def test_all_wait_for_process_0_before_they_agree(monkeypatch):
  """It may watch a lock for 60 s, but a collective on CPUs times out after 30 s."""
  calls = []

  def broadcast(number):
    calls.append('broadcast')
    return number

  monkeypatch.setattr(parallel.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(parallel, 'wait_for_all', lambda name: calls.append('wait'))
  monkeypatch.setattr(parallel.multihost_utils, 'broadcast_one_to_all', broadcast)
  assert parallel.agree(7) == 7
  assert parallel.agree(None) is None
  assert calls == 2 * ['wait', 'broadcast']


def test_the_mesh_keeps_the_order_of_processes(monkeypatch):
  """`jax.devices` of a TPU slice may be in any order."""
  devices = jax.devices()
  monkeypatch.setattr(parallel.jax, 'devices', lambda: devices[::-1])
  assert parallel.data_mesh().devices.tolist() == devices


def test_devices_that_are_not_there():
  arguments = command('absent', 1.0, '--mode=export', '--output=absent')
  codes, ((_, err),) = finish(start(arguments, 1, JAX_PLATFORMS='cuda'))
  assert codes == [2]
  assert err.startswith('ConfigError: JAX_PLATFORMS=cuda: ')
  assert err.endswith(', or unset JAX_PLATFORMS\n')
  assert len(err.splitlines()) == 1


def test_the_devices_of_several_processes_are_not_for_one(monkeypatch):
  """A TPU slice has several processes even if nothing has joined them."""
  parallel.start_devices(alone=True)
  monkeypatch.setattr(parallel.jax, 'process_count', lambda: 4)
  parallel.start_devices()
  with pytest.raises(errors.ConfigError, match='but 4 processes share these devices'):
    parallel.start_devices(alone=True)


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
    env=kill_runs.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stdout.startswith(outcome), done.stderr
