"""Measures what each part of the strong recipe brings, on the people of LSPET.

  python -m mrpose_jax.input_pipeline.prepare --dataset=coco --source=LSPET --train=train \
      --validation=val --data_dir=runs/lsp_data --aspect=1 --scale=0.5 --shift=0.15 --half_body
  python -m benchmarks.ablation --data_dir=runs/lsp_data --output=runs/ablation

Every row of ROWS is a training run of the baseline (configs/lsp.py:recipe=baseline) with other
settings, once for each seed, with the same number of steps; rows of TESTS evaluate the checkpoints
of a row of ROWS with other settings. Runs that are finished are not repeated. The table is printed
and written to OUTPUT/ablation.md, also after each run. Fields of the configuration for all runs
follow after `--`, for example `-- --config.train.epochs=1`.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import flags

from mrpose_jax import command_line
from mrpose_jax import paths

ROOT = pathlib.Path(__file__).parents[1]
METRICS = ('PCK@0.2', 'PCK@0.1', 'EPE')

BASELINE = 'baseline'
ALL = 'all together'
DARK = 'DARK: targets and decoding'
UDP = 'UDP, decoding of DARK'
# The baseline keeps a moving average, which changes no training, for the row that evaluates it.
ROWS = {
  BASELINE: ('train.ema=0.999', 'eval.ema=False'),
  DARK: ('data.codec=dark',),
  UDP: ('data.codec=udp',),
  'scale 0.5 to 1.5': ('augment.scale_range=(0.5,1.5)',),
  'scale 0.85 to 1.15': ('augment.scale_range=(0.85,1.15)',),
  'scale 0.7 to 1.0, tested at 0.75, 0.85, 0.95': (
    *('augment.scale_range=(0.7,1.0)', 'eval.scales=(0.75,0.85,0.95)'),
  ),
  'rotation with probability 0.6': ('augment.rotation_probability=0.6',),
  'shift 0.1': ('augment.shift=0.1',),
  'half-body 0.3': ('augment.half_body=0.3',),
  'photometric jitter': (
    *('augment.brightness=0.3', 'augment.contrast=0.3', 'augment.saturation=0.3'),
    'augment.hue=0.05',
  ),
  'coarse dropout 0.5': ('augment.dropout=0.5',),
  'linear warm-up': ('train.warmup_epochs=0.5',),
  'cosine schedule': ('train.schedule=cosine',),
  'AdamW': ('train.optimizer=adamw',),
  'AdamW, learning rate doubled': ('train.optimizer=adamw', 'train.learning_rate=2e-3'),
  'gradient clipping': ('train.gradient_clip=0.001',),
  'hard keypoints (8 of 14)': ('train.hard_keypoints=8',),
}
TESTS = {
  'decoding of DARK alone': (BASELINE, 'eval.offset=dark'),
  'UDP, quarter offset': (UDP, 'eval.offset=quarter'),
  'moving average': (BASELINE, 'eval.ema=True'),
  'three test scales': (BASELINE, 'eval.scales=(0.85,1.0,1.2)'),
  'no flip test': (BASELINE, 'eval.flip_test=False'),
}


def define_flags():
  """Defines the flags of the command. Importing this module defines none."""
  flags.DEFINE_string('data_dir', None, 'Folder of the prepared people of LSPET.', required=True)
  flags.DEFINE_string('output', 'runs/ablation', 'Folder of the runs and the table.')
  flags.DEFINE_multi_integer('seeds', [0, 1], 'Seeds of the runs of each row.')
  flags.DEFINE_multi_string('only', [], 'Rows to run, by the beginning of their names [all].')


def main(arguments):
  paths.parse(flags.FLAGS.data_dir)  # an error now rather than in the log of the first run
  output = paths.parse_local(flags.FLAGS.output, '--output', written=True)
  output.mkdir(parents=True, exist_ok=True)
  for seed in flags.FLAGS.seeds:
    for row in (*ROWS, ALL, *TESTS):
      only = flags.FLAGS.only
      if not only or any(row.startswith(name) for name in only):
        measure(row, seed, output, arguments)
        (output / 'ablation.md').write_text(table(output), encoding='utf-8')
  print(table(output))


def command_of(row: str, seed: int, output: pathlib.Path, more: list[str]) -> list[str]:
  """The command that trains a row, or that evaluates it if it is one of TESTS."""
  trained, *tested = TESTS.get(row, (row,))
  recipe = 'strong' if trained == ALL else 'baseline'
  workdir = output / f'{trained}, seed {seed}'.replace(' ', '_')
  return [
    *(sys.executable, str(ROOT / 'main.py'), f'--config={ROOT}/configs/lsp.py:recipe={recipe}'),
    *(f'--workdir={workdir}', f'--config.data.data_dir={flags.FLAGS.data_dir}'),
    *(f'--config.seed={seed}', f'--config.eval.metrics={METRICS}', '--config.train.epochs=12'),
    *('--config.train.drop_epochs=(9,11)', '--config.train.evaluate_every=12'),
    *more,
    *(f'--config.{setting}' for setting in (*ROWS.get(trained, ()), *tested)),
    *(['--mode=eval'] * (row in TESTS)),
  ]


def measure(row: str, seed: int, output: pathlib.Path, more: list[str]):
  """Trains or evaluates a row with one seed, and stores its metrics; not if they are there."""
  result = output / 'results' / f'{row}, seed {seed}.json'
  if result.exists():
    return
  command = command_of(row, seed, output, more)
  print(f'{row}, seed {seed}: {" ".join(command[1:])}', flush=True)
  log = output / f'{result.stem}.log'
  with open(log, 'w', encoding='utf-8') as file:
    subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True)
  folder = pathlib.Path(
    log.read_text(encoding='utf-8').split('predictions and pictures: ')[-1].strip()
  )
  result.parent.mkdir(exist_ok=True)
  paths.write_json(result, json.loads((folder / 'metrics.json').read_text()))


def table(output: pathlib.Path) -> str:
  """Markdown: the mean of each row over the seeds, its spread, and the gain over the baseline."""
  results = {}
  for row in (*ROWS, ALL, *TESTS):
    files = sorted((output / 'results').glob(f'{row}, seed *.json'))
    found = [json.loads(file.read_text()) for file in files]
    if found:
      results[row] = np.array([[metrics[name] for name in METRICS] for metrics in found])
  lines = [
    f'| | seeds | {" | ".join(METRICS)} | {" | ".join(f"gain in {name}" for name in METRICS)} |',
    '|---' * (2 + 2 * len(METRICS)) + '|',
  ]
  for row, values in results.items():
    mean, spread = values.mean(0), np.ptp(values, 0) / 2
    cells = [f'{m:.2f} ± {s:.2f}' for m, s in zip(mean, spread)]
    gains = [''] * len(METRICS)
    if BASELINE in results and row != BASELINE:
      gains = [f'{gain:+.2f}' for gain in mean - results[BASELINE].mean(0)]
    lines.append(f'| {row} | {len(values)} | {" | ".join(cells)} | {" | ".join(gains)} |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  define_flags()
  command_line.run(main)
