"""Measures time and memory on the CPU over batch size, input size and depth."""

import dataclasses
import pathlib
import statistics

import jax
import numpy as np
from jax import numpy as jnp

import mrpose_jax
from benchmarks import turns
from mrpose_jax.runtime import compilation


@dataclasses.dataclass(frozen=True)
class Point:
  """A network and input with their costs: seconds per call, and bytes besides the variables."""

  depth: int
  size: tuple[int, int]
  batch: int
  seconds: dict[str, float]
  memory: dict[str, int]


BATCHES = [(50, (256, 192), n) for n in (1, 2, 4, 8, 16)]
SIZES = [(50, (32 * n, 24 * n), 4) for n in (4, 8, 12)]
DEPTHS = [(depth, (256, 192), 4) for depth in (18, 50, 152)]


def run(num_turns) -> list[Point]:
  """Measures simple_baseline's prediction and the gradient of a training step."""
  cases = dict.fromkeys(BATCHES + SIZES + DEPTHS)
  return [_measure(*case, num_turns) for case in cases]


def _measure(depth, size, n, num_turns):
  model = mrpose_jax.create_model('simple_baseline', depth=depth)
  init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False))
  variables = init(jax.random.key(0))
  images = np.random.default_rng(0).standard_normal((n, *size, 3), np.float32)

  def gradient(variables, images):
    def loss_of(params):
      heatmaps, _ = model.apply(
        {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
      )
      return jnp.square(heatmaps).mean()

    return jax.grad(loss_of)(variables['params'])

  functions = {'predict': lambda v, x: model.apply(v, x, train=False), 'gradient': gradient}
  seconds, memory = {}, {}
  for name, function in functions.items():
    compiled = compilation.jit(function).lower(variables, images).compile()
    memory[name] = compiled.memory_analysis().temp_size_in_bytes

    def call(compiled=compiled):
      jax.block_until_ready(compiled(variables, images))

    call()
    seconds[name] = statistics.median(turns.seconds_of(call) for _ in range(num_turns))
  return Point(depth, size, n, seconds, memory)


def table(points) -> str:
  """Returns the results as a Markdown table."""
  lines = [
    '| simple_baseline | batch | predict, s | predict, MB | gradient, s | gradient, MB |',
    '|---|---|---|---|---|---|',
  ]
  for p in points:
    cells = [
      cell
      for name in ('predict', 'gradient')
      for cell in (f'{p.seconds[name]:.3g}', f'{p.memory[name] / 1e6:.0f}')
    ]
    name = f'R{p.depth}, {p.size[0]}x{p.size[1]}'
    lines.append(f'| {name} | {p.batch} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def plot(points, path: pathlib.Path):
  """Plots seconds and memory over batch size, input pixels and depth."""
  from matplotlib import figure

  point_of = {(p.depth, p.size, p.batch): p for p in points}
  columns = (
    ('batch size (R50, 256x192)', BATCHES, lambda p: p.batch),
    ('kilopixels of the input (R50, batch 4)', SIZES, lambda p: p.size[0] * p.size[1] / 1000),
    ('layers of the ResNet (256x192, batch 4)', DEPTHS, lambda p: p.depth),
  )
  page = figure.Figure(figsize=(10, 5), layout='constrained')
  axes = page.subplots(2, 3, sharey='row')
  for column, (label, cases, x_of) in enumerate(columns):
    column_points = [point_of[case] for case in cases]
    x = [x_of(p) for p in column_points]
    for name in ('predict', 'gradient'):
      axes[0, column].plot(x, [p.seconds[name] for p in column_points], 'o-', label=name)
      axes[1, column].plot(x, [p.memory[name] / 1e9 for p in column_points], 'o-', label=name)
    axes[1, column].set_xlabel(label)
    for axis in axes[:, column]:
      axis.set_ylim(bottom=0)
      axis.set_xlim(left=0)
      axis.grid(alpha=0.3)
  axes[0, 0].set_ylabel('seconds')
  axes[1, 0].set_ylabel('GB besides the variables')
  axes[0, 0].legend()
  page.savefig(path, dpi=80)
