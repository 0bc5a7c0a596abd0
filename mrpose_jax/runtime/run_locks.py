"""Keeps a second run out of a workdir: flock on a disk, an object with a generation in a bucket."""

import fcntl
import json
import logging
import math
import os
import pathlib
import socket
import threading
import time
import uuid

from mrpose_jax import buckets
from mrpose_jax import errors
from mrpose_jax import paths

log = logging.getLogger(__name__)

RENEW_SECONDS = 20
STALE_SECONDS = 60  # a lock that was not renewed for this long is taken over
NAME = '.lock'


def acquire(workdir: paths.Path):
  """Locks a workdir; creates it where it is local and missing.

  Returns:
    A lock with `check()`, which raises CheckpointError if it was lost, and `close()`.

  Raises:
    CheckpointError: another run holds the lock.
    ConfigError: the workdir cannot be created or written to.
  """
  try:
    return paths.by_kind(workdir, _FileLock, _ObjectLock)(workdir)
  except (OSError, errors.BucketError) as error:
    raise errors.ConfigError(
      f'--workdir={workdir}: cannot be written to ({errors.brief(error)})'
    ) from error


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
  """An object that is renewed again and again; whoever finds it watches its generation.

  A write names the generation that it replaces (0: none), and the bucket refuses it if there is
  another one by then. No clocks are compared.
  """

  def __init__(self, workdir):
    from google.api_core import exceptions
    from google.cloud import storage

    self._workdir, self._conflict = workdir, exceptions.PreconditionFailed
    self._token = uuid.uuid4().hex
    self._generation = None  # of this run's own object
    self._guard, self._lost, self._ended = threading.Lock(), False, threading.Event()
    bucket, self._name = buckets.bucket_and_name(workdir / NAME)
    with buckets.reaching(workdir / NAME):
      self._bucket = storage.Client(project=None).bucket(bucket)
      self._acquire()
    self._thread = threading.Thread(target=self._keep, daemon=True)
    self._thread.start()

  def _acquire(self):
    """Writes the object where there is none, or replaces one that nobody renews."""
    watched, until = None, math.inf
    while True:
      found = self._bucket.get_blob(self._name)
      if found is None:
        if self._write(0):
          return
        continue  # another run was faster
      holder = (found.metadata or {}).get('holder', 'unknown')
      alive = _is_alive(json.loads((found.metadata or {}).get('process', 'null')))
      if alive or watched not in (None, found.generation):
        raise _refused(self._workdir, holder)  # its process runs here, or the object was renewed
      if watched is None:
        watched, until = found.generation, time.monotonic() + STALE_SECONDS
        if alive is None:
          log.info(
            '%s: %s holds this workdir; waiting for %g s to see whether it still runs',
            *(self._workdir, holder, STALE_SECONDS),
          )
      if alive is False or time.monotonic() >= until:
        if self._write(watched):
          return
        continue  # it was renewed at last, or another run was faster
      time.sleep(STALE_SECONDS / 60)

  def _write(self, generation):
    """Writes the object in the place of this generation; returns whether it is this run's then."""
    blob = self._bucket.blob(self._name)
    blob.metadata = {
      'token': self._token,
      'holder': _holder(),
      'process': json.dumps(_process(os.getpid())),
    }
    try:
      blob.upload_from_string(b'', if_generation_match=generation)
    except self._conflict:
      return self._is_own()  # a repeated request may find what its first try has written
    self._generation = blob.generation
    return True

  def _is_own(self):
    """Whether the object is still that of this run."""
    found = self._bucket.get_blob(self._name)
    if found is None or (found.metadata or {}).get('token') != self._token:
      return False
    self._generation = found.generation
    return True

  def _keep(self):
    """Renews the object until the run ends or has lost it."""
    while not self._lost and not self._ended.wait(RENEW_SECONDS):
      try:
        with self._guard:
          self._lost = not self._write(self._generation)
      except Exception as error:  # of the network; `check` asks again
        log.warning('%s: the lock cannot be renewed (%s)', self._workdir, errors.brief(error))

  def check(self):
    """Raises CheckpointError if another run has taken the lock."""
    with self._guard, buckets.reaching(self._workdir / NAME):
      self._lost = self._lost or not self._is_own()
    if self._lost:
      raise errors.CheckpointError(
        f'{self._workdir}: another run has taken the lock of this one, or somebody has removed it; '
        'this run ends and writes nothing more'
      )

  def close(self):
    """Removes the object, so that the next run need not wait."""
    self._ended.set()
    self._thread.join()
    try:
      if not self._lost and self._is_own():
        self._bucket.blob(self._name).delete(if_generation_match=self._generation)
    except Exception as error:  # of the network
      log.warning('%s: the lock cannot be removed (%s)', self._workdir, errors.brief(error))


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
