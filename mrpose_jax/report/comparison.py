"""Compares evaluated runs with the paper's tables I and III where they are comparable."""

import dataclasses
import logging
import math
import pathlib

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import tables
from mrpose_jax.metrics import choice
from mrpose_jax.report import keypoint_tables
from mrpose_jax.report import page
from mrpose_jax.report import paper_figures
from mrpose_jax.report import paper_tables
from mrpose_jax.report import run_figures
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import evaluation_folders

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """An evaluated checkpoint: its location, configuration and metrics.

  Attributes:
    folder: folder of the evaluation, workdir/eval/STEP or one beside it.
    differences: the evaluation's settings that differ from the run's own, from the folder's name.
    detected_boxes: whether the bounding boxes came from a detection file instead of annotations.
    metrics: metrics in per cent (EPE in pixels); None where a metric is undefined.
    primary: name of the metric by which the run's checkpoints are compared.
    score: this metric, higher is better, in its own unit; -inf if it is missing or not finite.
    others: the evaluations of the same checkpoint with other settings.
  """

  workdir: pathlib.Path
  step: int
  folder: pathlib.Path
  differences: str
  network: str
  depth: int
  width: int
  data: str
  data_dir: str
  image_size: tuple[int, int]
  detected_boxes: bool
  metrics: dict[str, float | None]
  primary: str
  score: float
  others: tuple['Run', ...] = ()

  @property
  def narrowed(self) -> str:
    """', width 32' or another width; empty for the paper's width."""
    return '' if self.width == paper_tables.WIDTH else f', width {self.width}'

  @property
  def label(self) -> str:
    """'mrfeanet2 R50', or 'mrfeanet2 R18, width 32'."""
    return f'{self.network} R{self.depth}{self.narrowed}'


def write(workdirs, output, data_dir=None, num_images: int = 4) -> pathlib.Path:
  """Writes report.html, report.md and their pictures.

  Args:
    workdirs: folders of evaluated runs or of single checkpoints. If there are several, folders
      that hold no evaluated run are left out with a warning, so that runs/* can be given.
    output: folder to write to; it is created if missing.
    data_dir: folder of prepared data; None uses the one in each run's configuration.
    num_images: number of images in figure 6 and of people in figure 7.

  Returns:
    Path of the HTML page.

  Raises:
    CheckpointError: a workdir does not exist, or none holds an evaluated run.
    ConfigError: matplotlib is missing, the output folder cannot be created, or a path is in a place
      that cannot be used.
  """
  paper_figures.check_matplotlib()
  output = paths.parse_local(output, '--output', written=True).absolute()
  if data_dir:
    paths.parse(data_dir)
  groups = {}
  for run in sorted(read_runs(workdirs), key=_paper_order):
    groups.setdefault((run.data, run.image_size), []).append(run)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.ConfigError(f'--output={output}: cannot be made ({error.strerror})') from error
  # The paper's data sets come first.
  order = sorted(groups, key=lambda key: (key[0] not in paper_tables.VALIDATION, key))
  sections = [make_section(groups[key], output, data_dir, num_images) for key in order]
  file = output / 'report.html'
  file.write_text(page.to_html(sections, output), encoding='utf-8')
  file.with_suffix('.md').write_text(page.to_markdown(sections), encoding='utf-8')
  return file


def read_runs(workdirs) -> list[Run]:
  """Reads the evaluated runs among `workdirs`; the others are left out with a warning.

  Raises:
    CheckpointError: a path does not exist, or none holds an evaluated run.
  """
  runs, problems = [], []
  for path in workdirs:
    try:
      runs.append(read_run(path))
    except errors.CheckpointError as error:
      if not paths.parse(path).exists():
        raise
      problems.append(error)
  if not runs:
    raise problems[0]
  for problem in problems:
    log.warning('left out: %s', problem)
  return runs


def read_run(path) -> Run:
  """Reads the best evaluated step of a workdir, or the step of one checkpoint's folder.

  The evaluations of this step with other settings than the run's own are in `others`.

  Raises:
    CheckpointError: something is missing or damaged; the message says what, in one line.
  """
  workdir, step = checkpoint.locate(path)
  if not (workdir / 'config.json').exists():
    raise errors.CheckpointError(f'{path}: no config.json here; give the workdir of a run')
  config = paths.read_json(workdir / 'config.json')
  evaluated = {}
  for file in sorted(workdir.glob('eval/*/metrics.json')):
    name = evaluation_folders.split_name(file.parent)
    if name and step in (None, name[0]) and (metrics := _read_metrics(file)):
      evaluated[file.parent] = metrics
  if not evaluated:
    raise errors.CheckpointError(
      f'{path}: holds no metrics (eval/{"STEP" if step is None else step}/metrics.json); evaluate '
      f'it on a validation split: python main.py --mode=eval --config=... --workdir={workdir}'
    )
  names = dict.fromkeys(name for metrics in evaluated.values() for name in metrics)
  try:
    primary = choice.primary(names, config['eval'])
  except (KeyError, TypeError) as error:
    raise _not_a_configuration(workdir, error) from error
  runs = [
    _make_run(workdir, config, folder, metrics, primary) for folder, metrics in evaluated.items()
  ]
  # Steps are compared by evaluations with the run's own settings, if there are any.
  comparable = [run for run in runs if not run.differences] or runs
  best = max(comparable, key=lambda run: (run.score, run.step))
  others = [run for run in runs if run.step == best.step and run is not best]
  return dataclasses.replace(best, others=tuple(others))


def _make_run(workdir, config, folder, metrics, primary):
  step, differences = evaluation_folders.split_name(folder)
  file = folder / evaluation_folders.SETTINGS
  try:
    # An older version wrote no settings; the run's own are assumed.
    settings = paths.read_json(file) if file.exists() else config['eval']
    model, data = config['model'], config['data']
    if not any(network == model['network'] for network, _ in paper_tables.MPII.rows):
      raise ValueError(f'network {model["network"]!r}')
    return Run(
      workdir=workdir,
      step=step,
      folder=folder,
      differences=differences,
      network=str(model['network']),
      depth=int(model['depth']),
      width=int(model['width']),
      data=str(data['name']),
      data_dir=str(data['data_dir']),
      image_size=tuple(map(int, data['image_size'])),
      detected_boxes=bool(settings['detections']),
      metrics={name: tables.per_cent(name, value) for name, value in metrics.items()},
      primary=primary,
      score=_score(primary, metrics),
    )
  except (KeyError, TypeError, ValueError) as error:
    raise _not_a_configuration(workdir, error) from error


def _not_a_configuration(workdir, error):
  file = workdir / 'config.json'
  return errors.CheckpointError(f'{file}: not the configuration of a run ({error!r})')


def _score(primary, metrics):
  """Primary metric as used to choose checkpoints; -inf if it is missing or not finite."""
  score = choice.score(primary, metrics.get(primary, math.nan))
  return score if math.isfinite(score) else -math.inf


def _read_metrics(file):
  metrics = paths.read_json(file)
  are_numbers = isinstance(metrics, dict) and all(
    isinstance(value, int | float) for value in metrics.values()
  )
  if not are_numbers or (metrics and not any(map(choice.is_known, metrics))):
    raise errors.CheckpointError(
      f'{file}: not the metrics of a run; evaluate it again with --mode=eval'
    )
  return metrics


def paper_row(run: Run) -> tuple[str, dict[str, float], bool]:
  """Returns the paper's row for a run: name, {metric: per cent}, and whether it is comparable.

  It is comparable if data set, input size, width, network and depth equal the paper's. Otherwise it
  is the row of the same network at the nearest depth, from COCO val2017 if the paper does not use
  the run's data set. The row is empty if run and paper have no metric in common.
  """
  table = paper_tables.VALIDATION.get(run.data, paper_tables.COCO_VAL)
  depths = [depth for network, depth in table.rows if network == run.network]
  depth = min(depths, key=lambda depth: abs(depth - run.depth))
  metrics = table.metrics(run.network, depth)
  if not metrics.keys() & run.metrics.keys():
    return '', {}, False
  setting = (run.data in paper_tables.VALIDATION, run.image_size, run.width, run.depth)
  if setting == (True, table.image_size, paper_tables.WIDTH, depth):
    return f'paper, {table.name}', metrics, True
  return f'paper, {table.data}, R{depth}', metrics, False


def make_table(runs: list[Run]) -> tuple[list[str], list[page.Row]]:
  """Returns header and rows: for each run its metrics, the paper's, and their difference.

  A checkpoint that was evaluated with several settings has rows for each of them.
  Differences are computed from the rounded numbers that the table shows.
  """
  runs = with_others(runs)
  metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
  header = ['Run', 'Network', 'Depth', 'Step', 'Result', *metrics]
  rows = []
  for run in runs:
    ours = {
      name: round(value, tables.digits(name))
      for name, value in run.metrics.items()
      if value is not None
    }
    run_cells = [run.workdir.name, run.network + run.narrowed, str(run.depth), str(run.step)]
    empty_cells = [''] * len(run_cells)
    words = ['ours', 'detected boxes' if run.detected_boxes else '', run.differences]
    name = ', '.join(filter(None, words))
    rows.append(page.Row('ours', [*run_cells, name, *_cells(metrics, ours)]))
    name, paper, comparable = paper_row(run)
    if name:
      rows.append(page.Row('paper', [*empty_cells, name, *_cells(metrics, paper)]))
    if comparable:
      difference = {
        name: ours[name] - paper[name] for name in metrics if name in ours.keys() & paper
      }
      cells = _cells(metrics, difference, '+')
      rows.append(page.Row('difference', [*empty_cells, 'difference', *cells]))
  return header, rows


def with_others(runs: list[Run]) -> list[Run]:
  """The runs, each followed by the evaluations of its checkpoint with other settings."""
  return [evaluation for run in runs for evaluation in (run, *run.others)]


def _paper_order(run):
  """Sort key: by depth, then by network in the paper's order."""
  networks = [network for network, _ in paper_tables.MPII.rows]
  return run.depth, networks.index(run.network), -run.width, run.workdir.name


def _cells(columns, values, sign=''):
  # Rounding and adding zero turns -0.0 into +0.0, for example for 0.04 - 0.05.
  digits = [tables.digits(column) for column in columns]
  return [
    f'{round(values[c], n) + 0.0:{sign}.{n}f}' if c in values else '-'
    for c, n in zip(columns, digits)
  ]


def make_section(runs: list[Run], output: pathlib.Path, data_dir, num_images: int) -> page.Section:
  """Creates the table, notes and figures of the runs on one data set at one input size."""
  first = runs[0]
  header, rows = make_table(runs)
  size = f'{first.image_size[0]}x{first.image_size[1]}'
  figures, left_out = run_figures.draw(runs, output, paper_figures.file_suffix(first))
  paper = paper_figures.draw(runs, _paper_lines(runs), output, data_dir, num_images)
  figures, left_out = paper[0] + figures, paper[1] + left_out
  by_keypoint, curve = keypoint_tables.make(runs, output, paper_figures.file_suffix(first))
  return page.Section(
    f'{first.data}, {size}',
    header,
    rows,
    _notes(runs) + left_out,
    [*figures, *curve],
    by_keypoint,
  )


def _notes(runs):
  paper_rows = [(run, *paper_row(run)) for run in with_others(runs)]
  notes = ['All numbers are in per cent.']
  if any(tables.unit(name) != '%' for run in runs for name in run.metrics):
    notes = ['All numbers are in per cent, except EPE, which is in pixels of the image.']
  if any(comparable for *_, comparable in paper_rows):
    table = paper_tables.VALIDATION[runs[0].data]
    notes.append(
      f"The data set called {runs[0].data} is assumed to be the paper's ({table.data}). "
      'Differences are computed from the rounded numbers in the table.'
    )
  if any(c and run.data == 'coco' and not run.detected_boxes for run, *_, c in paper_rows):
    notes.append(
      "The paper's COCO numbers use the bounding boxes of a detector (person AP 56.4). Annotated "
      'bounding boxes are easier, so rows with them look better than they are: evaluate with '
      '--config.eval.detections=FILE.'
    )
  not_comparable = sorted({name for _, name, _, c in paper_rows if name and not c})
  if not_comparable:
    notes.append(
      f'Rows {", ".join(repr(name) for name in not_comparable)} were measured on other data, or '
      'with another input size, width or depth. They are given for orientation only and cannot be '
      'compared with the runs, so no difference is shown.'
    )
  return notes


def _paper_lines(runs):
  """The paper's values for figure 5, {network: {depth: per cent}}; empty for other data sets."""
  table = paper_tables.VALIDATION.get(runs[0].data)
  metric = paper_figures.primary_name(runs)
  if table is None or table.image_size != runs[0].image_size or metric not in table.columns:
    return {}
  lines = {}
  for network, depth in table.rows:
    lines.setdefault(network, {})[depth] = table.metrics(network, depth)[metric]
  return lines
