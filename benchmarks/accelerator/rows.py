"""The rows of a part's table, on disk as soon as they are measured; sizes; and times."""

import dataclasses
import math
import pathlib
import statistics
import time
from collections.abc import Callable

import jax

from mrpose_jax import paths


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the networks and inputs, of the data, and seconds of a measurement."""

  depth: int = 50
  deep: int = 152
  width: int = 64
  image_size: tuple[int, int] = (256, 192)
  batch: int = 256  # people a device
  small_batch: int = 64
  people: tuple[int, ...] = (1, 8, 64, 256)
  images: tuple[int, int] = (600, 300)  # drawn images for training and validation
  steps: int = 60  # of the short run
  seconds: float = 1.0


TINY = Sizes(
  depth=18,
  deep=18,
  width=8,
  image_size=(64, 64),
  batch=4,
  small_batch=2,
  people=(1, 2),
  images=(12, 5),
  steps=7,
  seconds=0.05,
)


class Rows:
  """Collects the rows of one part; each is written at once, so that a later failure loses none.

  A process that is ended while it writes leaves the file as it was before.

  Attributes:
    folder: folder of the benchmark's results.
  """

  def __init__(self, folder: pathlib.Path, name: str):
    self.folder = pathlib.Path(folder)
    self._file = self.folder / f'{name}.json'
    self._content = {'rows': []}
    self._write()

  def sizes(self) -> Sizes:
    """Stores the devices' name; returns tiny sizes on a CPU, where this can only be tried out."""
    devices = jax.devices()
    kind = f'{len(devices)} x {devices[0].device_kind} ({devices[0].platform})'
    self._content['device'] = f'{kind}, jax {jax.__version__}'
    self._write()
    return TINY if devices[0].platform == 'cpu' else Sizes()

  def about(self, text: str):
    """Sets the sentence above the table."""
    self._content['about'] = text
    self._write()

  def add(self, what: str, **cells):
    """Adds a row; the names of the cells are the columns of the table."""
    self._content['rows'].append({'what': what, **cells})
    self._write()
    print(what, cells, flush=True)

  def _write(self):
    paths.write_json(self._file, self._content)


def seconds_of_call(call: Callable, at_least: float, turns: int = 3) -> float:
  """Median seconds of one call, over turns of as many calls as fill `at_least` seconds.

  Args:
    call: starts the work and returns its result, an array or a tree of arrays.
    at_least: seconds of a turn.
    turns: number of turns.
  """

  def turn(count):
    start = time.perf_counter()
    for _ in range(count):
      result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count

  turn(1)
  count = max(1, math.ceil(at_least / turn(1)))
  return statistics.median(turn(count) for _ in range(turns))
