"""Keeps a second run out of a workdir: flock on a disk, an object with a generation in a bucket."""

import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid

from mrpose_jax import errors
from mrpose_jax import paths

log = logging.getLogger(__name__)

RENEW_SECONDS = 20
STALE_SECONDS = 60  # a lock that was not renewed for this long is taken over
NAME = '.lock'


def acquire(workdir: paths.Path):
  """Locks a workdir, which has to exist where it is local.

  Returns:
    A lock with `check()`, which raises CheckpointError if it was lost, and `close()`.

  Raises:
    CheckpointError: another run holds the lock.
    OSError: the workdir cannot be written to.
  """
  return (_FileLock if isinstance(workdir, pathlib.Path) else _ObjectLock)(workdir)


def _refused(workdir, holder):
  return errors.CheckpointError(
    f'{workdir}: another run trains here ({holder}); choose another --workdir'
  )


class _FileLock:
  """The kernel releases it when the process ends, even if it is killed."""

  def __init__(self, workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    self._file = open(workdir / NAME, 'a+', encoding='utf-8')
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      self._file.seek(0)
      holder = self._file.read()
      self._file.close()
      raise _refused(workdir, holder) from error
    except OSError:
      log.warning('%s: its file system has no locks; start only one run in it', workdir)
    self._file.truncate(0)
    self._file.write(_holder())
    self._file.flush()

  def check(self):
    """Does nothing: the kernel takes no lock away."""

  def close(self):
    self._file.close()


class _ObjectLock:
  """An object that is renewed; whoever finds it watches whether its generation changes."""

  def __init__(self, workdir):
    from google.api_core import exceptions
    from google.cloud import storage

    self._workdir, self._conflict, self._missing = (
      workdir,
      exceptions.PreconditionFailed,
      exceptions.NotFound,
    )
    bucket, _, name = str(workdir / NAME).removeprefix(paths.PREFIX).partition('/')
    self._blob = storage.Client().bucket(bucket).blob(name)
    self._content = json.dumps(
      {'holder': _holder(), 'process': _process(os.getpid()), 'token': uuid.uuid4().hex}
    )
    self._guard, self._lost, self._ended = threading.Lock(), False, threading.Event()
    self._generation = 0  # 0: the object must not exist
    self._acquire()
    self._thread = threading.Thread(target=self._keep, daemon=True)
    self._thread.start()

  def _acquire(self):
    started, said = time.monotonic(), False
    while not self._write():
      try:
        self._blob.reload()
        holder = json.loads(self._blob.download_as_text())
      except self._missing:
        self._generation = 0
        continue
      except ValueError:
        holder = {'holder': 'unknown'}
      found = self._blob.generation
      if self._generation not in (0, found):
        raise _refused(self._workdir, holder['holder'])  # it was renewed
      alive = _is_alive(holder.get('process'))
      if alive:
        raise _refused(self._workdir, holder['holder'])
      if alive is False or time.monotonic() - started > STALE_SECONDS:
        self._generation = found  # taken over if nobody renews it meanwhile
        if self._write():
          return
        started = time.monotonic()
      self._generation = found
      if not said:
        log.info(
          '%s: %s may train here; waiting up to %d s to see',
          self._workdir,
          holder['holder'],
          STALE_SECONDS,
        )
        said = True
      expected, self._generation = self._generation, 0
      time.sleep(min(1, STALE_SECONDS / 10))
      self._generation = expected
      if not self._unchanged(expected):
        raise _refused(self._workdir, holder['holder'])
      self._generation = 0

  def _unchanged(self, generation):
    try:
      self._blob.reload()
      return self._blob.generation == generation
    except self._missing:
      return True

  def _write(self):
    """Writes the object if its generation is still the one that is known."""
    try:
      self._blob.upload_from_string(self._content, if_generation_match=self._generation)
    except self._conflict:
      return False
    self._generation = self._blob.generation
    return True

  def _renew(self):
    with self._guard:
      if not self._lost and not self._write():
        # A repeated request may find its own first try.
        self._lost = not self._is_own()

  def _is_own(self):
    try:
      self._blob.reload()
      own = self._blob.download_as_text() == self._content
    except self._missing:
      return False
    self._generation = self._blob.generation
    return own

  def _keep(self):
    while not self._ended.wait(RENEW_SECONDS):
      try:
        self._renew()
      except Exception as error:  # of the network; `check` decides
        log.warning('%s: the lock cannot be renewed (%s)', self._workdir, str(error)[:200])

  def check(self):
    """Raises CheckpointError if another run has taken the lock."""
    with self._guard:
      if not self._lost:
        self._lost = not self._is_own()
    if self._lost:
      raise errors.CheckpointError(
        f'{self._workdir}: this run lost its lock to another one, and stops before it writes'
      )

  def close(self):
    self._ended.set()
    self._thread.join()
    with self._guard:
      if not self._lost and self._is_own():
        self._blob.delete(if_generation_match=self._generation)


def _holder():
  return f'process {os.getpid()} on {socket.gethostname()}'


def _process(number):
  """What identifies a process on all machines; None where the system does not tell."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    start = pathlib.Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]
    return [boot, os.readlink('/proc/self/ns/pid'), number, start]
  except OSError:
    return None


def _is_alive(process):
  """Whether a process runs; None for one of another machine, which cannot be seen from here."""
  own = _process(os.getpid())
  if not process or not own or process[:2] != own[:2]:
    return None
  return _process(process[2]) == process
