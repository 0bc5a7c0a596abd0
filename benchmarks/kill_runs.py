"""Kills training many times and checks that its result equals that of an uninterrupted run.

  python -m benchmarks.kill_runs --kills=50

Half of the kills (SIGKILL) happen at a random time after the start, half while a checkpoint is
being saved. Then the run is finished and compared, bit for bit, with a run that was never killed:
parameters, batch statistics, their moving average if there is one, optimizer state, step, and the
loss and evaluation of every step. Fields of the configuration follow after `--`, for example
`-- --config.train.ema=0.999`.

  python -m benchmarks.kill_runs --kills=20 --emulator

The same with workdirs in a bucket, on an emulator of Cloud Storage. With --processes=2, each run
has two processes, and one of them is killed.

  python -m benchmarks.kill_runs --restarts=300

This restarts a finished run many times in one process, and counts the resources left behind.
"""

import functools
import json
import logging
import os
import pathlib
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags

from benchmarks import emulator
from mrpose_jax import command_line
from mrpose_jax import defaults
from mrpose_jax import paths
from mrpose_jax import train
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
from mrpose_jax.runtime import checkpoint

POLL_SECONDS = 0.002
XLA_FLAGS = ''  # of the runs: one device, because the exact bits depend on how a batch is split
ROOT = pathlib.Path(__file__).parents[1]


@functools.cache
def data_dir() -> pathlib.Path:
  """Folder with a few synthetic people, prepared as data set 'coco'."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='kill_runs_'))
  source = folder / 'source'
  for image_set, count in (('train', 12), ('validation', 5)):
    synthetic_people.write_coco(source, image_set, count, seed=0, processes=1)
  prepare.prepare('coco', source, folder, train='train', validation='validation', canvas=160)
  return folder


def environment() -> dict[str, str]:
  """Variables of a run, with those of this process, such as the address of the emulator."""
  others = os.environ.get('PYTHONPATH', '')
  return {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{others}', 'XLA_FLAGS': XLA_FLAGS}


def command(workdir, epochs: float, *more: str) -> list[str]:
  """Command line of a tiny training run that saves a checkpoint every few steps."""
  return [
    *(sys.executable, str(ROOT / 'main.py'), f'--workdir={workdir}'),
    '--config=configs/custom.py:simple_baseline,width=4',
    f'--config.data.data_dir={data_dir()}',
    '--config.train.batch_size=4',
    '--config.eval.batch_size=4',
    '--config.eval.canvas=384',
    '--config.train.log_every=1',
    '--config.train.checkpoint_every=5',
    '--config.train.evaluate_every=6',
    f'--config.train.epochs={epochs}',
    *more,
  ]


def start(workdir, epochs: float, *more: str) -> subprocess.Popen:
  """Starts the tiny run in its own process."""
  return subprocess.Popen(
    command(workdir, epochs, *more),
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_all(workdir, epochs: float, count: int, *more: str) -> list[subprocess.Popen]:
  """Starts the tiny run with this number of processes."""
  if count == 1:
    return [start(workdir, epochs, *more)]
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  together = f'--coordinator=localhost:{port}', f'--num_processes={count}'
  return [
    start(workdir, epochs, *together, f'--process_id={number}', *more) for number in range(count)
  ]


def finish(workdir, epochs: float, *more: str, count: int = 1):
  """Runs the tiny run to its end."""
  for process in start_all(workdir, epochs, count, *more):
    _, stderr = process.communicate()
    if process.returncode:
      raise RuntimeError(f'exit code {process.returncode}: {stderr}')


def wait_for_a_save(processes, workdir, draw: random.Random):
  """Waits until a run is in the middle of a save, or has ended."""
  saves = draw.randint(1, 3)
  while _all_run(processes):
    _wait_while(lambda: saving(workdir), processes)  # also what an earlier kill left behind
    _wait_while(lambda: not saving(workdir), processes)
    saves -= 1
    time.sleep(draw.uniform(0, 0.03))
    if saves <= 0 and saving(workdir):
      return


def contents(workdir) -> tuple[dict[str, bytes], dict[int, float], list[dict]]:
  """Returns the bytes of each array of the last checkpoint, the losses, and the evaluations."""
  workdir = paths.parse(workdir)
  steps = [int(path.name) for path in (workdir / 'checkpoints').iterdir()]
  folder = workdir / 'checkpoints' / str(max(steps))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # whatever devices the run had
  arrays = {}
  for item in ('variables', 'ema', 'training'):
    if not (folder / item).is_dir():  # `ema` exists only with train.ema
      continue
    checkpointer = ocp.StandardCheckpointer()
    stored = checkpointer.metadata(folder / item).item_metadata.tree
    tree = checkpointer.restore(folder / item, checkpoint.restore_target(stored, here))
    for path, leaf in ocp.tree.to_flat_dict(tree, sep='/').items():
      arrays[f'{item}/{path}'] = np.asarray(leaf).tobytes()
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  losses = [(line['step'], line['loss']) for line in lines if 'loss' in line]
  assert [step for step, _ in losses] == list(range(1, len(losses) + 1))
  return arrays, dict(losses), [line for line in lines if 'loss' not in line]


def main(arguments):
  logging.getLogger('mrpose_jax').setLevel(logging.WARNING)
  logging.getLogger('gcsfs').setLevel(logging.ERROR)
  kills, restarts = flags.FLAGS.kills, flags.FLAGS.restarts
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    if restarts:
      for total, times in ((3, 3), (10, 7), (restarts, max(0, restarts - 10))):
        print(f'{total} starts: {restart(folder, times)}', flush=True)
      return
    if flags.FLAGS.emulator:
      folder = paths.parse(emulator.make_bucket('kill-runs'))
    run(
      *(folder, kills, 3.0 * kills, flags.FLAGS.seed, *arguments),
      count=flags.FLAGS.processes,
      longest=flags.FLAGS.seconds,
    )


def run(
  folder: paths.Path,
  kills: int,
  epochs: float,
  seed: int,
  *more: str,
  count: int = 1,
  longest: float = 9.0,
):
  """Raises AssertionError unless a run killed `kills` times ends like an uninterrupted run.

  Args:
    folder: folder for both workdirs.
    kills: number of kills.
    epochs: length of the runs.
    seed: random seed of the times of the kills.
    *more: further arguments of the command.
    count: number of processes in each run, of which one is killed.
    longest: seconds from a start to a kill that is not in a save, at most; time for some steps.
  """
  draw = random.Random(seed)
  finish(folder / 'whole', epochs, *more, count=count)
  during_saves = 0
  workdir = folder / 'killed'
  for number in range(kills):
    processes = start_all(workdir, epochs, count, *more)
    if number % 2:  # the others may find what these have left behind
      wait_for_a_save(processes, workdir, draw)
    else:
      time.sleep(draw.uniform(0, longest))
    assert _all_run(processes), (
      f'the run ended before kill {number + 1}: {[process.stderr.read() for process in processes]}'
    )
    draw.choice(processes).kill()
    for process in processes:  # the others end as well, within 20 s
      process.communicate()
    interrupted_save = bool(number % 2) and saving(workdir)
    during_saves += interrupted_save
    print(f'kill {number + 1}: {"in a save" if interrupted_save else "at any time"}', flush=True)
  finish(workdir, epochs, *more, count=count)
  arrays, losses, evaluations = contents(folder / 'whole')
  assert (arrays, losses, evaluations) == contents(workdir)
  whole, killed = (
    {path.name for path in folder.iterdir() if not path.name.startswith('events.')}
    for folder in (folder / 'whole', workdir)
  )
  assert killed == whole, f'files that differ from an uninterrupted run: {killed ^ whole}'
  assert len(list(workdir.glob('events.*'))) == 1
  print(
    f'{kills} kills, {during_saves} of them while saving a checkpoint: {len(arrays)} arrays, '
    f'the losses of {len(losses)} steps and {len(evaluations)} evaluations equal those of an '
    'uninterrupted run, bit for bit'
  )


def restart(workdir: pathlib.Path, times: int) -> dict[str, int]:
  """Starts a run of one epoch `times` times in this process, and counts the resources in use."""
  config = defaults.get_config()
  config.model.update({'network': 'simple_baseline', 'depth': 18, 'width': 4})
  config.data.update({'data_dir': str(data_dir()), 'image_size': (128, 96), 'sigma': 1.0})
  config.train.update({'batch_size': 8, 'epochs': 1.0, 'log_every': 2})
  config.eval.update({'batch_size': 8, 'canvas': 384})
  for _ in range(times):
    train.train_and_evaluate(config, workdir)
  with open('/proc/self/statm') as file:
    resident = int(file.read().split()[1]) * resource.getpagesize()
  return {
    'files': len(list(workdir.rglob('*'))),
    'threads': threading.active_count(),
    'open files': len(os.listdir('/proc/self/fd')),
    'shared memory': len(os.listdir('/dev/shm')),
    'children': len(pathlib.Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()),
    'MB': resident >> 20,
  }


def saving(workdir: paths.Path) -> bool:
  """Whether an unfinished checkpoint exists."""
  folder = workdir / 'checkpoints'
  return folder.is_dir() and not all(map(paths.is_committed, folder.iterdir()))


def _wait_while(condition, processes):
  while condition() and _all_run(processes):
    time.sleep(POLL_SECONDS)


def _all_run(processes):
  return all(process.poll() is None for process in processes)


if __name__ == '__main__':
  flags.DEFINE_bool('emulator', False, 'Use workdirs in an emulated bucket.')
  flags.DEFINE_integer('kills', 50, 'Number of kills.')
  flags.DEFINE_integer('processes', 1, 'Number of processes in each run.')
  flags.DEFINE_integer('restarts', 0, 'If positive, restart a finished run this often instead.')
  flags.DEFINE_float('seconds', 9.0, 'Kills that are not in a save come this late at most.')
  flags.DEFINE_integer('seed', 0, 'Random seed of the times of the kills.')
  command_line.run(main)
