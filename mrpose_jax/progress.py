"""How far a run is: a bar where somebody watches, lines where it goes to a file."""

import contextlib
import logging
import math
import sys
import time

import jax
import tqdm

log = logging.getLogger(__name__)


class Progress:
  """A bar in a terminal, a line an interval elsewhere; its rate leaves out compiling and pauses."""

  def __init__(self, start_step: int, total_steps: int, batch_size: int):
    self._batch_size = batch_size
    self._steps = 0
    self._seconds = 0.0
    self._since = None
    self._left = total_steps - start_step
    self._step, self._total = start_step, total_steps
    self._bar = tqdm.tqdm(
      initial=start_step,
      total=total_steps,
      unit='step',
      disable=not sys.stderr.isatty(),
      bar_format='{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {postfix}',
    )

  def advance(self, metrics):
    """One step was dispatched; the first ends with its compilation and is not timed."""
    self._step += 1
    self._left -= 1
    self._bar.update()
    if self._since is None:
      jax.block_until_ready(metrics)
      self._since = time.perf_counter()
    else:
      self._steps += 1

  def log(self, loss: float) -> float:
    """Shows loss, people a second and the time left; returns people a second since the start."""
    self._tick()
    rate = self._steps * self._batch_size / self._seconds if self._seconds else math.nan
    left = '?'
    if self._steps:
      left = tqdm.tqdm.format_interval(self._left * self._seconds / self._steps)
    self._bar.set_postfix_str(f'loss {loss:.6f}, {rate:.1f} people/s, {left} left')
    if self._bar.disable:
      log.info(
        'step %d/%d, loss %.6f, %.1f people/s, %s left', self._step, self._total, loss, rate, left
      )
    return rate

  @contextlib.contextmanager
  def paused(self):
    """A context whose time does not count."""
    self._tick()
    yield
    self._since = time.perf_counter()

  def note(self, text: str):
    if self._bar.disable:
      log.info('%s', text)
    else:
      self._bar.write(text, file=sys.stderr)

  def close(self):
    self._bar.close()

  def _tick(self):
    now = time.perf_counter()
    self._seconds += now - self._since
    self._since = now
