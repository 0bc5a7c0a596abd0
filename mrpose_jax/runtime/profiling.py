"""A profiler trace of a few early steps, for TensorBoard's profile plugin or Perfetto."""

import contextlib
import logging
from collections.abc import Callable

import jax

from mrpose_jax import paths
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

# Steps after a start that are not recorded, because the first one compiles.
WARM_UP = 2


class StepTrace(contextlib.AbstractContextManager):
  """Records a trace of some steps below WORKDIR/profile, on process 0 only."""

  def __init__(
    self,
    workdir,
    start_step: int,
    num_steps: int,
    check: Callable[[], None] = lambda: None,
  ):
    """Plans the trace.

    Args:
      workdir: folder of the run.
      start_step: number of steps done before this start.
      num_steps: number of steps to record after the first WARM_UP ones; 0 records nothing.
      check: see `paths.Stage`.
    """
    self._folder, self._check = paths.parse(workdir) / 'profile', check
    self._first = start_step + WARM_UP + 1
    self._last = self._first + num_steps - 1
    self._recording = False

  @contextlib.contextmanager
  def step(self, step: int):
    """Context for the dispatch of one step."""
    if self._first == step <= self._last and parallel.is_main():
      self._stage = paths.Stage(self._folder, self._check)
      jax.profiler.start_trace(self._stage.folder)
      self._recording = True
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      yield
    if self._recording and step == self._last:
      self.stop()

  def stop(self):
    """Ends the trace after the devices have finished the dispatched steps."""
    if self._recording:
      for array in jax.live_arrays():
        array.block_until_ready()
      jax.profiler.stop_trace()
      self._recording = False
      with contextlib.closing(self._stage):
        self._stage.publish()
      log.info('profiler trace: tensorboard --logdir=%s', self._folder)

  def __exit__(self, *_):
    self.stop()
