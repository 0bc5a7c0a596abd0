"""How far a run is: a bar where somebody watches, lines where it goes to a file."""

import collections
import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterable
from collections.abc import Iterator

import jax
import tqdm

from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

# Steps that the host may be ahead of the devices: enough that they never wait for Python, and few
# enough that waiting for data shows, and that batches do not pile up in their memory.
STEPS_AHEAD = 2
LINE_SECONDS = 10  # between two lines of a Counter that nobody watches


def watched() -> bool:
  """Whether somebody sees standard error as it is written: in a terminal or a notebook."""
  return sys.stderr.isatty() or type(sys.stderr).__module__.startswith('ipykernel.')


class Counter:
  """How much is done: a bar in a terminal or notebook, a line every so often elsewhere."""

  def __init__(self, total: int | None, unit: str):
    self._total, self._unit = total, unit
    self._start = self._logged = time.perf_counter()
    self._bar = tqdm.tqdm(total=total, unit=f' {unit}', disable=not watched(), ncols=79)
    self._done = 0

  def advance(self, count: int):
    self._done += count
    self._bar.update(count)
    now = time.perf_counter()
    if self._bar.disable and now - self._logged >= LINE_SECONDS:
      self._logged = now
      rate = self._done / (now - self._start)
      of = f' of {self._total}' if self._total else ''
      log.info('%d%s %s, %.1f a second', self._done, of, self._unit, rate)

  def close(self):
    self._bar.close()


class Progress:
  """A bar in a terminal or notebook, a line an interval elsewhere.

  Its times leave out compiling and pauses.
  """

  def __init__(self, start_step: int, total_steps: int, batch_size: int):
    self._batch_size = batch_size
    self._steps = 0
    self._seconds = 0.0
    self._interval = 0.0  # seconds since the last log, and of them in waiting for data
    self._waited = 0.0
    self._since = None
    self._dispatched = collections.deque()
    self._left = total_steps - start_step
    self._step, self._total = start_step, total_steps
    self._bar = tqdm.tqdm(
      initial=start_step,
      total=total_steps,
      unit='step',
      disable=not (watched() and parallel.is_main()),
      bar_format='{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {postfix}',
    )

  def timed(self, batches: Iterable) -> Iterator:
    """Yields the batches; the time until each of them is there counts as waiting for data."""
    start = time.perf_counter()
    for batch in batches:
      self._waited += time.perf_counter() - start
      yield batch
      start = time.perf_counter()

  def advance(self, metrics):
    """One step was dispatched; the first ends with its compilation and is not timed.

    Returns when the devices are at most STEPS_AHEAD steps behind.
    """
    self._step += 1
    self._left -= 1
    self._bar.update()
    if self._since is None:
      jax.block_until_ready(metrics)
      self._since = time.perf_counter()
      self._waited = 0.0
    else:
      self._steps += 1
      self._dispatched.append(metrics)
      if len(self._dispatched) > STEPS_AHEAD:
        jax.block_until_ready(self._dispatched.popleft())

  def log(self, loss: float) -> dict[str, float]:
    """Shows loss, people a second and the time left.

    Returns:
      {'people_per_second': since the start, 'data_wait_fraction': the share of the time since the
      last log that went by in waiting for the next batch}.
    """
    self._tick()
    waiting = self._waited / self._interval if self._interval else math.nan
    self._interval = self._waited = 0.0
    rate = self._steps * self._batch_size / self._seconds if self._seconds else math.nan
    left = '?'
    if self._steps:
      left = tqdm.tqdm.format_interval(self._left * self._seconds / self._steps)
    self._bar.set_postfix_str(f'loss {loss:.6f}, {rate:.1f} people/s, {left} left')
    if self._bar.disable:
      log.info(
        'step %d/%d, loss %.6f, %.1f people/s, %s left', self._step, self._total, loss, rate, left
      )
    return {'people_per_second': rate, 'data_wait_fraction': waiting}

  @contextlib.contextmanager
  def paused(self):
    """A context whose time does not count."""
    self._tick()
    yield
    if self._since is not None:
      self._since = time.perf_counter()

  def note(self, text: str):
    if self._bar.disable:
      log.info('%s', text)
    else:
      self._bar.write(text, file=sys.stderr)

  def close(self):
    self._bar.close()

  def _tick(self):
    if self._since is None:  # before the first step's end
      return
    now = time.perf_counter()
    self._seconds += now - self._since
    self._interval += now - self._since
    self._since = now
