"""Copies prepared data from a bucket to this machine; everything else reads the local copy.

The copy of a data set is a folder in the user's cache folder, `~/.cache/mrpose_jax/data/NAME`:

  objects/ID               the objects of the bucket; ID stands for name, generation and size
  STATE/coco/1.0.0/...     hard links to the objects that the bucket had at one time
  STATE/lock               is locked, shared, by the processes that read this state
  lock                     is locked by the process that copies

A kill leaves whole objects, which the next start need not fetch again. A state never changes, so a
run is not disturbed if the bucket changes and another run copies that. States that no process reads
are removed before the next copy.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import logging
import os
import pathlib
import shutil
import threading
import urllib.parse

from mrpose_jax import buckets
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.runtime import parallel
from mrpose_jax.runtime import progress_bar

log = logging.getLogger(__name__)

MB = 10**6
_STREAMS = 8  # objects that are fetched at the same time
_LOCK = 'lock'

_held = {}  # state -> file descriptor of its locked lock, which stays open until the process ends


def local_folder(name: str, data_dir):
  """Returns the folder of prepared data to read: `data_dir`, or its copy if it is in a bucket.

  One process of a machine copies, and the others wait for it. All processes of a run call this
  function with the same arguments, and return together.

  Args:
    name: name of the data set.
    data_dir: folder of prepared data, local or in a bucket.

  Raises:
    ConfigError: the bucket cannot be reached, or there is no cache folder.
    DataError: the bucket has no such prepared data, or they cannot be copied.
  """
  if not paths.in_bucket(data_dir):
    return data_dir
  source = paths.parse(data_dir) / name
  cache = paths.cache_folder('data')
  if cache is None:
    raise errors.ConfigError(f'{source}: set XDG_CACHE_HOME to a folder for the local copy')
  root = cache / urllib.parse.quote(str(source).removeprefix(buckets.PREFIX), safe='')
  try:
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / _LOCK, source):
      folder = _copy(source, root)
  except (OSError, errors.BucketError) as error:
    advice = 'give the command again, which fetches only what is missing'
    if getattr(error, 'errno', None):  # of this machine; `buckets.reaching` turns those of a bucket
      advice = (
        'make room or give access there, or set XDG_CACHE_HOME to a folder on another disk, which '
        'has to allow hard links'
      )
    raise errors.DataError(
      f'{source}: cannot be copied to {root} ({errors.brief(error)}); {advice}'
    ) from error
  parallel.wait_for_all('data')  # the machines of a run are not equally fast
  return folder


def _copy(source: paths.Path, root: pathlib.Path) -> pathlib.Path:
  """Makes the state of the bucket's data set, unless it is there, and marks it as read."""
  objects = _list(source)
  ids = {name: _digest(name, *about) for name, about in objects.items()}
  folder = root / _digest(*ids.values())[:16]
  store = root / 'objects'
  if not all(_is_whole(folder / source.name / name, objects[name][1]) for name in objects):
    _remove_unused(root, folder, {*ids.values()})
    store.mkdir(exist_ok=True)
    missing = [name for name in objects if not _is_whole(store / ids[name], objects[name][1])]
    _check_space(source, root, sum(objects[name][1] for name in missing))
    _fetch(source, {name: (*objects[name], store / ids[name]) for name in missing})
    partial = root / f'{folder.name}.partial'
    for name in objects:
      (partial / source.name / name).parent.mkdir(parents=True, exist_ok=True)
      (partial / source.name / name).hardlink_to(store / ids[name])
    (partial / _LOCK).touch()
    partial.rename(folder)
  if folder not in _held:
    _held[folder] = os.open(folder / _LOCK, os.O_RDONLY)
    fcntl.flock(_held[folder], fcntl.LOCK_SH)
  return folder


def _list(source):
  """{VERSION/FILE: (generation, size in bytes)} of the newest version of a data set in a bucket."""
  found = buckets.objects_below(source)
  version = prepared_data.newest(name.partition('/')[0] for name in found)
  if f'{version}/metadata.json' not in found:
    raise errors.DataError(
      f'{source}: no prepared data; prepare them locally, with --data_dir=FOLDER, and copy them: '
      f'gcloud storage rsync -r FOLDER/{source.name} {source}'
    )
  objects = {}
  for name, about in sorted(found.items()):
    folder, _, file = name.rpartition('/')
    if folder == version and file and not file.startswith('.'):
      objects[name] = about
  return objects


def _check_space(source, root, needed):
  free = shutil.disk_usage(root).free
  if needed > free:
    raise errors.DataError(
      f'{source}: the local copy needs {needed / MB:,.1f} MB, but {root} has {free / MB:,.1f} MB '
      'free; make room there, or set XDG_CACHE_HOME to a folder on another disk'
    )


def _fetch(source, missing):
  """Fetches objects, given as {name: (generation, size, local file)}, and shows the progress."""
  total = sum(size for _, size, _ in missing.values())
  log.info('copying %d files, %.1f MB, from %s', len(missing), total / MB, source)
  arrived, lock = 0, threading.Lock()
  with contextlib.closing(progress_bar.Counter(total // MB, 'MB')) as counter:

    def advance(count):
      nonlocal arrived
      with lock:
        before, arrived = arrived, arrived + count
        counter.advance(arrived // MB - before // MB)

    def fetch(name):
      generation, _, target = missing[name]
      buckets.fetch(source / name, generation, target, advance)

    with concurrent.futures.ThreadPoolExecutor(_STREAMS) as pool:
      for _ in pool.map(fetch, missing):  # an error ends the others
        pass


def _remove_unused(root, damaged, wanted):
  """Removes a damaged state, states that no process reads, and objects that are in no other one."""
  for state in root.iterdir():
    if state.is_dir() and state.name != 'objects' and (state == damaged or not _is_read(state)):
      shutil.rmtree(state.rename(state.with_suffix('.partial')))
      if state in _held:
        os.close(_held.pop(state))
  for file in root.glob('objects/*'):
    if file.stat().st_nlink == 1 and file.name not in wanted:
      file.unlink()


def _is_read(state):
  """Whether a process reads a state; none begins to do so while this one has locked the copy."""
  try:
    with open(state / _LOCK, 'r+') as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return False
  except FileNotFoundError:
    return False
  except BlockingIOError:
    return True


@contextlib.contextmanager
def _locked(path, source):
  with open(path, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      log.info('waiting for another process of this machine, which copies %s', source)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _digest(*parts):
  return hashlib.sha256('\n'.join(map(str, parts)).encode()).hexdigest()


def _is_whole(file, size):
  return file.is_file() and file.stat().st_size == size
