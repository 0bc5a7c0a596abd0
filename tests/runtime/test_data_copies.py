"""Local copies of prepared data in a bucket, on an emulator of Cloud Storage."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from benchmarks import emulator
from benchmarks import kill_runs
from mrpose_jax import buckets
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import paths
from mrpose_jax import train
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import data_copies
from tests.helpers import emulated_buckets
from tests.helpers import tiny_people

pytestmark = emulated_buckets.needed
USAGE = types.SimpleNamespace(total=10**6, used=800_000, free=200_000)  # bytes
# Copies a data set in a process of its own, with the functions below, and names what it fetched.
CHILD = """
import logging, os, signal, sys
from mrpose_jax import buckets
from mrpose_jax.runtime import data_copies
logging.basicConfig(level=logging.INFO, format='%(message)s', force=True)
whole_fetch, names = buckets.fetch, []

def fetch(source, generation, target, advance):
  def die(count):
    os.kill(os.getpid(), signal.SIGKILL)

  names.append(source.name)
  whole_fetch(source, generation, target, die if len(names) == int(sys.argv[2]) else advance)

buckets.fetch, data_copies._STREAMS = fetch, 1
print(data_copies.local_folder('coco', sys.argv[1]))
print(*sorted(names))
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch, request):
  """Folder of a bucket that holds the tests' people, and an empty cache folder."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  name = request.node.name.replace('_', '-')[:60]
  folder = paths.parse(emulator.make_bucket(name)) / 'prepared'
  upload(tiny_people.data_dir(), folder)
  yield folder
  for file in data_copies._held.values():
    os.close(file)
  data_copies._held.clear()


@pytest.fixture
def fetched(monkeypatch):
  """Names of the objects that this process fetched."""
  names, fetch = [], buckets.fetch

  def note(source, *arguments):
    names.append(source.name)
    fetch(source, *arguments)

  monkeypatch.setattr(buckets, 'fetch', note)
  return names


def upload(source, folder):
  for name in prepared_files(source):
    (folder / name).write_bytes((source / name).read_bytes())


def prepared_files(folder):
  return [name for name in paths.files_below(folder) if name.startswith('coco/1.0.0/')]


def contents(folder):
  return {name: (folder / name).read_bytes() for name in prepared_files(folder)}


def root_of(bucket, tmp_path):
  """The folder of the copy."""
  name = f'{bucket}/coco'.removeprefix('gs://').replace('/', '%2F')
  return tmp_path / 'cache/mrpose_jax/data' / name


def child(bucket, kill_at=0, stderr=subprocess.PIPE):
  command = [sys.executable, '-c', CHILD, str(bucket), str(kill_at)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def test_a_copy_is_made_once(bucket, fetched, caplog):
  (bucket / 'coco/incomplete.4R7K2P_1.0.0/metadata.json').write_text('{}')
  (bucket / 'coco/0.9.0/metadata.json').write_text('{}')
  (bucket / 'coco/1.0.0/.hidden').write_text('')
  with caplog.at_level(logging.INFO, 'mrpose_jax'):
    folder = data_copies.local_folder('coco', str(bucket))
  expected = contents(tiny_people.data_dir())
  assert contents(folder) == expected
  assert sorted(fetched) == sorted(pathlib.Path(name).name for name in expected)
  size = sum(map(len, expected.values())) / 1e6
  assert caplog.messages == [f'copying {len(expected)} files, {size:.1f} MB, from {bucket}/coco']
  copied, original = (
    prepared_data.open_dataset('coco', place) for place in (folder, tiny_people.data_dir())
  )
  assert copied.fingerprint() == original.fingerprint()
  assert data_copies.local_folder('coco', str(bucket)) == folder
  assert len(fetched) == len(expected)
  # A file that was cut on this machine is fetched again.
  os.truncate(folder / 'coco/1.0.0/features.json', 5)
  assert data_copies.local_folder('coco', str(bucket)) == folder
  assert contents(folder) == expected
  assert fetched[len(expected) :] == ['features.json']


def test_what_changed_is_fetched_and_what_is_read_stays(bucket, fetched):
  first = data_copies.local_folder('coco', str(bucket))
  before = contents(first)
  changed = before['coco/1.0.0/features.json'].replace(b'{', b' {', 1)[:-1]  # the same size
  (bucket / 'coco/1.0.0/features.json').write_bytes(changed)
  (bucket / 'coco/1.0.0/annotations_train.json').unlink()
  fetched.clear()
  second = data_copies.local_folder('coco', str(bucket))
  assert fetched == ['features.json']
  after = before | {'coco/1.0.0/features.json': changed}
  del after['coco/1.0.0/annotations_train.json']
  assert contents(second) == after
  assert contents(first) == before  # which this process still reads

  os.close(data_copies._held.pop(first))
  (bucket / 'coco/1.0.0/annotations_validation.json').unlink()
  third = data_copies.local_folder('coco', str(bucket))
  assert fetched == ['features.json']
  folders = {path.name for path in first.parent.iterdir()}
  assert folders == {'lock', 'objects', second.name, third.name}
  assert len(list((first.parent / 'objects').iterdir())) == len(after)


def test_an_object_that_changes_while_it_is_copied(bucket, monkeypatch):
  old = buckets.objects_below(bucket / 'coco')
  upload(tiny_people.data_dir(), bucket)
  with monkeypatch.context() as patch, pytest.raises(errors.DataError, match='cannot be copied'):
    patch.setattr(buckets, 'objects_below', lambda folder: old)
    data_copies.local_folder('coco', str(bucket))
  assert contents(data_copies.local_folder('coco', str(bucket)))


def test_killed_in_the_middle_it_goes_on(bucket, fetched, tmp_path):
  process = child(bucket, kill_at=3)
  _, stderr = process.communicate()
  assert process.returncode == -signal.SIGKILL, stderr
  (objects,) = tmp_path.glob('cache/mrpose_jax/data/*/objects')
  assert sorted(path.suffix for path in objects.iterdir()) == ['', '', '.partial']
  folder = data_copies.local_folder('coco', str(bucket))
  expected = contents(tiny_people.data_dir())
  assert contents(folder) == expected
  assert len(fetched) == len(expected) - 2
  assert not list(objects.glob('*.partial'))


def test_two_processes_at_once(bucket, tmp_path):
  """Both wait while this process has locked the copy; then one copies, and the other finds it."""
  root = root_of(bucket, tmp_path)
  root.mkdir(parents=True)
  waiting = f'waiting for another process of this machine, which copies {bucket}/coco\n'
  with contextlib.ExitStack() as stack:
    lock = stack.enter_context(open(root / 'lock', 'w'))
    fcntl.flock(lock, fcntl.LOCK_EX)
    logs = [stack.enter_context(open(tmp_path / name, 'w+')) for name in ('first', 'second')]
    children = [child(bucket, stderr=file) for file in logs]
    for process in children:
      stack.callback(process.kill)
    give_up = time.monotonic() + 120
    while any(pathlib.Path(file.name).read_text() != waiting for file in logs):
      assert time.monotonic() < give_up, [pathlib.Path(file.name).read_text() for file in logs]
      time.sleep(0.05)
    lock.close()
    results = [process.communicate()[0].splitlines() for process in children]
  (one, first), (other, second) = results
  assert one == other
  names = sorted(pathlib.Path(name).name for name in contents(pathlib.Path(one)))
  assert sorted((first, second)) == ['', ' '.join(names)]


def test_a_disk_that_cannot_hold_the_copy(bucket, tmp_path, monkeypatch):
  size = sum(map(len, contents(tiny_people.data_dir()).values())) / 1e6
  with monkeypatch.context() as patch, pytest.raises(errors.DataError) as raised:
    patch.setattr(data_copies.shutil, 'disk_usage', lambda path: USAGE)
    data_copies.local_folder('coco', str(bucket))
  root = root_of(bucket, tmp_path)
  assert str(raised.value) == (
    f'{bucket}/coco: the local copy needs {size:.1f} MB, but {root} has 0.2 MB free; make room '
    'there, or set XDG_CACHE_HOME to a folder on another disk'
  )

  def fail(*_, **__):
    raise OSError(number, os.strerror(number))

  for number, owner, name in (
    (errno.ENOSPC, buckets.os, 'fsync'),  # others filled the disk meanwhile
    (errno.EROFS, pathlib.Path, 'mkdir'),
    (errno.EPERM, pathlib.Path, 'hardlink_to'),  # a file system without hard links
  ):
    with monkeypatch.context() as patch, pytest.raises(errors.DataError) as raised:
      patch.setattr(owner, name, fail)
      data_copies.local_folder('coco', str(bucket))
    assert str(raised.value) == (
      f'{bucket}/coco: cannot be copied to {root} ({os.strerror(number)}); make room or give '
      'access there, or set XDG_CACHE_HOME to a folder on another disk, which has to allow hard '
      'links'
    )
  assert contents(data_copies.local_folder('coco', str(bucket)))


def test_what_cannot_be_copied(bucket, monkeypatch):
  config = tiny_people.config()
  config.data.update({'name': 'synthetic_people', 'data_dir': str(bucket)})
  with pytest.raises(errors.DataError, match='gcloud storage rsync -r FOLDER/synthetic_people gs:'):
    configuration.open_dataset(config)
  with pytest.raises(errors.ConfigError, match='gs://no-such-bucket: there is no such bucket'):
    data_copies.local_folder('coco', 'gs://no-such-bucket/prepared')
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
  with pytest.raises(errors.ConfigError, match='set XDG_CACHE_HOME'):
    data_copies.local_folder('coco', str(bucket))


def test_training_and_evaluating_give_the_same_numbers(bucket, tmp_path):
  config = tiny_people.config(epochs=1.0, log_every=1)
  local_metrics = train.train_and_evaluate(config, tmp_path / 'local')
  config.data.data_dir = str(bucket)
  assert train.train_and_evaluate(config, tmp_path / 'copied') == local_metrics
  arrays, losses, _ = kill_runs.contents(tmp_path / 'local')
  copied_arrays, copied_losses, _ = kill_runs.contents(tmp_path / 'copied')
  assert copied_arrays == arrays
  assert copied_losses == losses
  # The evaluation has the settings of the run, and therefore its folder.
  metrics = evaluate.evaluate(config, tmp_path / 'local')
  np.testing.assert_equal(metrics, local_metrics)
  assert len(list((tmp_path / 'local/eval').iterdir())) == 1
