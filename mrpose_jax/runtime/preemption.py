"""SIGTERM and SIGINT: the run saves its state and ends, on all processes at the same step."""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

# Seconds that a step or a compilation may still run after a signal. Then the process exits without
# saving, and the last checkpoint remains.
PATIENCE = 25
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals(contextlib.AbstractContextManager):
  """Context in which SIGTERM and SIGINT are only recorded, for `asked` to return.

  Further signals change nothing. With several processes, JAX handles SIGTERM and informs all of
  them, and SIGINT is forwarded as SIGTERM. Outside the main thread, where Python cannot set
  handlers, nothing is changed.
  """

  def __init__(self):
    self._name = None
    self._acknowledged = threading.Event()  # the run knows of the signal
    self._num_calls = 0
    self._old_handlers = {}

  def __enter__(self):
    if threading.current_thread() is not threading.main_thread():
      return self
    if jax.process_count() > 1:
      handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
    else:
      handlers = dict.fromkeys(SIGNALS, self._note)
      # Python runs its handlers only after a compilation ends, but writes to this pipe at once.
      self._reader, self._writer = os.pipe()
      os.set_blocking(self._writer, False)
      self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
      threading.Thread(target=self._enforce_deadline, daemon=True).start()
    self._old_handlers = {
      number: signal.signal(number, handler) for number, handler in handlers.items()
    }
    return self

  def __exit__(self, *_):
    for number, handler in self._old_handlers.items():
      signal.signal(number, handler)
    if self._old_handlers and jax.process_count() == 1:
      signal.set_wakeup_fd(self._old_wakeup)
      self._acknowledged.set()
      os.close(self._writer)  # ends the thread

  def asked(self) -> str | None:
    """Returns the signal's name once all processes must stop; all must call this equally often."""
    if self._name is None and jax.process_count() > 1:
      self._num_calls += 1
      if multihost_utils.reached_preemption_sync_point(self._num_calls):
        self._name = 'SIGTERM'
    if self._name:
      self._acknowledged.set()
    return self._name

  def _note(self, number, frame):
    del frame
    self._name = self._name or signal.Signals(number).name

  def _enforce_deadline(self):
    """Thread that exits the process if `asked` is not called within PATIENCE s of a signal."""
    while received := os.read(self._reader, 1):
      if received[0] in SIGNALS and not self._acknowledged.wait(PATIENCE):
        line = f'Stopped: no step ended within {PATIENCE} s; what was saved before is kept\n'
        os.write(2, line.encode())
        os._exit(143)
    os.close(self._reader)
