"""Measures start-up times: importing the package, and the first training step of ResNet-50."""

import os
import pathlib
import statistics
import subprocess
import sys
import time

from benchmarks import turns

ROOT = pathlib.Path(__file__).parents[1]
IMPORT = 'import time; t = time.perf_counter(); import mrpose_jax; print(time.perf_counter() - t)'
UNWANTED = ('tensorflow', 'matplotlib', 'pandas', 'torch')


def run(num_turns, scratch: pathlib.Path) -> dict[str, list[float]]:
  """Returns the seconds of each turn for 'import', 'first step, cold' and 'first step, warm'.

  The first step is measured from the start of `main.py` to the end of step 1, on data prepared in
  `scratch`. Cold means an empty compilation cache; warm turns use the cache of the cold one.
  """
  imports = [float(_python('-c', IMPORT)) for _ in range(num_turns + 1)][1:]
  seconds = {'import': imports, 'first step, cold': [], 'first step, warm': []}
  cache = scratch / f'cache_{os.getpid()}'
  for turn in range(min(num_turns, 3) + 1):
    name = 'first step, warm' if turn else 'first step, cold'
    seconds[name].append(_first_step(scratch, scratch / f'start_{os.getpid()}_{turn}', cache))
  return seconds


def _python(*arguments):
  command = [sys.executable, *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _first_step(data_dir, workdir, cache):
  command = [
    *(sys.executable, 'main.py', '--config=configs/custom.py:simple_baseline,depth=50'),
    *(f'--workdir={workdir}', f'--config.data.data_dir={data_dir}', '--config.train.batch_size=8'),
    *('--config.data.name=synthetic_people', '--config.data.image_size=(256,192)'),
    *('--config.train.log_every=1',),
  ]
  start = time.perf_counter()
  with subprocess.Popen(
    command,
    cwd=ROOT,
    env={**os.environ, 'XDG_CACHE_HOME': str(cache)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    lines = []
    for line in process.stderr:
      lines.append(line)
      if 'step 1/' in line:
        seconds = time.perf_counter() - start
        process.kill()
        return seconds
  raise RuntimeError(f'main.py ended before its first step:\n{"".join(lines)}')


def rows(results) -> list[str]:
  """Returns rows of the table, without reference and ratio."""
  names = {'import': 'import mrpose_jax'}
  return [
    f'| {names.get(name, f"{name}, simple_baseline R50")} | {turns.spread(seconds, ".3g")} '
    f'({len(seconds)} {"turns" if len(seconds) > 1 else "turn"}) | | | |'
    for name, seconds in results.items()
    if statistics.median(seconds)
  ]
