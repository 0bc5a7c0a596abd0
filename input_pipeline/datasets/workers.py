"""Work on many images by several processes, in order and in bounded memory."""

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from multiprocessing import connection

from mrpose_jax import errors

CHUNK = 8  # tasks that a process gets at a time


def in_order(function: Callable, tasks: Iterable, processes: int) -> Iterator:
  """Yields function(task) for each task, in their order.

  No more than a few results per process are computed ahead of their use. The processes end with
  this one, however it ends.

  Args:
    function: a module's function, for it is sent to the processes by its name.
    tasks: what to call it with.
    processes: 1 calls it here.

  Raises:
    DataError: a process was killed.
  """
  if processes == 1:
    yield from map(function, tasks)
    return
  # Spawned, for JAX's threads may already run here and do not survive a fork.
  pool = concurrent.futures.ProcessPoolExecutor(
    processes, multiprocessing.get_context('spawn'), initializer=_end_with_parent
  )
  pending = collections.deque()
  try:
    tasks = iter(tasks)
    while chunk := list(itertools.islice(tasks, CHUNK)):
      pending.append(pool.submit(_call_each, function, chunk))
      if len(pending) > 2 * processes:
        yield from pending.popleft().result()
    while pending:
      yield from pending.popleft().result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise errors.DataError(
      'a process was killed, perhaps for want of memory; use fewer with --processes=N'
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def _call_each(function, chunk):
  return [function(task) for task in chunk]


def _end_with_parent():
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and stops the others

  def watch():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
