"""Times two implementations of the same work in turns, so that other load affects both."""

import gc
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from mrpose_jax.input_pipeline.host import cores


class Comparison(NamedTuple):
  """Times of two implementations.

  Attributes:
    what: description of the work.
    ours, theirs: seconds of each turn.
    reference: name of the other implementation.
  """

  what: str
  ours: list[float]
  theirs: list[float]
  reference: str

  @property
  def ratios(self) -> list[float]:
    """Speed-up of ours over theirs in each turn."""
    return [theirs / ours for ours, theirs in zip(self.ours, self.theirs)]

  def row(self) -> str:
    """Row of the table; times are median (minimum to maximum)."""
    cells = self.what, spread(self.ours, '.3g'), spread(self.theirs, '.3g'), self.reference
    return f'| {" | ".join(cells)} | {spread(self.ratios, ".2f")} |'


HEADER = '| | this project, s | reference, s | reference is | ratio |\n|---|---|---|---|---|'


def take_turns(
  what: str, ours: Callable, theirs: Callable, turns: int, reference: str
) -> Comparison:
  """Times each function `turns` times, alternately, after two untimed calls of each."""
  for function in (ours, theirs, ours, theirs):
    function()
  seconds = [], []
  for _ in range(turns):
    for durations, function in zip(seconds, (ours, theirs)):
      gc.collect()
      durations.append(seconds_of(function))
  return Comparison(what, *seconds, reference)


def seconds_of(function: Callable) -> float:
  """Duration of one call in seconds."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def spread(values, form) -> str:
  """'median (minimum to maximum)' of the values, in the format `form`."""
  return f'{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})'


def machine() -> str:
  """Describes this machine: processor, number of cores and Python version."""
  model = platform.processor() or platform.machine()
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith('model name')]
    model = names[0].partition(': ')[2] if names else model
  return f'{model}, {cores.available()} cores, Python {platform.python_version()}'
