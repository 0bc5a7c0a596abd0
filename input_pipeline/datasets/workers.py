"""Runs a function on many images in several processes, in order and with bounded memory."""

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

CHUNK = 8  # tasks sent to a process at a time


def in_order(function: Callable, tasks: Iterable, processes: int) -> Iterator:
  """Yields function(task) for each task, in the order of the tasks.

  Only a few results per process are computed ahead of their use. The worker processes end when
  this process ends, even if it is killed.

  Args:
    function: a function of a module, because the processes receive it by name.
    tasks: arguments of the calls.
    processes: number of worker processes; 1 calls the function in this process.

  Raises:
    DataError: a worker process was killed.
  """
  if processes == 1:
    yield from map(function, tasks)
    return
  # Spawned, because JAX's threads may already run here and do not survive a fork.
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
      'a process was killed, perhaps because memory ran out; use fewer with --processes=N'
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def _call_each(function, chunk):
  return [function(task) for task in chunk]


def _end_with_parent():
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it and stops the workers

  def watch():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
