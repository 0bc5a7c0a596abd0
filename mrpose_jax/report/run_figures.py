"""Draws figures that are not in the paper: training curves, and the errors of a network."""

import math
import pathlib

import numpy as np

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import tables
from mrpose_jax.report import page
from mrpose_jax.report import paper_figures
from mrpose_jax.runtime import metric_writer

# Okabe and Ito's colours without the yellow, which is pale on white; a second round is dashed.
PALETTE = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#555555')
_DASHES = ('-', '--', ':', '-.')
_GRID = {'color': '#dddddd', 'linewidth': 0.8}
_OWN, _OTHER, _ELSEWHERE = '#0072b2', '#d55e00', '#bbbbbb'


def draw(runs, output: pathlib.Path, where: str) -> tuple[list[page.Figure], list[str]]:
  """Draws curves, errors by keypoint, left-right confusion, and the best and worst people.

  Args:
    runs: runs on one data set at one input size, see `comparison.read_run`.
    output: folder for the files.
    where: end of the files' names, before the extension.

  Returns:
    The figures, and one sentence for each figure that could not be drawn.
  """
  figures, left_out = [], []
  metric = paper_figures.primary_name(runs)
  curves = {run: read_curves(run.workdir / 'metrics.jsonl', metric) for run in runs}
  curves = {run: lines for run, lines in curves.items() if any(map(len, lines))}
  if curves:
    figures.append(draw_curves(curves, metric, output / f'curves_{where}.png'))
  else:
    left_out.append('Training curves are left out: no run has a metrics.jsonl with a loss.')
  run_errors = {run: _read_errors(run) for run in runs}
  without = [run.workdir.name for run, content in run_errors.items() if content is None]
  if without:
    left_out.append(
      f'Errors by keypoint are without {", ".join(without)}: no errors.json; evaluate again with '
      '--mode=eval.'
    )
  run_errors = {run: content for run, content in run_errors.items() if content is not None}
  if not run_errors:
    return figures, left_out
  figures.append(draw_keypoints(run_errors, output / f'keypoints_{where}.png'))
  best = max(run_errors, key=lambda run: paper_figures.rank(run, metric))
  name = f'{best.label} ({best.workdir.name})'
  pairs = run_errors[best]['pairs']
  if any(sum(map(sum, counts)) for counts in pairs.values()):
    figures.append(draw_sides(pairs, name, output / f'sides_{where}.png'))
  for kind in ('worst', 'best'):
    picture = best.folder / 'pictures' / f'{kind}.jpg'
    if picture.exists():
      (output / f'{kind}_{where}.jpg').write_bytes(picture.read_bytes())
      caption = (
        f'The people whom {name} predicts {kind}, by the mean distance of their keypoints. White '
        'lines lead to the annotated positions.'
      )
      figures.append(page.Figure(f'{kind}_{where}.jpg', caption))
  return figures, left_out


def read_curves(file: pathlib.Path, metric: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads [N, 2] step and loss, and [M, 2] step and metric in per cent; only finite numbers."""
  lines = metric_writer.read(file, math.inf)
  loss = [(line['step'], line['loss']) for line in lines if math.isfinite(line.get('loss', np.nan))]
  scores = [(line['step'], line.get(f'eval/{metric}')) for line in lines]
  scores = [(step, tables.per_cent(metric, value)) for step, value in scores if value is not None]
  scores = [(step, value) for step, value in scores if value is not None]
  return np.array(loss, float).reshape(-1, 2), np.array(scores, float).reshape(-1, 2)


def draw_curves(curves, metric: str, file: pathlib.Path) -> page.Figure:
  """Draws the loss and the primary metric over the steps, with one line per run.

  Args:
    curves: {run: result of `read_curves`}.
    metric: name of the metric in the lower plot.
    file: file to write.
  """
  plot, axes = subplots(2, 1, (7.5, 7.5))  # one above the other, for narrow screens
  names = labels(curves)
  for run, lines in curves.items():
    style = {'label': names[run], **line_style(run, curves)}
    axes[0].plot(*lines[0].T, **style)
    axes[1].plot(*lines[1].T, marker='o', markersize=4, **style)
  axes[0].set_yscale('log')
  axes[0].set_ylabel('loss')
  paper_figures.show_per_cent(axes[1], metric)
  axes[1].set_xlabel('step')
  axes[0].legend(loc='upper right', frameon=False)
  plot.savefig(file)
  return page.Figure(
    file.name, f'Training: the loss, and {paper_figures.title_of(metric)} of the validation split.'
  )


def draw_keypoints(run_errors, file: pathlib.Path) -> page.Figure:
  """Draws median and quartiles of the distance between prediction and annotation by keypoint.

  Args:
    run_errors: {run: content of errors.json}.
    file: file to write.
  """
  contents = run_errors.values()
  keypoints = list(dict.fromkeys(name for content in contents for name in content['keypoints']))
  plot, axes = subplots(1, 1, (11, 4.2))
  names = labels(run_errors)
  for i, (run, content) in enumerate(run_errors.items()):
    shift = 0.7 * ((i + 0.5) / len(run_errors) - 0.5)
    rows = [
      (keypoints.index(name) + shift, *np.array(values['quartiles']) * 100)
      for name, values in content['keypoints'].items()
      if values['quartiles']
    ]
    x, low, middle, high = np.array(rows, float).reshape(-1, 4).T
    color = paper_figures.COLORS[run.network]
    width = 0.6 / len(run_errors)
    axes.bar(x, middle, width, color=color, label=names[run], hatch=_hatch(run, run_errors))
    error_bars = np.stack([middle - low, high - middle])
    axes.errorbar(x, middle, error_bars, fmt='none', ecolor='#222222', elinewidth=1, capsize=2)
  ticks = [name.replace('_', ' ') for name in keypoints]
  axes.set_xticks(range(len(ticks)), ticks, rotation=40, ha='right')
  axes.set_ylabel("distance (% of the person's size)")
  axes.legend(frameon=False, loc='upper left', bbox_to_anchor=(1, 1))
  plot.savefig(file)
  people = max(content['people'] for content in contents)
  missed = ', '.join(f'{names[run]} {content["missed"]}' for run, content in run_errors.items())
  return page.Figure(
    file.name,
    'Errors by keypoint: median and quartiles of the distance between prediction and annotation, '
    f'in per cent of the square root of the bounding box area, over {people} people. People '
    f'without any prediction are left out: {missed}.',
  )


def draw_sides(pairs, name: str, file: pathlib.Path) -> page.Figure:
  """Draws how often left and right are confused, over all keypoint pairs and for each pair.

  Args:
    pairs: {pair: counts} from errors.json.
    name: label of the run.
    file: file to write.
  """
  plot, (left, right) = subplots(1, 2, (11, 0.7 + max(2.6, 0.36 * len(pairs))))
  total = np.sum(list(pairs.values()), axis=0)  # [left or right, own or other or elsewhere]
  table = np.stack([total[0], total[1][[1, 0, 2]]])  # columns: at left, at right, elsewhere
  share = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
  left.imshow(share, cmap='Blues', vmin=0, vmax=100, aspect='auto')
  for (row, column), value in np.ndenumerate(share):
    text = f'{value:.1f} %\n({table[row, column]})'
    left.text(column, row, text, ha='center', va='center', color='w' if value > 55 else 'k')
  left.set_xticks(range(3), ['at the left', 'at the right', 'elsewhere'])
  left.set_yticks(range(2), ['left', 'right'])
  left.set_ylabel('predicted')
  left.grid(False)
  start = np.zeros(len(pairs))
  counts = np.array([np.sum(counts, axis=0) for counts in pairs.values()], float)  # [pair, 3]
  shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
  kinds = (('own side', _OWN), ('other side', _OTHER), ('elsewhere', _ELSEWHERE))
  for values, (kind, color) in zip(shares.T, kinds):
    right.barh(range(len(pairs)), values, left=start, color=color, label=kind)
    start = start + values
  pair_labels = [f'{pair.replace("_", " ")} ({n:.0f})' for pair, n in zip(pairs, counts.sum(1))]
  right.set_yticks(range(len(pairs)), pair_labels)
  right.invert_yaxis()
  right.set_xlim(0, 100)
  right.set_xlabel('predictions (%)')
  right.legend(frameon=False, loc='upper left', bbox_to_anchor=(1, 1))
  plot.savefig(file)
  return page.Figure(
    file.name,
    f'Left and right: where {name} predicts the left and the right keypoint of each pair. "At" '
    "means within a tenth of the person's size; people whose two keypoints are closer together are "
    'not counted.',
  )


def labels(runs) -> dict:
  """{run: label}: each run's network, or its folder if two runs have the same network."""
  names = {run: run.label for run in runs}
  if len(set(names.values())) < len(names):
    names = {run: run.workdir.name for run in runs}
  return names


def _read_errors(run):
  """Reads a run's errors.json; returns None for runs that an older version evaluated."""
  file = run.folder / 'errors.json'
  if not file.exists():
    return None
  content = paths.read_json(file)
  if not isinstance(content, dict) or not content.keys() >= {
    'people',
    'missed',
    'keypoints',
    'pairs',
  }:
    raise errors.CheckpointError(f'{file}: damaged; evaluate again with --mode=eval')
  return content


def subplots(rows, columns, size):
  # Without pyplot there is no backend to choose and no figure to close.
  from matplotlib import figure

  plot = figure.Figure(figsize=size, dpi=140, layout='constrained')
  axes = plot.subplots(rows, columns)
  for subplot in np.ravel(axes):
    subplot.grid(axis='y', **_GRID)
    subplot.set_axisbelow(True)
    subplot.spines[['top', 'right']].set_visible(False)
  return plot, axes


def line_style(run, runs) -> dict:
  """Colour and dashes of a run's line: its network's colour, unless two runs share a network."""
  runs = list(runs)
  if len({other.network for other in runs}) == len(runs):
    return {'color': paper_figures.COLORS[run.network], 'linestyle': '-'}
  return numbered_style(runs.index(run))


def numbered_style(n: int) -> dict:
  """Colour and dashes of the line with number n of many."""
  return {'color': PALETTE[n % len(PALETTE)], 'linestyle': _DASHES[n // len(PALETTE) % 4]}


def _hatch(run, runs):
  same = [other for other in runs if other.network == run.network]
  return ('', '///', '...', 'xxx')[same.index(run) % 4]
