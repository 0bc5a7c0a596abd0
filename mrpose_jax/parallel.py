"""Devices: one mesh axis `data`; the batch is split over it, the state is on every device."""

import jax
from jax import sharding

from mrpose_jax import errors


def data_mesh() -> sharding.Mesh:
  """All devices of all processes on one axis."""
  return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(sharding.AxisType.Auto,))


def replicated(mesh) -> sharding.NamedSharding:
  return sharding.NamedSharding(mesh, sharding.PartitionSpec())


def batched(mesh) -> sharding.NamedSharding:
  """First axis split over the devices."""
  return sharding.NamedSharding(mesh, sharding.PartitionSpec('data'))


def put_batch(batch, mesh):
  """This process's rows of a batch -> global arrays, split over the devices."""
  place = batched(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, x), batch)


def check_batch_size(name: str, batch_size: int):
  """Raises ConfigError unless the batch can be split evenly over all devices."""
  devices = jax.device_count()
  if batch_size < 1 or batch_size % devices:
    raise errors.ConfigError(
      f'{name}={batch_size}: must be a positive multiple of the {devices} devices'
    )
