"""People a second of training steps whose batch is on the devices; memory beside the plan's."""

import jax

from benchmarks.accelerator import rows
from benchmarks.accelerator import steps

NETWORKS = ('simple_baseline', 'mrfeanet2')


def measure(table: rows.Rows):
  """Measures simple_baseline at the usual batch, then all networks at 64 and the largest batch."""
  table.about(
    "Training steps of the paper's COCO recipe in bfloat16, with crops and augmentation; the batch "
    'is on the device already. "plan" is the peak memory of one device that XLA states for the '
    'program, as --mode=plan does; "measured" is that of the process, where this step raised it.'
  )
  sizes = table.sizes()
  planners = {
    (network, depth): steps.planner_of(steps.config_of(sizes, network, depth))
    for depth in dict.fromkeys((sizes.depth, sizes.deep))
    for network in NETWORKS
  }
  first = next(iter(planners))
  _measure(table, {first: planners[first]}, {first: sizes.batch}, sizes)
  small = _measure(table, planners, dict.fromkeys(planners, sizes.small_batch), sizes)
  largest = {
    case: largest_batch(planners[case], memory, sizes) for case, memory in small.items() if memory
  }
  tries = 3  # each with four fifths of the people of the one before
  while largest and tries:
    found = _measure(table, {case: planners[case] for case in largest}, largest, sizes)
    largest = {
      case: int(0.8 * people) // 8 * 8 or 1
      for case, people in largest.items()
      if found[case] is None
    }
    tries -= 1


def largest_batch(planner, memory: int, sizes: rows.Sizes) -> int:
  """People that fill nine tenths of a device by the memory that XLA states for the small batch."""
  fixed = planner.fixed_bytes('train')
  limit = bytes_limit() or fixed + 3 * (memory - fixed)
  people = int(sizes.small_batch * (0.9 * limit - fixed) / (memory - fixed))
  return people // 64 * 64 or max(people, 1)


def bytes_limit() -> int | None:
  """Bytes that the programs of a device may use, or None if the device does not tell."""
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')


def peak_bytes() -> int:
  """Largest number of bytes that were in use so far; 0 if the device does not tell."""
  return (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use', 0)


def _measure(table, planners, people, sizes):
  """Adds a row for each training step; returns XLA's memory, None for a step that did not fit."""
  memory = {}
  programs = steps.compile_all(planners.values(), [people[case] for case in planners])
  for (case, planner), compiled in zip(planners.items(), programs):
    network, depth = case
    what = f'{network} R{depth}, batch {people[case]}'
    memory[case], before = None, peak_bytes()
    try:
      if isinstance(compiled, Exception):
        raise compiled
      seconds = steps.seconds_of_step(planner, compiled, people[case], sizes.seconds)
    except (jax.errors.JaxRuntimeError, FloatingPointError) as error:
      table.add(what, error=str(error).splitlines()[0][:200])
      continue
    memory[case], measured = steps.memory_of(compiled), peak_bytes()
    table.add(
      what,
      **people_a_second(people[case], seconds),
      **{'plan, GiB': memory[case] / 2**30},
      **({'measured, GiB': measured / 2**30} if measured > before else {}),
    )
  return memory


def people_a_second(people: int, seconds: float) -> dict:
  """Cells of a step's speed; `people` of each device."""
  total = people * jax.device_count()
  return {'ms a step': 1e3 * seconds, 'people/s': total / seconds}
