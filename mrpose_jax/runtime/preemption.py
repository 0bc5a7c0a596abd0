"""SIGTERM and SIGINT: the run saves and ends, on all processes at the same step."""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

# A step, or a compilation, that does not end within these seconds is not waited for: the last
# checkpoint stands.
PATIENCE = 25
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals(contextlib.AbstractContextManager):
  """While entered, SIGTERM and SIGINT are only noted; a second one changes nothing.

  Where several processes run, JAX takes SIGTERM and tells all of them, and SIGINT is passed on as
  SIGTERM. Outside the main thread, where Python takes no signals, nothing is changed.
  """

  def __init__(self):
    self._name = None
    self._asked = threading.Event()  # the run has seen it
    self._questions = 0
    self._before = {}

  def __enter__(self):
    if threading.current_thread() is not threading.main_thread():
      return self
    if jax.process_count() > 1:
      handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
    else:
      handlers = dict.fromkeys(SIGNALS, self._note)
      # The handlers of Python wait for compilations to end; this pipe does not.
      self._reader, self._writer = os.pipe()
      os.set_blocking(self._writer, False)
      self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
      threading.Thread(target=self._lose_patience, daemon=True).start()
    self._before = {number: signal.signal(number, made) for number, made in handlers.items()}
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)
    if self._before and jax.process_count() == 1:
      signal.set_wakeup_fd(self._wakeup)
      self._asked.set()
      os.close(self._writer)  # ends the thread

  def asked(self) -> str | None:
    """The name of the signal, once all processes are to stop; each asks equally often."""
    if self._name is None and jax.process_count() > 1:
      self._questions += 1
      if multihost_utils.reached_preemption_sync_point(self._questions):
        self._name = 'SIGTERM'
    if self._name:
      self._asked.set()
    return self._name

  def _note(self, number, frame):
    del frame
    self._name = self._name or signal.Signals(number).name

  def _lose_patience(self):
    """A thread; ends the process where nobody asks within PATIENCE seconds of a signal."""
    while received := os.read(self._reader, 1):
      if received[0] in SIGNALS and not self._asked.wait(PATIENCE):
        line = f'Stopped: no step ended within {PATIENCE} s; the last checkpoint stands\n'
        os.write(2, line.encode())
        os._exit(143)
    os.close(self._reader)
