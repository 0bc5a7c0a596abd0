"""The way of a batch from the host to the devices.

A batch travels as `batching.Packed`, without the empty parts of its canvases. Each device receives
its own people and puts their blocks onto canvases by a small program of its own. So the training
step sees whole canvases, and the sizes that the devices of a run receive may differ. The memory of
a CPU device is the host's, so there the canvases are filled by the host.
"""

import functools
import math
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TypeVar

import grain
import jax
import numpy as np
from jax import numpy as jnp

from mrpose_jax.input_pipeline.host import batching

Batch = TypeVar('Batch')  # a PersonBatch, or a tuple or list that contains one

# Batches that are on the devices before they are used: one is transferred while another one waits.
BATCHES_ON_DEVICE = 2


def to_device(batches: Iterable[Batch], sharding: jax.sharding.Sharding | None = None) -> Iterator:
  """Yields the batches on the devices, with their patches on canvases.

  A thread reads and transfers the next `BATCHES_ON_DEVICE` batches. It is Grain's, as in
  `grain.experimental.device_put`, which itself cannot be used: it calls `jax.device_put` on the
  whole batch, which gives every process's rows to all of its devices, although each process reads
  other rows, and it has no place for the program that unpacks a batch directly before its use.
  Unpacked earlier, a batch would take the memory of its canvases while it waits, and the step
  before it would wait for the transfer.

  Args:
    batches: packed batches of this process; each may be inside a tuple, whose other parts are
      yielded as they are. An exception that they raise is raised after the batches before it.
    sharding: splits the first axis over devices, perhaps those of several processes; None for the
      first device.
  """
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  source = iter(batches)
  ahead = grain.experimental.ThreadPrefetchDatasetIterator(
    _Transfers(source, sharding), BATCHES_ON_DEVICE
  )
  try:
    for batch in ahead:
      yield _in_batch(functools.partial(unpack, sharding=sharding), batch)
  finally:
    ahead.close()  # waits for the thread, which may be reading from the source
    if hasattr(source, 'close'):
      source.close()


class _Transfers:
  """Iterator of transferred batches, with the methods that Grain's thread asks for."""

  def __init__(self, batches, sharding):
    self._batches, self._sharding = batches, sharding

  def __next__(self):
    return _in_batch(functools.partial(put, sharding=self._sharding), next(self._batches))

  def get_state(self):
    return {}  # a run continues by its step, not by the state of an iterator


def _in_batch(function, element):
  """Applies a function to the PersonBatch in an element."""
  if isinstance(element, batching.PersonBatch):
    return function(element)
  return type(element)(
    function(part) if isinstance(part, batching.PersonBatch) else part for part in element
  )


def put(batch: batching.PersonBatch, sharding: jax.sharding.Sharding) -> batching.PersonBatch:
  """Starts the transfer of this process's rows of a packed batch to its devices.

  Returns:
    A PersonBatch of global arrays, whose patches `unpack` puts onto canvases.
  """
  if all(device.platform == 'cpu' for device in sharding.device_set):
    batch = batching.unpack(batch)
    return jax.tree.map(functools.partial(_put_rows, sharding), batch)
  numbers = (_put_rows(sharding, column) for column in batch[1:])
  return batching.PersonBatch(put_blocks(batch.patches, sharding), *numbers)


def _put_rows(sharding, rows):
  return jax.make_array_from_process_local_data(sharding, rows)


def put_blocks(packed: batching.Packed, sharding: jax.sharding.Sharding) -> batching.Packed:
  """Starts the transfer of blocks; returns lists of `blocks` and `grid`, with one per device."""
  first_block = np.concatenate([[0], np.cumsum(packed.grid.prod(1))])
  blocks, grid = [], []
  for device, rows in _rows_of_devices(len(packed.grid), sharding).items():
    step = batching.size_step(rows.stop - rows.start, packed.canvas)
    first, last = first_block[rows.start], first_block[rows.stop]
    count = max(1, math.ceil((last - first) / step)) * step
    # Blocks of the people that follow, or empty ones, fill up the size; the device ignores them.
    blocks.append(jax.device_put(packed.blocks[first : first + count], device))
    grid.append(jax.device_put(packed.grid[rows], device))
  return packed._replace(blocks=blocks, grid=grid)


def unpack(batch: batching.PersonBatch, sharding: jax.sharding.Sharding) -> batching.PersonBatch:
  """Puts the patches of a transferred batch onto canvases, uint8 [N, canvas, canvas, 3]."""
  packed = batch.patches
  if not isinstance(packed, batching.Packed):
    return batch
  canvases = [on_canvases(*arrays, packed.canvas) for arrays in zip(packed.blocks, packed.grid)]
  shape = (len(batch.origin), *canvases[0].shape[1:])
  return batch._replace(patches=jax.make_array_from_single_device_arrays(shape, sharding, canvases))


@functools.partial(jax.jit, static_argnames='canvas')
def on_canvases(blocks: jax.Array, grid: jax.Array, canvas: int) -> jax.Array:
  """Puts the patches of `batching.Packed` onto canvases [N, canvas, canvas, 3], on one device."""
  down, across = batching.grid_of((canvas, canvas))
  rows, columns = grid.T[..., None, None]  # [N, 1, 1] each
  number = rows * columns
  first = jnp.cumsum(number, 0) - number
  row, column = jnp.arange(down)[None, :, None], jnp.arange(across)[None, None]
  index = jnp.where((row < rows) & (column < columns), first + column * rows + row, len(blocks))
  canvases = jnp.take(blocks, index, 0, mode='fill', fill_value=0)  # [N, down, across, 32, 128, 3]
  height, width = batching.BLOCK
  canvases = canvases.transpose(0, 1, 3, 2, 4, 5).reshape(-1, down * height, across * width, 3)
  return canvases[:, :canvas, :canvas]


def _rows_of_devices(num_rows, sharding) -> dict[jax.Device, slice]:
  """The rows of this process's part of a batch that each of its devices receives."""
  share = len(sharding.device_set) // len(sharding.addressable_devices)
  indices = sharding.addressable_devices_indices_map((num_rows * share,))
  bounds = {device: rows.indices(num_rows * share)[:2] for device, (rows,) in indices.items()}
  first = min(start for start, _ in bounds.values())
  return {device: slice(start - first, stop - first) for device, (start, stop) in bounds.items()}
