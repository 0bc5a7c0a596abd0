"""Devices and processes: batches are split over one mesh axis, `data`, and the state is replicated.

A run has one or more processes, each with its own devices. All of them read data and compute; only
process 0 writes files.
"""

import concurrent.futures
import contextlib
import itertools
import logging
import math
import os
import sys
import threading

import jax
import numpy as np
from jax import sharding
from jax._src import distributed  # names the processes of a run before they have joined
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from mrpose_jax import errors

log = logging.getLogger(__name__)

# A process that sends no heartbeat for this long counts as dead, and the others exit.
HEARTBEAT_SECONDS = 10
# Processes that have not found each other after this time give up.
JOIN_SECONDS = 180
# Joining that takes longer than this is logged.
QUIET_SECONDS = 3
# Processes that fail within this time of each other all report their errors.
LEAVE_SECONDS = 5

_barriers = itertools.count()
_joined = threading.Event()  # the processes of this run have found each other


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
    ConfigError: the processes cannot connect to each other within JOIN_SECONDS, or some arguments
      are missing. The program must end then, because JAX goes on trying.
  """
  given = (coordinator, num_processes, process_id)
  if num_processes == 1:
    return
  if None in given and given != (None, None, None):
    raise errors.ConfigError(
      '--coordinator, --num_processes and --process_id go together: give all three, or none'
    )
  joining = _join(given)
  try:
    concurrent.futures.wait([joining], timeout=QUIET_SECONDS)
    if not joining.done():
      log.info(
        'waiting for %s, for at most %d s; --num_processes=1 runs alone', _others(), JOIN_SECONDS
      )
    joining.result(timeout=JOIN_SECONDS)
  except ValueError as error:
    if 'coordinator_address should be defined' in str(error):
      return
    raise errors.ConfigError(f'--coordinator={coordinator}: {error}') from error
  except TimeoutError as error:
    raise _not_found(f'waited {JOIN_SECONDS} s for {_others()}') from error
  except RuntimeError as error:
    raise _not_found(str(error).splitlines()[0]) from error


def _join(arguments) -> concurrent.futures.Future:
  """Calls jax.distributed.initialize in a thread, as it ends the process if it waits too long."""
  joining = concurrent.futures.Future()

  def join():
    try:
      jax.distributed.initialize(
        *arguments,
        initialization_timeout=2 * JOIN_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      )
    except Exception as error:
      joining.set_exception(error)
    else:
      _joined.set()
      joining.set_result(None)

  threading.Thread(target=join, daemon=True).start()
  return joining


def _others():
  """Describes the processes that this one waits for."""
  run = distributed.global_state
  if run.coordinator_address is None:
    return 'the cluster to name process 0'
  return (
    f'the other {run.num_processes - 1} of {run.num_processes} processes at '
    f'{run.coordinator_address} (this is process {run.process_id})'
  )


def _not_found(reason):
  return errors.ConfigError(
    f'the processes of this run do not find each other ({reason}); --num_processes=1 runs alone'
  )


def leave(code: int):
  """Exits because of an error, without waiting for the others, which do not know of it.

  An ordinary exit would wait for them for minutes, in JAX's shutdown, and end with another exit
  code. Processes that fail at about the same time, such as all of them for a wrong configuration,
  leave together: the end of process 0 would abort the others before they report their errors.
  """

  def shut_down():
    with contextlib.suppress(Exception):
      jax.distributed.shutdown()

  if _joined.is_set():
    others_leave = threading.Thread(target=shut_down, daemon=True)
    others_leave.start()
    others_leave.join(LEAVE_SECONDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def start_devices(alone: bool = False):
  """Starts JAX's devices.

  Args:
    alone: this process works without others.

  Raises:
    ConfigError: the devices of JAX_PLATFORMS are not there; or `alone`, and the devices are those
      of several processes, as on a TPU slice of several hosts.
  """
  try:
    jax.local_devices()
  except (AssertionError, RuntimeError) as error:  # an assertion of JAX fails if there is no CUDA
    platforms = jax.config.jax_platforms
    if not platforms:
      raise
    reason = str(error).partition(' (set JAX_PLATFORMS=')[0] or 'there is no such device'
    raise errors.ConfigError(
      f'JAX_PLATFORMS={platforms}: {" ".join(reason.split())}; '
      "pip install 'mrpose_jax[cuda12]' or 'mrpose_jax[tpu]', or unset JAX_PLATFORMS"
    ) from error
  if alone and jax.process_count() > 1:
    raise errors.ConfigError(
      f'this command runs in one process, but {jax.process_count()} processes share these devices; '
      'run it on another machine, or with JAX_PLATFORMS=cpu'
    )


def is_main() -> bool:
  """Whether this is process 0, which writes files."""
  return jax.process_index() == 0


def agree(number: int | None) -> int | None:
  """Broadcasts process 0's number to all processes.

  They wait for process 0 as in `wait_for_all`: it may have waited for a lock, or read a checkpoint.
  """
  if jax.process_count() == 1:
    return number
  wait_for_all('agree')
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
  """Mesh of all devices of all processes on one axis, process by process.

  So the rows of a batch keep the order in which the processes read them. `jax.make_mesh` reorders
  the devices of a TPU slice by their position.
  """
  devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return sharding.Mesh(np.array(devices), ('data',), axis_types=(sharding.AxisType.Auto,))


def replicated(mesh) -> sharding.NamedSharding:
  """Sharding that keeps a full copy on every device."""
  return sharding.NamedSharding(mesh, sharding.PartitionSpec())


def batched(mesh) -> sharding.NamedSharding:
  """Sharding that splits the first axis over the devices."""
  return sharding.NamedSharding(mesh, sharding.PartitionSpec('data'))


def local_rows(array: jax.Array) -> np.ndarray:
  """This process's rows of a global array that is split over the devices."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def gather_rows(rows: np.ndarray) -> np.ndarray:
  """Concatenates the rows of all processes in process order; their number may differ or be 0.

  They are sent as bytes, because JAX would convert 64-bit numbers to 32 bits.
  """
  if jax.process_count() == 1:
    return rows
  counts = multihost_utils.process_allgather(np.int32(len(rows)))
  flat = np.ascontiguousarray(rows).reshape(len(rows), math.prod(rows.shape[1:]))
  row_bytes = flat.view(np.uint8)
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
