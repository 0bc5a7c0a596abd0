"""The plan: its table and bounds by hand, the largest batch, and errors about topologies."""

import dataclasses
import types

import jax
import pytest
from flax import linen as nn

from configs import coco
from configs import custom
from configs import mpii
from mrpose_jax import errors
from mrpose_jax import predict
from mrpose_jax.models import layers
from mrpose_jax.planning import chips
from mrpose_jax.planning import compiled
from mrpose_jax.planning import hosts
from mrpose_jax.planning import plan

MACHINE = hosts.Host('large-4', devices=4, vcpus=20, memory=100 * 2**30, link=1e9)


class Tiny(nn.Module):
  """A network of one layer, which compiles in a second."""

  num_keypoints: int

  @nn.compact
  def __call__(self, images, train):
    heatmaps = layers.conv(self.num_keypoints, (3, 3), padding=1)(images[:, ::4, ::4])
    return layers.BatchNorm(use_running_average=not train)(heatmaps)


@pytest.fixture
def config():
  tiny_config = custom.get_config('simple_baseline,width=4')
  tiny_config.data.image_size = (64, 64)
  tiny_config.train.batch_size = tiny_config.eval.batch_size = 8
  tiny_config.eval.canvas = 80
  return tiny_config


@pytest.fixture
def here(monkeypatch):
  """Replaces the topology by the CPU devices."""
  chip = chips.Chip(memory=1e9, flops=1e12, bandwidth=1e11, interconnect=1e10, host=MACHINE)
  monkeypatch.setattr(plan, 'open_topology', lambda topology: (chip, jax.devices()))
  return chip


def test_the_table(config, here, monkeypatch):
  monkeypatch.setattr(plan, 'largest_batch', lambda *arguments: 72)
  monkeypatch.setattr(predict, 'model_of', lambda config, num_keypoints: Tiny(num_keypoints))
  lines = plan.plan(config, 'v5e:2x2').splitlines()
  assert (
    lines[0] == 'simple_baseline on ResNet-18, float32, 64x64, 17 keypoints, on 4 x cpu (v5e:2x2)'
  )
  rows = {cells[0]: cells[1:] for cells in (line[2:-2].split(' | ') for line in lines[4:])}
  assert rows['people'] == ['2', '2']
  assert rows['fits'] == ['yes', 'yes']
  assert rows['largest batch that fits'] == ['72', '72']
  assert ' all-reduce, ' in rows['collectives'][0]
  assert rows['collectives'][1] == 'none'  # examples stay on their devices
  assert float(rows['TFLOP'][0]) > 0
  assert rows['bound by'][0] in ('arithmetic', 'memory', 'interconnect')
  assert rows['crops and augmentation add to FLOP, bytes'][0].count('%') == 2
  assert rows['patches onto canvases add to bytes'][0].endswith(' %')
  assert rows['host of 4 (large-4): vCPUs that decode'][0].endswith(' of 20')
  assert rows['shared memory of these workers, GiB'][0].endswith(' of 100')
  assert rows['bound by the host'][0].startswith(('decoding: ', 'transfer: '))


def test_bounds_by_hand():
  chip = chips.Chip(memory=2**31, flops=1e12, bandwidth=1e9, interconnect=1e8, host=MACHINE)
  collectives = (('all-reduce', 3, 1e6),)
  program = compiled.Program(2**30, 2e9, 4e6, collectives, (), 0)
  rows = plan.describe(program, program.memory, 16, 24, chip, 4)
  assert rows['peak memory, GiB'] == '1.00 of 2.00'
  assert rows['FLOP per byte'] == '500'
  # 2e9 / 1e12, 4e6 / 1e9, and 1.5 MB at 1e8 bytes per second.
  assert rows['minimum ms: arithmetic, memory, interconnect'] == '2.0, 4.0, 15.0'
  assert rows['bound by'] == 'interconnect'
  assert rows['maximum people per second'] == '1067, all devices 4267'
  crops = compiled.Program(0, 1e9, 1e6, (), (), 0)
  canvases = compiled.Program(0, 0, 1e5, (), (), 0)
  added = plan.describe_input(crops, canvases, program)
  assert list(added.values()) == ['100.0 %, 33.3 %', '2.5 %']


@pytest.mark.parametrize(
  ('num_devices', 'rate', 'link', 'expected'),
  [
    # 4 devices at 1,500 people per second: 6,000 for one machine, a vCPU decodes 1,000 of them.
    # 4 n + 5 batches of n workers: 256 people with 17 blocks for every 16 of their canvases.
    (8, 1500, 1e9, ['6 of 20', '0', '0.0 of 100', '0.51 of 1', 'no']),
    (8, 4000, 2e9, ['16 of 20', '16', '13.7 of 100', '1.36 of 2', 'no']),  # more than 8 threads
    (
      *(8, 6000, 3e9),
      ['24 of 20', '24', '20.1 of 100', '2.04 of 3', 'decoding: 5000 {}, all devices 40000'],
    ),
    (
      *(8, 4000, 1e9),
      ['16 of 20', '16', '13.7 of 100', '1.36 of 1', 'transfer: 2941 {}, all devices 23529'],
    ),
    (1, 4000, 2e9, ['4 of 5', '0', '0.0 of 25', '1.36 of 2', 'no']),  # a quarter of the machine
  ],
)
def test_the_host_by_hand(num_devices, rate, link, expected, monkeypatch):
  monkeypatch.setattr(hosts, 'PEOPLE_PER_VCPU', 1000)
  monkeypatch.setattr(hosts, 'BYTES_PER_PERSON', 340_000)
  rows = hosts.describe(dataclasses.replace(MACHINE, link=link), num_devices, 64, rate, 512)
  assert list(rows.values()) == [cell.format('people per second') for cell in expected]
  assert next(iter(rows)) == f'host of {min(4, num_devices)} (large-4): vCPUs that decode'


def test_a_program_that_is_too_large():
  chip = chips.Chip(memory=2**31, flops=1e12, bandwidth=1e9, interconnect=1e8, host=MACHINE)
  rows = plan.describe(None, 3 * 2**30, 16, 8, chip, 4)
  assert rows == {
    'people': '16',
    'fits': 'no',
    'peak memory, GiB': '3.00 of 2.00',
    'largest batch that fits': '8',
  }


def test_a_compiler_that_finds_too_little_memory(config, monkeypatch):
  def refuse(*arguments):
    raise jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (24.50G) exceeds 15.75G'
    )

  monkeypatch.setattr(compiled, 'measure', refuse)
  assert plan.Planner(config, jax.devices()).measure('crops', 2) == (None, 24.5 * 2**30)


@pytest.mark.parametrize(
  ('memory_of', 'start', 'expected'),
  [
    (
      lambda n: 100 + 10 * n,
      8,
      88,
    ),  # the first guess is right: 90, rounded down to a multiple of 8
    (lambda n: 100 + 10 * n, 200, 88),
    (lambda n: 100 + n * n, 8, 30),  # far from linear
    (lambda n: 2000, 8, 0),
    (lambda n: 100 + 300 * n, 64, 3),
    (lambda n: min(100 + 10 * n, 900) if n <= 320 else 2000, 8, 320),  # XLA rematerialises
  ],
)
def test_largest_batch(memory_of, start, expected):
  tried = []

  def record(n):
    tried.append(n)
    return memory_of(n)

  largest = plan.largest_batch(record, start, memory_of(start), 100, 1000)
  assert expected * 15 / 16 <= largest <= expected
  assert largest == 0 or memory_of(largest) <= 1000
  assert len(tried) <= 8


def test_a_batch_that_the_devices_cannot_share(config, here, monkeypatch):
  monkeypatch.setattr(plan, 'open_topology', lambda topology: (here, jax.devices()[:3]))
  config.train.batch_size = 12
  with pytest.raises(
    errors.ConfigError, match=r'eval.batch_size=8: must be a multiple of the 3 .*192'
  ):
    plan.plan(config, 'h100:3')


def test_steps_in_parts_are_planned_by_the_part(config, here):
  config.train.accumulate = 2
  with pytest.raises(errors.ConfigError, match=r'train.accumulate=2: plan one part'):
    plan.plan(config, 'v5e:2x2')


def test_the_number_type_is_that_of_the_topology(config, here, monkeypatch):
  class Stop(Exception):
    pass

  def stop(config, devices):
    raise Stop(config.model.dtype)

  monkeypatch.setattr(plan, 'Planner', stop)
  for platform, expected in (('tpu', 'bfloat16'), ('cpu', 'float32')):
    device = types.SimpleNamespace(platform=platform, device_kind=platform)
    monkeypatch.setattr(plan, 'open_topology', lambda topology, device=device: (here, [device]))
    with pytest.raises(Stop, match=expected):
      plan.plan(config.copy_and_resolve_references(), 'v5e:1x1')


def test_batches_that_groups_can_share():
  assert plan.largest_batch(lambda n: 10 * n, 12, 120, 0, 1000, multiple_of=12) == 96


@pytest.mark.parametrize('topology', ['v9:2x2', 'v5e', 'v5e:8', 'h100:1x1', ''])
def test_unknown_topologies(topology):
  with pytest.raises(errors.ConfigError, match=r'name one like v5e:2x4, .* or h100:8'):
    plan.open_topology(topology)


@pytest.mark.parametrize(
  ('topology', 'error', 'extra'),
  [('v6e:2x4', RuntimeError, 'tpu'), ('h100:8', NotImplementedError, 'cuda12')],
)
def test_a_compiler_that_is_not_installed(topology, error, extra, monkeypatch):
  def missing(*arguments, **options):
    raise error('topology not implemented')

  monkeypatch.setattr(plan.topologies, 'get_topology_desc', missing)
  with pytest.raises(errors.ConfigError, match=rf"pip install 'mrpose_jax\[{extra}\]'"):
    plan.open_topology(topology)


def test_a_shape_that_there_is_not(monkeypatch):
  def refuse(*arguments, **options):
    raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: v5e:3x5 is not divisible by 2x2x1')

  monkeypatch.setattr(plan.topologies, 'get_topology_desc', refuse)
  with pytest.raises(errors.ConfigError, match=r'--topology=v5e:3x5: INVALID_ARGUMENT: v5e:3x5 is'):
    plan.open_topology('v5e:3x5')


def test_predicting_holds_no_optimizer(config, here):
  planner = plan.Planner(config, jax.devices())
  variables = planner.fixed_bytes('predict')
  params = sum(4 * x.size for x in jax.tree.leaves(planner.state().params))
  assert params < variables < planner.fixed_bytes('train') - 2 * params + 100


def test_keypoints_come_from_the_data_sets_name(here):
  planner = plan.Planner(mpii.get_config(), jax.devices())
  assert planner.batch(2, 96).keypoints.shape == (8, 16, 2)
  assert planner.batch(2, 96).patches.shape == (8, 96, 96, 3)


def test_crops_for_a_tpu_take_no_pixel_by_itself(config):
  """Uses the real compiler, if it is installed."""
  pytest.importorskip('libtpu')
  _, devices = plan.open_topology('v5e:1x1')
  program = compiled.measure(plan.Planner(config, devices).crops(2))
  assert program.single_gathers == 0


def test_canvases_for_a_tpu_move_few_bytes():
  """The network's own step moves 15.6 GB for 64 people of simple_baseline on ResNet-50."""
  pytest.importorskip('libtpu')
  _, devices = plan.open_topology('v5e:2x2')
  program = compiled.measure(plan.Planner(coco.get_config(), devices).canvases(64))
  assert program.single_gathers == 0
  assert program.traffic < 0.015 * 15.6e9


def test_crops_for_a_tpu_keep_their_weights_on_the_chip():
  """256 * 192 pixels times 2 * 37 bfloat16 weights along x alone would be 7.3 MB per person."""
  pytest.importorskip('libtpu')
  _, devices = plan.open_topology('v5e:1x1')
  program = compiled.measure(plan.Planner(coco.get_config(), devices).crops(8))
  assert program.traffic / 8 < 4e6
