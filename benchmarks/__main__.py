"""Runs all benchmarks: `make benchmark`, or some: `python -m benchmarks --parts=network`.

`python -m benchmarks --parts=accelerator` (`make accelerator`) is for GPUs and TPUs, see
`accelerator.runner`; it writes accelerator.json and accelerator.md. If one of its parts fails, the
command ends with exit code 1 after the last one.

Each part runs in its own process, because one part's memory and threads would slow down the next.
Writes benchmarks.json with all results and benchmarks.md with the tables.
"""

import concurrent.futures
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import sys

from absl import flags

from benchmarks import parts
from mrpose_jax import command_line
from mrpose_jax import paths
from mrpose_jax.runtime import compilation

_PARTS = flags.DEFINE_multi_enum(
  'parts', parts.NAMES, (*parts.NAMES, parts.ACCELERATOR), 'Benchmarks to run.'
)
_TURNS = flags.DEFINE_integer(
  'turns', 7, 'Number of turns, each of which times both sides.', lower_bound=1
)
_COCO = flags.DEFINE_string('coco', None, 'Folder of a COCO data set for the loader benchmark.')
_SET = flags.DEFINE_string('set', 'train2017', 'Image set of --coco.')
_SCRATCH = flags.DEFINE_string('scratch', 'runs/benchmark', 'Folder for prepared data.')
_OUTPUT = flags.DEFINE_string('output', '.', 'Folder for the results and tables.')


def main(arguments):
  command_line.no_arguments(arguments)
  output = paths.parse_local(_OUTPUT.value, '--output', written=True)
  failed = []
  if parts.ACCELERATOR in _PARTS.value:
    from benchmarks.accelerator import runner

    results = runner.run(output)
    print(runner.markdown(results))
    failed = runner.failed(results)
  usual = [part for part in _PARTS.value if part != parts.ACCELERATOR]
  if usual:
    scratch = paths.parse_local(_SCRATCH.value, '--scratch', written=True)
    _run(usual, scratch, output)
  if failed:
    sys.exit(f'failed: {", ".join(failed)}; see {output / "accelerator.md"}')


def _run(names, scratch, output):
  """Runs these parts, and writes and prints their tables."""
  from benchmarks import turns
  from mrpose_jax.input_pipeline import prepare

  output.mkdir(parents=True, exist_ok=True)
  prepare.prepare('synthetic_people', None, scratch)
  # Not every part needs torch.
  installed = importlib.metadata.packages_distributions()
  versions = {
    name: importlib.metadata.version(name)
    for name in ('jax', 'flax', 'torch', 'numpy')
    if name in installed
  }
  figures = {
    'date': datetime.datetime.now().isoformat(timespec='minutes'),
    'machine': turns.machine(),
    'versions': versions,
    'load_before': os.getloadavg()[0],
    'turns': _TURNS.value,
  }
  rows, tables = [], []
  for part in names:
    with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context('spawn'), compilation.set_up_memory
    ) as process:
      arguments = part, _TURNS.value, scratch, _COCO.value, _SET.value
      results = process.submit(parts.measure, *arguments).result()
    if part == 'start':
      from benchmarks import start

      rows += start.rows(results)
    elif part == 'loader':
      from benchmarks import loader

      tables.append(loader.report(results))
    elif part == 'scaling':
      from benchmarks import scaling

      tables.append(scaling.table(results))
      scaling.plot(results, output / 'scaling.png')
      results = [vars(point) for point in results]
    else:
      rows += [comparison.row() for comparison in results]
      results = [comparison._asdict() for comparison in results]
    figures[part] = results
    # Written after each part, so that a failure of the next loses nothing.
    (output / 'benchmarks.json').write_text(json.dumps(figures, indent=1))
    print(f'{part} done', flush=True)
  head = (
    f'{figures["machine"]}; {", ".join(f"{name} {v}" for name, v in versions.items())}; '
    f'{figures["date"]}; load before the run {figures["load_before"]:.1f}; '
    f'median (minimum to maximum) of {_TURNS.value} turns'
  )
  tables.insert(0, '\n'.join([turns.HEADER, *rows]) if rows else '')
  text = '\n\n'.join([head, *filter(None, tables)]) + '\n'
  (output / 'benchmarks.md').write_text(text)
  print(text)


if __name__ == '__main__':
  command_line.run(main)
