"""Every benchmark in one run: `make benchmark`, or `python -m benchmarks --parts=network`.

Each part has a process of its own, for the memory and threads of one slow down the next. Writes
benchmarks.json with all figures and benchmarks.md with the tables.
"""

import concurrent.futures
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import pathlib

from absl import flags

from benchmarks import parts
from mrpose_jax import command_line
from mrpose_jax.runtime import compilation

_PARTS = flags.DEFINE_multi_enum('parts', parts.NAMES, parts.NAMES, 'What to measure.')
_TURNS = flags.DEFINE_integer('turns', 7, 'How often two take turns.', lower_bound=1)
_COCO = flags.DEFINE_string('coco', None, 'Folder of a COCO data set, for the loader.')
_SET = flags.DEFINE_string('set', 'train2017', 'Its image set.')
_SCRATCH = flags.DEFINE_string('scratch', 'runs/benchmark', 'Folder for prepared data.')
_OUTPUT = flags.DEFINE_string('output', '.', 'Folder for the figures and tables.')


def main(arguments):
  command_line.no_arguments(arguments)
  from benchmarks import turns
  from input_pipeline import prepare

  scratch, output = pathlib.Path(_SCRATCH.value), pathlib.Path(_OUTPUT.value)
  output.mkdir(parents=True, exist_ok=True)
  prepare.prepare('synthetic_people', None, scratch)
  versions = {name: importlib.metadata.version(name) for name in ('jax', 'flax', 'torch', 'numpy')}
  figures = {
    'date': datetime.datetime.now().isoformat(timespec='minutes'),
    'machine': turns.machine(),
    'versions': versions,
    'load_before': os.getloadavg()[0],
    'turns': _TURNS.value,
  }
  rows, tables = [], []
  for part in _PARTS.value:
    with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context('spawn'), compilation.set_up_memory
    ) as process:
      arguments = part, _TURNS.value, scratch, _COCO.value, _SET.value
      found = process.submit(parts.measure, *arguments).result()
    if part == 'start':
      from benchmarks import start

      rows += start.rows(found)
    elif part == 'loader':
      from benchmarks import loader

      tables.append(loader.report(found))
    elif part == 'scaling':
      from benchmarks import scaling

      tables.append(scaling.table(found))
      scaling.plot(found, output / 'scaling.png')
      found = [vars(point) for point in found]
    else:
      rows += [comparison.row() for comparison in found]
      found = [comparison._asdict() for comparison in found]
    figures[part] = found
    (output / 'benchmarks.json').write_text(json.dumps(figures, indent=1))  # should another fail
    print(f'{part} done', flush=True)
  head = (
    f'{figures["machine"]}; {", ".join(f"{name} {v}" for name, v in versions.items())}; '
    f'{figures["date"]}; load before the run {figures["load_before"]:.1f}; '
    f'median (least to most) of {_TURNS.value} turns'
  )
  tables.insert(0, '\n'.join([turns.HEADER, *rows]) if rows else '')
  text = '\n\n'.join([head, *filter(None, tables)]) + '\n'
  (output / 'benchmarks.md').write_text(text)
  print(text)


if __name__ == '__main__':
  command_line.run(main)
