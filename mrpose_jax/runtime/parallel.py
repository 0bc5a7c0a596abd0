"""Devices and processes: batches are split over one mesh axis, `data`, and the state is replicated.

A run has one or more processes, each with its own devices. All of them read data and compute; only
process 0 writes files.
"""

import itertools

import jax
import numpy as np
from jax import sharding
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from mrpose_jax import errors

# A process that sends no heartbeat for this long counts as dead, and the others exit.
HEARTBEAT_SECONDS = 10

_barriers = itertools.count()


def initialize(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
):
  """Joins the processes of a run; must be called before any other use of JAX.

  Without arguments, Slurm, Open MPI, Kubernetes and Cloud TPU are detected automatically; on any
  other machine this process runs alone.

  Args:
    coordinator: HOST:PORT of process 0.
    num_processes: number of processes in the run; 1 skips the detection of a cluster.
    process_id: index of this process, from 0.

  Raises:
    ConfigError: the processes cannot connect to each other, or some arguments are missing.
  """
  given = (coordinator, num_processes, process_id)
  if num_processes == 1:
    return
  if None in given and given != (None, None, None):
    raise errors.ConfigError(
      '--coordinator, --num_processes and --process_id go together: give all three, or none'
    )
  try:
    jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
  except ValueError as error:
    if 'coordinator_address should be defined' in str(error):
      return
    raise errors.ConfigError(f'--coordinator={coordinator}: {error}') from error
  except RuntimeError as error:
    raise errors.ConfigError(
      f'the processes of this run do not find each other ({str(error).splitlines()[0]}); '
      '--num_processes=1 runs alone'
    ) from error


def is_main() -> bool:
  """Whether this is process 0, which writes files."""
  return jax.process_index() == 0


def agree(number: int | None) -> int | None:
  """Broadcasts process 0's number to all processes."""
  if jax.process_count() == 1:
    return number
  agreed = multihost_utils.broadcast_one_to_all(np.int32(-1 if number is None else number))
  return None if agreed < 0 else int(agreed)


def wait_for_all(name: str):
  """Waits until every process has made this call, for at most half an hour.

  The run's coordinator keeps this barrier, because collectives on CPUs time out after 30 seconds.
  """
  key = f'{name} {next(_barriers)}'  # unique for each barrier
  multihost.get_barrier_sync_fn()(key=key, timeout_ms=30 * 60 * 1000)


def compile_together(function, *arguments):
  """Compiles a jitted function on every process before any of them runs it.

  A program's first collective waits at most 30 seconds for processes that are still compiling.
  """
  if jax.process_count() == 1:
    return function
  compiled = function.lower(*arguments).compile()
  wait_for_all('compiled')
  return compiled


def data_mesh() -> sharding.Mesh:
  """Mesh of all devices of all processes on one axis."""
  return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(sharding.AxisType.Auto,))


def replicated(mesh) -> sharding.NamedSharding:
  """Sharding that keeps a full copy on every device."""
  return sharding.NamedSharding(mesh, sharding.PartitionSpec())


def batched(mesh) -> sharding.NamedSharding:
  """Sharding that splits the first axis over the devices."""
  return sharding.NamedSharding(mesh, sharding.PartitionSpec('data'))


def put_batch(batch, mesh):
  """Makes global arrays, split over the devices, from each process's rows of a batch."""
  split = batched(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, x), batch)


def local_rows(array: jax.Array) -> np.ndarray:
  """This process's rows of a global array that is split over the devices."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def gather_rows(rows: np.ndarray) -> np.ndarray:
  """Concatenates the rows of all processes in process order; their number may differ.

  They are sent as bytes, because JAX would convert 64-bit numbers to 32 bits.
  """
  if jax.process_count() == 1:
    return rows
  counts = multihost_utils.process_allgather(np.int32(len(rows)))
  row_bytes = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
  padded = np.zeros((counts.max(), row_bytes.shape[1]), np.uint8)
  padded[: len(rows)] = row_bytes
  gathered = multihost_utils.process_allgather(padded)  # [process, row, byte]
  unpadded = np.concatenate([part[:count] for part, count in zip(gathered, counts)])
  return unpadded.view(rows.dtype).reshape(-1, *rows.shape[1:])


def check_batch_size(name: str, batch_size: int):
  """Raises ConfigError unless the batch can be split evenly over all devices."""
  devices = jax.device_count()
  if batch_size < 1 or batch_size % devices:
    raise errors.ConfigError(
      f'{name}={batch_size}: must be a positive multiple of the {devices} devices'
    )
