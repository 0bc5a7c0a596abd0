"""The transfer of batches: what arrives, where, in which order, and what is read ahead."""

import collections
import itertools
import threading
import time

import jax
import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import transfer
from mrpose_jax.runtime import parallel
from mrpose_jax.runtime import progress_bar

CANVAS = 200


def people(count, seed=0):
  r = np.random.default_rng(seed)
  rows = []
  for height, width in r.integers(1, CANVAS + 1, (count, 2)):
    patch = r.integers(1, 256, (height, width, 3), np.uint8)
    patch = image_files.Patch(patch, r.random(2), r.random(2))
    rows.append(
      batching.person_example(patch, r.random(2), r.random(2), r.random((3, 2)), np.ones(3))
    )
  return rows


def batch_of(number):
  return batching.pack(people(4, number), CANVAS)


def assert_same(batch, expected):
  for name, array, other in zip(batch._fields, batch, expected, strict=True):
    np.testing.assert_array_equal(array, other, err_msg=name)


@pytest.mark.parametrize('num_devices', [1, 2, 4])
def test_a_batch_arrives_on_its_devices(num_devices):
  rows = people(8)
  rows[5] = batching.empty(3)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ('data',))
  split = parallel.batched(mesh)
  (found,) = transfer.to_device([batching.pack(rows, CANVAS)], split)
  assert_same(found, batching.stack(rows, CANVAS))
  assert all(array.sharding.is_equivalent_to(split, array.ndim) for array in found)


@pytest.mark.parametrize('num_devices', [1, 2, 4])
def test_devices_put_their_own_blocks_onto_canvases(num_devices):
  """As GPUs and TPUs do: a device receives its people alone, in one of few sizes."""
  rows = people(8)
  rows[6:] = [batching.empty(3)] * 2  # with four devices, one has no pixels
  packed = batching.pack(rows, CANVAS)
  split = parallel.batched(jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ('data',)))
  sent = packed._replace(patches=transfer.put_blocks(packed.patches, split))
  step = batching.size_step(8 // num_devices, CANVAS)
  for n, (blocks, grid) in enumerate(zip(sent.patches.blocks, sent.patches.grid)):
    assert blocks.devices() == grid.devices() == {jax.devices()[n]}
    needed = int(np.prod(grid, axis=1).sum())
    assert len(blocks) == max(1, -(-needed // step)) * step
  found = transfer.unpack(sent, split)
  expected = batching.stack(rows, CANVAS).patches
  np.testing.assert_array_equal(found.patches, expected)
  assert found.patches.sharding.is_equivalent_to(split, 4)
  for shard in found.patches.addressable_shards:
    np.testing.assert_array_equal(shard.data, expected[shard.index])


def test_each_process_sends_its_own_rows():
  """Of eight devices of two processes, the second one has the last four."""
  Sharding = collections.namedtuple('Sharding', 'device_set addressable_devices indices')
  indices = {f'device {n}': (slice(2 * n, 2 * n + 2),) for n in (4, 5, 6, 7)}

  class Global(Sharding):
    def addressable_devices_indices_map(self, shape):
      assert shape == (16,)
      return self.indices

  sharding = Global(range(8), list(indices), indices)
  expected = {f'device {4 + n}': slice(2 * n, 2 * n + 2) for n in range(4)}
  assert transfer._rows_of_devices(8, sharding) == expected


def test_batches_come_in_order_with_what_belongs_to_them():
  pairs = [(batch_of(n), n) for n in range(5)]
  found = list(transfer.to_device(iter(pairs)))
  assert [number for _, number in found] == [0, 1, 2, 3, 4]
  for (batch, _), (packed, _) in zip(found, pairs):
    assert_same(batch, batching.unpack(packed))


def test_transfers_start_ahead_of_their_use():
  """Two batches wait on the devices, and a third one until there is room for it."""
  asked = []
  batches = (asked.append(n) or batch_of(n) for n in range(9))
  on_device = transfer.to_device(batches)
  for step in range(3):
    next(on_device)
    wait_until(lambda step=step: len(asked) == step + 4)
  time.sleep(0.1)  # were more batches read, they would be counted
  assert asked == [0, 1, 2, 3, 4, 5]
  on_device.close()


def wait_until(condition):
  deadline = time.monotonic() + 60
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert condition()


def test_an_error_follows_the_batches_before_it():
  def batches():
    yield batch_of(0)
    yield batch_of(1)
    raise errors.DataError('record 7 cannot be read')

  on_device = transfer.to_device(batches())
  assert_same(next(on_device), batching.unpack(batch_of(0)))
  assert_same(next(on_device), batching.unpack(batch_of(1)))
  with pytest.raises(errors.DataError) as raised:
    next(on_device)
  assert str(raised.value) == 'record 7 cannot be read'


def test_closing_ends_the_thread_and_the_reader():
  """The thread may be waiting for room at that time."""
  closed = []

  def batches():
    try:
      for number in itertools.count():
        yield batch_of(number)
    finally:
      closed.append(True)

  before = threading.active_count()
  on_device = transfer.to_device(batches())
  next(on_device)
  assert threading.active_count() == before + 1
  on_device.close()
  assert threading.active_count() == before and closed == [True]


def test_waiting_for_a_slow_reader_is_measured():
  """The time of the progress bar passes while the reader has no batch."""
  gate = threading.Event()

  def batches():
    yield batch_of(0)
    gate.wait(60)
    yield batch_of(1)

  progress = progress_bar.Progress(0, 2, 4)
  timed = progress.timed(transfer.to_device(batches()))
  next(timed)
  before = progress._wait_seconds
  threading.Timer(0.3, gate.set).start()
  next(timed)
  assert progress._wait_seconds - before >= 0.29
