"""Training steps as `--mode=plan` plans them, with people that are on the devices already."""

import concurrent.futures
import functools

import jax
import ml_collections
import numpy as np

from benchmarks.accelerator import rows
from mrpose_jax import defaults
from mrpose_jax import training_step
from mrpose_jax.planning import plan
from mrpose_jax.runtime import number_types


def config_of(sizes: rows.Sizes, network: str, depth: int) -> ml_collections.ConfigDict:
  """The paper's COCO recipe for a network, in bfloat16 also on a CPU."""
  config = defaults.get_config()
  config.model.update(
    {'network': network, 'depth': depth, 'width': sizes.width, 'dtype': 'bfloat16'}
  )
  config.data.image_size = sizes.image_size
  return config


def planner_of(config: ml_collections.ConfigDict) -> plan.Planner:
  """The plan's programs for the devices that are here; `people` below is that of each device."""
  number_types.settle(config, jax.devices()[0])
  return plan.Planner(config, jax.devices())


def compile_all(planners, people) -> list[jax.stages.Compiled | Exception]:
  """Compiles training steps at the same time; errors are returned in the place of programs."""

  def compile_one(planner, number):
    try:
      return planner.train(number).compile()
    except jax.errors.JaxRuntimeError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(len(planners)) as threads:
    return list(threads.map(compile_one, planners, people))


def memory_of(compiled: jax.stages.Compiled) -> int:
  """Peak bytes on one device according to XLA, as `--mode=plan` reports them."""
  memory = compiled.memory_analysis()
  return memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes


def state_of(planner: plan.Planner):
  """A new training state on the devices."""
  create = functools.partial(training_step.create, planner.model, planner.optimizer)
  return jax.jit(create, out_shardings=planner.everywhere)(jax.random.key(0))


def batch_of(planner: plan.Planner, people: int):
  """Training people on the devices: patches of random pixels, with the region in the middle."""
  side = planner.canvas
  shapes = planner.batch(people, side)
  r = np.random.default_rng(0)

  def filled(name, shape):
    if shape.dtype == np.uint8:  # pixels
      return r.integers(0, 256, shape.shape, np.uint8)
    if name in ('origin', 'zoom', 'visible'):
      return np.full(shape.shape, name != 'origin', shape.dtype)
    if name == 'size':  # the diagonal of the largest crop is as long as the patch
      return np.full(shape.shape, side / 2.5, shape.dtype) * np.float32([0.75, 1])
    return (side * r.uniform(0.4, 0.6, shape.shape)).astype(shape.dtype)

  arrays = {name: filled(name, shape) for name, shape in shapes._asdict().items()}
  return jax.device_put(type(shapes)(**arrays), planner.split)


def seconds_of_step(planner: plan.Planner, compiled, people: int, at_least: float) -> float:
  """Seconds of a training step; raises FloatingPointError if its loss is not finite."""
  state, batch = [state_of(planner)], batch_of(planner, people)

  def step():
    state[0], metrics = compiled(state[0], batch)
    return metrics

  seconds = rows.seconds_of_call(step, at_least)
  if state[0].diverged:
    raise FloatingPointError('the loss is not finite')
  return seconds
