"""One part of the accelerator benchmark: `python -m benchmarks.accelerator NAME MODULE FOLDER`.

`python -m benchmarks --parts=accelerator` starts this process; see `runner`.
"""

import importlib
import pathlib
import sys

from benchmarks.accelerator import rows


def main(name: str, module: str, folder: str):
  part = importlib.import_module(f'benchmarks.accelerator.{module}')
  part.measure(rows.Rows(pathlib.Path(folder), name))


if __name__ == '__main__':
  main(*sys.argv[1:])
