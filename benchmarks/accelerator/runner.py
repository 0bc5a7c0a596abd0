"""Runs the parts of the accelerator benchmark one after the other, within eight minutes.

Each part is a process of its own: the next one finds the memory of the devices free, a part that
takes too long can be ended, and a part that fails or crashes stops no other. This module imports
neither JAX nor PyTorch, so that it holds no device itself.
"""

import datetime
import importlib.util
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 480  # of the whole benchmark
SHORTEST = 15  # seconds; with less time left no part starts
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'
NO_TORCH = 'left out: PyTorch is not installed; pip install torch'


class Part(NamedTuple):
  """One part of the benchmark.

  Attributes:
    module: its module in this package.
    seconds: the time it may take.
    xla_flags: flags for XLA.
    needs_torch: whether it is left out where PyTorch is not installed.
  """

  module: str
  seconds: int
  xla_flags: str = ''
  needs_torch: bool = False


# In this order; together they may take as long as the whole.
PARTS = {
  'training': Part('training', 110),
  'networks': Part('networks', 85),
  'pytorch': Part('against_torch', 75, needs_torch=True),
  'run': Part('short_run', 60),
  'prediction': Part('prediction', 40),
  'crops': Part('crops', 20),
  'deterministic': Part('deterministic', 35, DETERMINISTIC),
  'resume': Part('resume', 55, DETERMINISTIC),
}


def run(folder: pathlib.Path, parts: dict[str, Part] = PARTS, seconds: float = SECONDS) -> dict:
  """Runs the parts and returns the results, which `write` has stored after each part.

  Args:
    folder: the results, logs, traces and compiled programs are written here. A second run in the
      same folder compiles less, and so has time for more.
    parts: {name: Part}.
    seconds: after this time no part starts, and the one that runs is ended.

  Returns:
    {'date', 'machine', 'parts': {name: {'status', 'seconds', 'device', 'rows'}}}; status is 'done',
    'failed: REASON', 'ended after N s' or 'left out: REASON'.
  """
  folder.mkdir(parents=True, exist_ok=True)
  results = {
    'date': datetime.datetime.now().isoformat(timespec='minutes'),
    'machine': f'{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}',
    'parts': {},
  }
  end = time.monotonic() + seconds
  for name, part in parts.items():
    started = time.monotonic()
    (folder / f'{name}.json').unlink(missing_ok=True)
    left = end - started
    if part.needs_torch and not importlib.util.find_spec('torch'):
      status = NO_TORCH
    elif left < min(SHORTEST, part.seconds):
      status = 'left out: no time'
    else:
      status = _run_part(name, part, folder, min(part.seconds, left))
    rows = folder / f'{name}.json'
    found = json.loads(rows.read_text()) if rows.exists() else {'rows': []}
    taken = round(time.monotonic() - started, 1)
    results['parts'][name] = {'status': status, 'seconds': taken, **found}
    write(results, folder)
    print(f'{name}: {status}, {taken:.0f} s', flush=True)
  return results


def environment(part: Part, folder: pathlib.Path) -> dict[str, str]:
  """Variables of a part's process."""
  variables = {
    **os.environ,
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {part.xla_flags}'.strip(),
    # Memory is taken as it is needed, so that PyTorch finds some, too.
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.95',
    'JAX_COMPILATION_CACHE_DIR': str(folder.absolute() / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '1',
  }
  platforms = os.environ.get('JAX_PLATFORMS', '')
  if platforms and 'cpu' not in platforms.split(','):
    variables['JAX_PLATFORMS'] = f'{platforms},cpu'  # parts compare the device with the CPU
  return variables


def _run_part(name, part, folder, seconds):
  """Runs one part in its own process; returns its status."""
  log = folder / f'{name}.log'
  command = [sys.executable, '-m', 'benchmarks.accelerator', name, part.module, str(folder)]
  with open(log, 'w', encoding='utf-8') as file:
    process = subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment(part, folder),
      stdout=file,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # so that its own processes can be ended with it
    )
    try:
      code = process.wait(seconds)
    except subprocess.TimeoutExpired:
      return f'ended after {seconds:.0f} s'
    finally:
      _end(process)
  if code == 0:
    return 'done'
  lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
  reason = lines[-1] if lines else f'exit code {code}'
  return f'failed: {reason[:300]} (see {log.name})'


def _end(process):
  """Ends the processes of a part."""
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
  process.wait()


def failed(results: dict) -> list[str]:
  """Names of the parts that failed; one that was ended or left out did not."""
  return [name for name, part in results['parts'].items() if part['status'].startswith('failed')]


def write(results: dict, folder: pathlib.Path):
  """Writes the results to accelerator.json and, as tables, to accelerator.md."""
  (folder / 'accelerator.json').write_text(json.dumps(results, indent=1) + '\n')
  (folder / 'accelerator.md').write_text(markdown(results))


def markdown(results: dict) -> str:
  """The results as Markdown: one table for each part."""
  devices = {part['device'] for part in results['parts'].values() if 'device' in part}
  texts = [f'{"; ".join(sorted(devices)) or "no device"}; {results["machine"]}; {results["date"]}']
  for name, part in results['parts'].items():
    texts.append(f'## {name}\n\n{part["status"]}, {part["seconds"]:.0f} s')
    if part.get('about'):
      texts.append(part['about'])
    if part['rows']:
      texts.append(_table(part['rows']))
  return '\n\n'.join(texts) + '\n'


def _table(rows):
  """A table whose columns are the cells of all rows, in the order in which they appear."""
  columns = list(dict.fromkeys(name for row in rows for name in row))
  lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
  for row in rows:
    lines.append(f'| {" | ".join(_cell(row.get(name, "")) for name in columns)} |')
  return '\n'.join(lines)


def _cell(value):
  if isinstance(value, float):
    return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.4g}'
  return ' '.join(str(value).split()).replace('|', '\\|')
