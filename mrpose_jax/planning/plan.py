"""`--mode=plan`: estimates a configuration's costs on accelerators without access to them.

libtpu or JAX's CUDA plugin compiles the real training and prediction steps for a topology; this
needs neither the hardware nor the data set. The costs are XLA's own. The times are roofline
bounds from published peaks, not measurements.
"""

import functools
import logging
import math
import os
import re
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jax import sharding
from jax.experimental import topologies

from mrpose_jax import errors
from mrpose_jax import optimizers
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.datasets import pose_builder
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import transfer
from mrpose_jax.planning import chips
from mrpose_jax.planning import compiled
from mrpose_jax.planning import hosts
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import number_types
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)


# The device properties that XLA would query from an H100 SXM, copied from XLA's own sources
# (openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb).
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def plan(config: ml_collections.ConfigDict, topology: str) -> str:
  """Returns the table of a configuration's costs on a topology as Markdown.

  Args:
    config: see mrpose_jax/defaults.py; its batch sizes are totals over the whole topology.
    topology: 'v5e:2x4', 'v6e:16x16', 'v5p:2x2x1', ..., 'h100:1' or 'h100:8'.

  Raises:
    ConfigError: the topology is unknown, its compiler is not installed, or the configuration
      cannot run on it.
  """
  chip, devices = open_topology(topology)
  number_types.settle(config, devices[0])
  configuration.check(config)
  if config.train.accumulate != 1:
    raise errors.ConfigError(
      f'train.accumulate={config.train.accumulate}: plan one part instead, with train.accumulate=1 '
      'and the batch size of one part; parts run one after the other'
    )
  planner = Planner(config, devices)
  people = {'train': config.train.batch_size, 'predict': config.eval.batch_size}
  for name, section in (('train', 'train'), ('predict', 'eval')):
    if people[name] % len(devices):
      raise errors.ConfigError(
        f'{section}.batch_size={people[name]}: must be a multiple of the {len(devices)} devices of '
        f'{topology}; e.g. --config.{section}.batch_size={64 * len(devices)}'
      )
    people[name] //= len(devices)
  columns = {}
  for name, number in people.items():
    program, memory = planner.measure(name, number)

    def memory_of(n, name=name):
      return planner.measure(name, n)[1]

    groups = config.model.norm_groups // math.gcd(config.model.norm_groups, len(devices))
    fixed = planner.fixed_bytes(name)
    largest = largest_batch(memory_of, number, memory, fixed, chip.memory, groups)
    columns[name] = describe(program, memory, number, largest, chip, len(devices))
    if name == 'train' and program:
      crops, _ = planner.measure('crops', number)
      canvases, _ = planner.measure('canvases', number)
      columns[name] |= describe_input(crops, canvases, program)
      rate = number / max(chips.bounds(program, chip, len(devices)).values())
      columns[name] |= hosts.describe(chip.host, len(devices), number, rate, planner.canvas)
  return '\n'.join(
    [
      f'{config.model.network} on ResNet-{config.model.depth}, {config.model.dtype}, '
      f'{"x".join(map(str, config.data.image_size))}, {planner.skeleton.num_keypoints} keypoints, '
      f'on {len(devices)} x {devices[0].device_kind} ({topology})',
      '',
      f'| per device | {" | ".join(columns)} |',
      '|---' * (1 + len(columns)) + '|',
      *(
        f'| {row} | {" | ".join(column.get(row, "") for column in columns.values())} |'
        for row in columns['train']
      ),
    ]
  )


def largest_batch(
  memory_of: Callable[[int], float],
  people: int,
  memory: float,
  fixed: float,
  limit: float,
  multiple_of: int = 1,
) -> int:
  """Returns the largest number of people whose program fits, to within one sixteenth.

  Each guess extrapolates linearly from the last size to the limit; a compilation tests the guess.

  Args:
    memory_of: function from people per device to peak bytes.
    people, memory: a measured size and its peak bytes.
    fixed: bytes that do not depend on the number of people.
    limit: available bytes.
    multiple_of: the result is a multiple of this number.
  """
  first, fits, too_many = people, 0, math.inf
  while True:
    if memory <= limit:
      fits = people
    else:
      too_many = people
    guess = int(people * (limit - fixed) / (memory - fixed))
    guess = guess // 8 * 8 or guess
    enough = fits * 17 / 16
    if too_many < math.inf:
      guess = guess if enough < guess < too_many else (fits + too_many) // 2
    elif enough < guess and people != first:
      guess = max(guess, fits * 3 // 2)  # memory is not linear where XLA rematerialises to fit
    guess -= guess % multiple_of
    if guess <= fits or too_many <= enough or (guess <= enough and too_many == math.inf):
      return fits
    people, memory = guess, memory_of(guess)


def describe(
  program: compiled.Program | None,
  memory: float,
  people: int,
  largest: int,
  chip: chips.Chip,
  num_devices: int,
) -> dict[str, str]:
  """Returns {row label: cell} for one program's column of the table."""
  rows = {
    'people': str(people),
    'fits': 'yes' if memory <= chip.memory else 'no',
    'peak memory, GiB': f'{memory / 2**30:.2f} of {chip.memory / 2**30:.2f}',
    'largest batch that fits': str(largest),
  }
  if not program:
    return rows
  seconds = chips.bounds(program, chip, num_devices)
  bound = max(seconds, key=seconds.get)
  rate = people / seconds[bound]
  collectives = ', '.join(f'{n} {kind}, {b / 1e6:.1f} MB' for kind, n, b in program.collectives)
  return rows | {
    'TFLOP': f'{program.flops / 1e12:.4g}',
    'GB read and written': f'{program.traffic / 1e9:.4g}',
    'FLOP per byte': f'{program.flops / program.traffic:.0f}',
    'collectives': collectives or 'none',
    'minimum ms: ' + ', '.join(seconds): ', '.join(f'{1e3 * s:.1f}' for s in seconds.values()),
    'bound by': bound,
    'maximum people per second': f'{rate:.0f}, all devices {rate * num_devices:.0f}',
    'loop iterations': ', '.join(map(str, program.loops)) or 'none',
    'gathers of single pixels or values': str(program.single_gathers or 'none'),
  }


def describe_input(
  crops: compiled.Program, canvases: compiled.Program, step: compiled.Program
) -> dict[str, str]:
  """Overhead of what comes before the network.

  Args:
    crops: crops, augmentation and targets, a part of the step.
    canvases: the program before the step that puts patches onto canvases.
    step: the training step.
  """
  added = (
    f'{100 * part / (whole - part):.1f} %'
    for part, whole in ((crops.flops, step.flops), (crops.traffic, step.traffic))
  )
  return {
    'crops and augmentation add to FLOP, bytes': ', '.join(added),
    'patches onto canvases add to bytes': f'{100 * canvases.traffic / step.traffic:.1f} %',
  }


def open_topology(topology: str) -> tuple[chips.Chip, list[jax.Device]]:
  """Returns a chip's published peaks and the topology's devices, which need not be attached.

  Raises:
    ConfigError: the topology is unknown, or its compiler is not installed.
  """
  match = re.fullmatch(r'(?:(v5e|v5p|v6e):(\d+x\d+(?:x\d+)?)|(h100):(\d+))', topology or '')
  if not match:
    raise errors.ConfigError(
      f'--topology={topology}: name one like v5e:2x4, v5e:16x16, v5p:2x2x1, v6e:2x4 or h100:8'
    )
  # The programs are only compiled here, so JAX need not look for accelerators.
  jax.config.update('jax_platforms', 'cpu')
  try:
    if match[3]:
      # Programs that were compiled without a GPU cannot be read back from the cache.
      jax.config.update('jax_enable_compilation_cache', False)
      devices = topologies.get_topology_desc(
        match[3], platform='cuda', topology=f'1x1x{match[4]}', target_config=_H100
      ).devices
    else:
      os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
      os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
      os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
      os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
      devices = topologies.get_topology_desc(topology, platform='tpu').devices
  except (RuntimeError, NotImplementedError) as error:  # JaxRuntimeError is a RuntimeError
    reason = str(error).splitlines()[0]
    if isinstance(error, jax.errors.JaxRuntimeError):
      raise errors.ConfigError(f'--topology={topology}: {reason}') from error
    extra = 'cuda12' if match[3] else 'tpu'
    raise errors.ConfigError(
      f"--topology={topology}: its compiler is not installed; pip install 'mrpose_jax[{extra}]'"
    ) from error
  return chips.CHIPS[match[1] or match[3]], list(devices)


class Planner:
  """Lowers a configuration's programs for a given number of people per device.

  It does not open data sets: the keypoints are MPII's if the data set is called mpii and COCO's
  otherwise, and training patches have the default size of `prepare`.
  """

  def __init__(self, config, devices):
    self.config = config
    self.skeleton = skeletons.MPII if config.data.name == 'mpii' else skeletons.COCO
    self.canvas = pose_builder.CropSettings.canvas
    self.devices = devices
    mesh = sharding.Mesh(np.array(devices), ('data',))
    self.everywhere, self.split = parallel.replicated(mesh), parallel.batched(mesh)
    self.model = predict.model_of(config, self.skeleton.num_keypoints)
    # The number of steps in an epoch is a constant that does not affect the costs.
    schedule = optimizers.schedule_of(config.train, lambda epochs: round(1000 * epochs))
    self.optimizer = optimizers.optimizer_of(config.train, schedule)
    self.augmentation = augment.Augmentation(**config.augment)

  def measure(self, name: str, people: int) -> tuple[compiled.Program | None, float]:
    """Returns the costs and peak memory of 'train', 'predict', 'crops' or 'canvases'.

    For a program that is too large for a TPU, the costs are None and the memory is what it needs.
    """
    log.info('compiling %s for %d people per device', name, people)
    counted = None
    if self.devices[0].platform in ('gpu', 'cuda'):
      cpu_planner = Planner(self.config, jax.local_devices(backend='cpu')[:1])
      counted = getattr(cpu_planner, name)(people)
    try:
      program = compiled.measure(getattr(self, name)(people), counted)
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      match = re.search(r'\(([\d.]+)G\) exceeds', str(error))
      return None, float(match[1]) * 2**30 if match else math.inf
    return program, program.memory

  def train(self, people: int) -> jax.stages.Lowered:
    """Lowers the training step of `train.train_and_evaluate`."""
    config = self.config
    step = training_step.make_train_step(
      self.model,
      self.optimizer,
      predict.codec_of(config),
      self.augmentation,
      self.skeleton,
      config.seed,
      config.model.channel_order,
      hard_keypoints=config.train.hard_keypoints,
      ema=config.train.ema,
    )
    outputs = (self.everywhere, self.everywhere)
    step = jax.jit(step, donate_argnums=0, out_shardings=outputs)
    return step.lower(self.state(), self.batch(people, self.canvas))

  def predict(self, people: int) -> jax.stages.Lowered:
    """Lowers the prediction step of evaluation."""
    step = predict.make_predict_people(self.config, self.skeleton)
    step = jax.jit(step, out_shardings=self.split)
    return step.lower(self.state().variables, self.batch(people, self.config.eval.canvas))

  def crops(self, people: int) -> jax.stages.Lowered:
    """Lowers the training step's part before the network: crops, augmentation, target heatmaps."""
    config = self.config
    make_examples = training_step.make_examples(
      predict.codec_of(config),
      self.augmentation,
      self.skeleton,
      config.seed,
      config.model.channel_order,
    )

    def crops(step, batch):
      examples = make_examples(step, batch)
      dtype = number_types.choose(config.model.dtype)
      return examples.inputs.astype(dtype), examples.target, examples.weights

    step = jax.ShapeDtypeStruct((), np.int32, sharding=self.everywhere)
    return jax.jit(crops).lower(step, self.batch(people, self.canvas))

  def canvases(self, people: int) -> jax.stages.Lowered:
    """Lowers the program that puts the patches of a batch onto canvases, on each device alone."""
    num_blocks = math.ceil(people * hosts.BYTES_PER_PERSON / (3 * math.prod(batching.BLOCK)))
    device = sharding.SingleDeviceSharding(self.devices[0])
    blocks = jax.ShapeDtypeStruct((num_blocks, *batching.BLOCK, 3), np.uint8, sharding=device)
    grid = jax.ShapeDtypeStruct((people, 2), np.int32, sharding=device)
    return transfer.on_canvases.lower(blocks, grid, canvas=self.canvas)

  def fixed_bytes(self, name: str) -> int:
    """Bytes that do not depend on the batch size: the training state or the variables alone."""
    state = self.state() if name == 'train' else self.state().variables
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

  def state(self) -> training_step.TrainState:
    """Returns the training state as shapes with shardings."""
    create = functools.partial(
      training_step.create, self.model, self.optimizer, ema=self.config.train.ema > 0
    )
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.everywhere),
      jax.eval_shape(create, jax.random.key(0)),
    )

  def batch(self, people: int, canvas: int) -> batching.PersonBatch:
    """Returns a batch with `people` per device as shapes with shardings."""
    n, k = people * len(self.devices), self.skeleton.num_keypoints
    shapes = batching.PersonBatch(
      (n, canvas, canvas, 3), (n, 2), (n, 2), (n, 2), (n, 2), (n, k, 2), (n, k)
    )
    return batching.PersonBatch(
      jax.ShapeDtypeStruct(shapes.patches, np.uint8, sharding=self.split),
      *(jax.ShapeDtypeStruct(shape, np.float32, sharding=self.split) for shape in shapes[1:]),
    )
