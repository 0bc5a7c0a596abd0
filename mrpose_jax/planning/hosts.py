"""What the accelerators of a topology need from the virtual machine that they are attached to."""

import dataclasses
import math

from mrpose_jax.input_pipeline.host import loader

# People that one vCPU reads, decodes and packs in a second, and bytes of a person in a packed batch
# with its share of a sixteenth of a canvas: 225 people of COCO photographs, patches of at most 512
# pixels, one thread of a shared AMD EPYC, in processor time.
PEOPLE_PER_VCPU = 1000
BYTES_PER_PERSON = 340_000


@dataclasses.dataclass(frozen=True)
class Host:
  """A usual virtual machine of a kind of accelerator.

  Attributes:
    machine: its type at Google Cloud.
    devices: number of devices that are attached to it.
    vcpus: number of its vCPUs.
    memory: its memory in bytes.
    link: bytes per second from the machine to each device.
  """

  machine: str
  devices: int
  vcpus: int
  memory: float
  link: float


# vCPUs and memory: cloud.google.com/tpu/docs/v5e, v5p and v6e, cloud.google.com/compute/docs/gpus.
# Link: 15 GB/s for TPUs ("How to Scale Your Model", part 2, Google DeepMind 2025), PCIe 5.0 x16 for
# an H100 SXM (NVIDIA's data sheet: 128 GB/s in both directions together).
HOSTS = {
  'v5e': Host('ct5lp-hightpu-4t', 4, 112, 192 * 2**30, 15e9),
  'v5p': Host('ct5p-hightpu-4t', 4, 208, 448 * 2**30, 15e9),
  'v6e': Host('ct6e-standard-4t', 4, 180, 720 * 2**30, 15e9),
  'h100': Host('a3-highgpu-8g', 8, 208, 1872 * 2**30, 64e9),
}


def describe(
  host: Host, num_devices: int, people: int, people_per_second: float, canvas: int
) -> dict[str, str]:
  """Returns {row label: cell} of the host that keeps the devices at their bound.

  Args:
    host: from HOSTS. If it has more devices than the topology, as for h100:1, its vCPUs and memory
      are shared out evenly.
    num_devices: number of devices of the topology.
    people: people of one device in a batch.
    people_per_second: bound of one device, from arithmetic, memory and interconnect.
    canvas: side of the training patches in pixels.
  """
  devices = min(host.devices, num_devices)
  vcpus = host.vcpus * devices // host.devices
  memory = host.memory * devices / host.devices
  rate = people_per_second * devices
  needed = math.ceil(rate / PEOPLE_PER_VCPU)
  sent = people_per_second * BYTES_PER_PERSON
  limits = {
    'decoding': vcpus * PEOPLE_PER_VCPU / devices,
    'transfer': host.link / BYTES_PER_PERSON,
  }
  slowest = min(limits, key=limits.get)
  bound = 'no'
  if limits[slowest] < people_per_second:
    bound = f'{slowest}: {limits[slowest]:.0f} people per second, all devices '
    bound += f'{limits[slowest] * num_devices:.0f}'
  workers = 0 if needed <= loader.MOST_THREADS else needed
  shared = loader.shared_memory_bytes(people * devices, canvas, workers) if workers else 0
  return {
    f'host of {devices} ({host.machine}): vCPUs that decode': f'{needed} of {vcpus}',
    'data.num_workers, divided by the processes of the machine': str(workers),
    'shared memory of these workers, GiB': f'{shared / 2**30:.1f} of {memory / 2**30:.0f}',
    'host to each device, GB per second': f'{sent / 1e9:.2f} of {host.link / 1e9:.0f}',
    'bound by the host': bound,
  }
