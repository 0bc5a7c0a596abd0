"""A short run of main.py's training: its speed from the loader, its trace, and an evaluation."""

import json
import shutil
import statistics
import time

import jax

from benchmarks.accelerator import rows
from benchmarks.accelerator import steps
from benchmarks.accelerator import traces
from mrpose_jax import evaluate
from mrpose_jax import train
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
from mrpose_jax.input_pipeline.host import cores
from mrpose_jax.input_pipeline.host import mixing
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import profiling

TRACED = 3  # steps


def measure(table: rows.Rows):
  """Trains simple_baseline on drawn people, and evaluates it."""
  table.about(
    f'The kernels are the ten longest of {TRACED} traced steps; their times and calls are those of '
    'one device, the mean over all devices.'
  )
  sizes = table.sizes()
  config = steps.config_of(sizes, 'simple_baseline', sizes.depth)
  config.data.data_dir = str(_data_dir(table.folder, sizes))
  batch = sizes.batch * jax.device_count()
  log_every = sizes.steps // 4
  config.train.update({'batch_size': batch, 'log_every': log_every, 'profile_steps': TRACED})
  config.train.checkpoint_every = 10**6
  config.eval.batch_size = batch
  if sizes == rows.TINY:
    config.eval.canvas = 160
  workdir = table.folder / 'run'
  shutil.rmtree(workdir, ignore_errors=True)
  dataset = configuration.open_dataset(config)
  people = len(mixing.TrainingRecords(dataset))
  config.train.epochs = config.train.evaluate_every = sizes.steps * batch / people
  train.train_and_evaluate(config, workdir)

  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  traced = profiling.WARM_UP + TRACED
  after = [line for line in lines if 'loss' in line and line['step'] >= traced + log_every]
  rates, waits = (
    [line[name] for line in after] for name in ('people_per_second', 'data_wait_fraction')
  )
  table.add(
    f'training of simple_baseline R{sizes.depth} from the loader, batch {batch}',
    **{'people/s': statistics.median(rates), 'waiting for data': statistics.mean(waits)},
  )
  _evaluate(table, config, dataset, workdir)
  for name, milliseconds, calls in traces.longest_kernels(workdir / 'profile'):
    cells = {'ms a step': milliseconds / TRACED, 'calls a step': calls / TRACED}
    table.add(f'kernel {name[:120]}', **cells)


def _evaluate(table, config, dataset, workdir):
  """Evaluates twice with one compiled program; the second time counts."""
  run = train.build(config, dataset, workdir)
  variables = steps.state_of(steps.planner_of(config)).variables
  for _ in range(2):
    start = time.perf_counter()
    predictions = evaluate.predict_split(
      run.predict_step, variables, dataset, run.detections, config, run.mesh
    )
    predicted = time.perf_counter()
    evaluate.score(predictions, dataset, config)
  people = len(predictions['keypoints'])
  table.add(
    f'evaluation from file to keypoints, {people} people',
    **{'people/s': people / (predicted - start)},
  )
  table.add(
    'evaluation from file to metrics', **{'people/s': people / (time.perf_counter() - start)}
  )


def _data_dir(folder, sizes):
  """Drawn people as data set 'coco'; a second run in the same folder finds them."""
  data = folder.absolute() / 'data'
  for image_set, count in zip(('train', 'validation'), sizes.images):
    if not (data / 'source' / 'annotations' / f'person_keypoints_{image_set}.json').exists():
      synthetic_people.write_coco(
        data / 'source', image_set, count, seed=0, processes=cores.available()
      )
  height, width = sizes.image_size
  prepare.prepare(
    'coco', data / 'source', data, train='train', validation='validation', aspect=width / height
  )
  return data
