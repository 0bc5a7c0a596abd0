"""Two ways of doing the same work, in turns: what else the machine does meets both."""

import gc
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Comparison(NamedTuple):
  """Seconds of each turn.

  Attributes:
    what: what both do.
    ours, theirs: seconds of a turn.
    reference: who they are.
  """

  what: str
  ours: list[float]
  theirs: list[float]
  reference: str

  @property
  def ratios(self) -> list[float]:
    """How many times as fast ours is, turn by turn."""
    return [theirs / ours for ours, theirs in zip(self.ours, self.theirs)]

  def row(self) -> str:
    """Of the table: median (least to most)."""
    cells = self.what, spread(self.ours, '.3g'), spread(self.theirs, '.3g'), self.reference
    return f'| {" | ".join(cells)} | {spread(self.ratios, ".2f")} |'


HEADER = '| | this project, s | reference, s | reference is | ratio |\n|---|---|---|---|---|'


def take_turns(
  what: str, ours: Callable, theirs: Callable, turns: int, reference: str
) -> Comparison:
  """Times both `turns` times, after two calls of each that do not count."""
  for function in (ours, theirs, ours, theirs):
    function()
  seconds = [], []
  for _ in range(turns):
    for found, function in zip(seconds, (ours, theirs)):
      gc.collect()
      found.append(seconds_of(function))
  return Comparison(what, *seconds, reference)


def seconds_of(function: Callable) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def spread(values, form) -> str:
  return f'{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})'


def machine() -> str:
  model = platform.processor() or platform.machine()
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith('model name')]
    model = names[0].partition(': ')[2] if names else model
  return f'{model}, {os.cpu_count()} cores, Python {platform.python_version()}'
