"""The price of XLA's deterministic mode, in which this part's process runs."""

import json
import os

from benchmarks.accelerator import rows
from benchmarks.accelerator import steps
from benchmarks.accelerator import training


def measure(table: rows.Rows):
  """Measures the first row of part `training` with the max-pool that the mode accepts."""
  table.about(f'XLA_FLAGS={os.environ.get("XLA_FLAGS", "")}, model.deterministic=True')
  sizes = table.sizes()
  config = steps.config_of(sizes, 'simple_baseline', sizes.depth)
  config.model.deterministic = True
  planner = steps.planner_of(config)
  seconds = steps.seconds_of_step(
    planner, planner.train(sizes.batch).compile(), sizes.batch, sizes.seconds
  )
  what = f'simple_baseline R{sizes.depth}, batch {sizes.batch}'
  cells = training.people_a_second(sizes.batch, seconds)
  usual = _rate_in_training(table.folder, what)
  if usual:
    cells['of the usual speed'] = cells['people/s'] / usual
  table.add(what, **cells)


def _rate_in_training(folder, what):
  """People a second of this row in part `training`; None if it was not measured."""
  file = folder / 'training.json'
  found = json.loads(file.read_text())['rows'] if file.exists() else []
  return next((row.get('people/s') for row in found if row['what'] == what), None)
