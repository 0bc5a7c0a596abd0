"""Progress of a run: a bar in a terminal or notebook, log lines elsewhere."""

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

# Steps that the host may dispatch ahead of the devices: enough that they never wait for Python, and
# few enough that waiting for data is measured and batches do not fill the devices' memory.
STEPS_AHEAD = 2
LINE_SECONDS = 10  # between two log lines of a Counter without a bar


def watched() -> bool:
  """Whether standard error is a terminal or a notebook, where a bar can be shown."""
  return sys.stderr.isatty() or type(sys.stderr).__module__.startswith('ipykernel.')


class Counter:
  """Counts finished items: a bar in a terminal or notebook, regular log lines elsewhere."""

  def __init__(self, total: int | None, unit: str):
    self._total, self._unit = total, unit
    self._log_time, self._log_done = time.perf_counter(), 0  # of the last log line
    self._bar = tqdm.tqdm(total=total, unit=f' {unit}', disable=not watched(), ncols=79)
    self._done = 0

  def advance(self, count: int):
    self._done += count
    self._bar.update(count)
    now = time.perf_counter()
    if self._bar.disable and now - self._log_time >= LINE_SECONDS:
      rate = (self._done - self._log_done) / (now - self._log_time)
      self._log_time, self._log_done = now, self._done
      total = f' of {self._total}' if self._total else ''
      log.info('%d%s %s, %.1f per second', self._done, total, self._unit, rate)

  def close(self):
    self._bar.close()


class Progress:
  """Progress of training: a bar in a terminal or notebook, a line per call of `log` elsewhere.

  Rates and remaining times exclude compilation and pauses. The rate is that of the steps since the
  last log; `close` shows the mean over all of them.
  """

  def __init__(self, start_step: int, total_steps: int, batch_size: int):
    self._batch_size = batch_size
    self._timed_steps, self._timed_seconds = 0, 0.0  # up to the last log
    self._log_steps, self._log_seconds = 0, 0.0  # since the last log
    self._wait_seconds = 0.0  # part of them spent waiting for data
    self._timed_until = None  # None until the first step has ended
    self._dispatched = collections.deque()
    self._steps_left = total_steps - start_step
    self._step, self._total = start_step, total_steps
    self._bar = tqdm.tqdm(
      initial=start_step,
      total=total_steps,
      unit='step',
      disable=not (watched() and parallel.is_main()),
      bar_format='{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {postfix}',
    )

  def timed(self, batches: Iterable) -> Iterator:
    """Yields the batches; the time until each of them arrives counts as waiting for data."""
    start = time.perf_counter()
    for batch in batches:
      self._wait_seconds += time.perf_counter() - start
      yield batch
      start = time.perf_counter()

  def advance(self, metrics):
    """Counts a dispatched step; the first one is not timed, because it includes compilation.

    Returns when the devices are at most STEPS_AHEAD steps behind.
    """
    self._step += 1
    self._steps_left -= 1
    self._bar.update()
    if self._timed_until is None:
      jax.block_until_ready(metrics)
      self._timed_until = time.perf_counter()
      self._wait_seconds = 0.0
    else:
      self._log_steps += 1
      self._dispatched.append(metrics)
      if len(self._dispatched) > STEPS_AHEAD:
        jax.block_until_ready(self._dispatched.popleft())

  def log(self, loss: float) -> dict[str, float]:
    """Shows the loss, people per second and the remaining time.

    Returns:
      {'people_per_second': mean since the last log, 'data_wait_fraction': share of that time that
      was spent waiting for the next batch}; both are NaN if no step was timed.
    """
    self._tick()
    rate = waiting = math.nan
    if self._log_steps and self._log_seconds:
      rate = self._log_steps * self._batch_size / self._log_seconds
      waiting = self._wait_seconds / self._log_seconds
    self._timed_steps += self._log_steps
    self._timed_seconds += self._log_seconds
    self._log_steps, self._log_seconds, self._wait_seconds = 0, 0.0, 0.0
    left = '?'
    if self._timed_steps:
      seconds_left = self._steps_left * self._timed_seconds / self._timed_steps
      left = tqdm.tqdm.format_interval(seconds_left)
    self._bar.set_postfix_str(f'loss {loss:.6f}, {rate:.1f} people/s, {left} left')
    if self._bar.disable:
      log.info(
        'step %d/%d, loss %.6f, %.1f people/s, %s left', self._step, self._total, loss, rate, left
      )
    return {'people_per_second': rate, 'data_wait_fraction': waiting}

  @contextlib.contextmanager
  def paused(self):
    """Context whose time is not counted."""
    self._tick()
    yield
    if self._timed_until is not None:
      self._timed_until = time.perf_counter()

  def note(self, text: str):
    """Writes a line above the bar, or to the log."""
    if self._bar.disable:
      log.info('%s', text)
    else:
      self._bar.write(text, file=sys.stderr)

  def close(self):
    """Shows the mean rate of all timed steps up to the last log."""
    if self._timed_steps and self._timed_seconds:
      rate = self._timed_steps * self._batch_size / self._timed_seconds
      self.note(f'{rate:.1f} people/s on average over {self._timed_steps} steps')
    self._bar.close()

  def _tick(self):
    """Adds the time since the last call to the seconds since the last log."""
    if self._timed_until is None:
      return
    now = time.perf_counter()
    self._log_seconds += now - self._timed_until
    self._timed_until = now
