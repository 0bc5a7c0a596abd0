"""Metrics by keypoint as a table, and curves of PCK over the threshold, from keypoints.json."""

import pathlib

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import tables
from mrpose_jax.report import page
from mrpose_jax.report import paper_figures
from mrpose_jax.report import run_figures


def make(runs, output: pathlib.Path, where: str) -> tuple[list[page.Table], list[page.Figure]]:
  """Makes the table and the figure; both are empty for evaluations of older versions.

  Args:
    runs: runs on one data set at one input size, see `comparison.read_run`.
    output: folder for the figure.
    where: end of the file's name, before the extension.
  """
  contents = {run: _read(run) for run in runs}
  contents = {run: content for run, content in contents.items() if content is not None}
  if not contents:
    return [], []
  metric = paper_figures.primary_name(list(contents))
  best = max(contents, key=lambda run: paper_figures.rank(run, metric))
  figure = draw_pck(contents, best, output / f'pck_{where}.png')
  return [make_table(contents)], [figure]


def make_table(contents) -> page.Table:
  """A row for each keypoint and one for all, with a column for each metric and run.

  Args:
    contents: {run: content of keypoints.json}.
  """
  names = run_figures.labels(contents)
  columns = [
    (run, metric)
    for metric in dict.fromkeys(m for content in contents.values() for m in content['metrics'])
    for run in contents
    if metric in contents[run]['metrics']
  ]
  keypoints = list(dict.fromkeys(k for content in contents.values() for k in content['keypoints']))
  header = ['keypoint', 'annotated']
  for run, metric in columns:
    title = f'{metric} ({tables.unit(metric)})'
    header.append(title if len(contents) == 1 else f'{title}, {names[run]}')
  rows = []
  for keypoint in [*keypoints, None]:
    cells, counts = [], [0]
    for run, metric in columns:
      content, table = contents[run], contents[run]['metrics'][metric]
      value, counted = table['Mean'], sum(table['counted'])
      if keypoint is not None:
        known = keypoint in content['keypoints']
        k = content['keypoints'].index(keypoint) if known else None
        value, counted = (table['keypoints'][k], table['counted'][k]) if known else (None, 0)
      cells.append('-' if value is None else f'{value:.{tables.digits(metric)}f}')
      counts.append(counted)
    rows.append([keypoint or 'all', str(max(counts)), *cells])
  by_length = {}
  for run, metric in columns:
    length = contents[run]['metrics'][metric]['length']
    if length:
      by_length.setdefault(_length(metric, length), {})[metric] = None
  note = '; '.join(
    f'{", ".join(metrics)}: divided by {what}' for what, metrics in by_length.items()
  )
  return page.Table('By keypoint', header, rows, f'{note}.' if note else '')


def draw_pck(contents, best, file: pathlib.Path) -> page.Figure:
  """Draws PCK over the threshold: of all runs, and of the best run's keypoints.

  Args:
    contents: {run: content of keypoints.json}.
    best: the run whose keypoints are drawn.
    file: file to write.
  """
  plot, (upper, lower) = run_figures.subplots(2, 1, (7.5, 8.5))
  names = run_figures.labels(contents)
  for run, content in contents.items():
    style = run_figures.line_style(run, contents)
    curve = content['curve']
    upper.plot(curve['thresholds'], _numbers(curve['Mean']), label=names[run], **style)
  upper.legend(frameon=False, loc='lower right')
  upper.set_title('all keypoints')
  curve = contents[best]['curve']
  for n, (name, values) in enumerate(curve['keypoints'].items()):
    label = name.replace('_', ' ')
    style = run_figures.numbered_style(n)
    lower.plot(curve['thresholds'], _numbers(values), label=label, **style)
  columns = 1 + (len(curve['keypoints']) - 1) // 18
  lower.legend(frameon=False, loc='center left', bbox_to_anchor=(1, 0.5), ncols=columns, fontsize=8)
  lower.set_title(names[best])
  length = _length('PCK', curve['length'])
  lower.set_xlabel(f'threshold (fraction of {length})')
  for axes in (upper, lower):
    axes.set_ylabel('PCK (%)')
    axes.set_xlim(0, curve['thresholds'][-1])
    axes.set_ylim(0, 103)
  plot.savefig(file)
  caption = (
    'Correct keypoints over the threshold: the share of annotated keypoints whose prediction is at '
    f'most this fraction of {length} away; above for all keypoints together, below by keypoint for '
    f'{best.label} ({best.workdir.name}).'
  )
  return page.Figure(file.name, caption)


def _length(metric, length):
  """Describes the length that a metric is normalised by."""
  if length == 'box':
    return "the root of the box's area" if metric.startswith('NME') else "the box's longer side"
  return f'the {length}' if length in ('torso', 'head') else f'the distance {length}'


def _numbers(values):
  return [float('nan') if value is None else value for value in values]


def _read(run):
  """Reads a run's keypoints.json; returns None for runs that an older version evaluated."""
  file = run.folder / 'keypoints.json'
  if not file.exists():
    return None
  content = paths.read_json(file)
  wanted = {'keypoints', 'metrics', 'curve'}
  if not isinstance(content, dict) or not content.keys() >= wanted:
    raise errors.CheckpointError(f'{file}: damaged; evaluate again with --mode=eval')
  return content
