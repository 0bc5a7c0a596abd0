"""Published peaks of accelerators, and the least time that a program takes on them."""

import dataclasses

from mrpose_jax.planning import compiled
from mrpose_jax.planning import hosts


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published peaks of one device.

  Attributes:
    memory: bytes that programs can use; for TPUs the number that libtpu reports.
    flops: dense bfloat16 operations per second.
    bandwidth: memory bandwidth in bytes per second.
    interconnect: bytes per second to the other devices, in one direction.
    host: a usual virtual machine that such devices are attached to.
  """

  memory: float
  flops: float
  bandwidth: float
  interconnect: float
  host: hosts.Host


# cloud.google.com/tpu/docs/v5e, v5p and v6e; NVIDIA H100 SXM data sheet (NVLink 4).
CHIPS = {
  'v5e': Chip(15.75 * 2**30, 197e12, 819e9, 200e9, hosts.HOSTS['v5e']),
  'v5p': Chip(95.73 * 2**30, 459e12, 2765e9, 600e9, hosts.HOSTS['v5p']),
  'v6e': Chip(31.24 * 2**30, 918e12, 1638e9, 400e9, hosts.HOSTS['v6e']),
  'h100': Chip(84942979072, 989e12, 3352e9, 450e9, hosts.HOSTS['h100']),
}


def bounds(program: compiled.Program, chip: Chip, num_devices: int) -> dict[str, float]:
  """Least seconds of a program by what it needs from a device."""
  # In a ring all-reduce each device sends every byte of the result twice, except its own share.
  sent = 2 * (num_devices - 1) / num_devices * program.collective_bytes
  return {
    'arithmetic': program.flops / chip.flops,
    'memory': program.traffic / chip.bandwidth,
    'interconnect': sent / chip.interconnect,
  }
