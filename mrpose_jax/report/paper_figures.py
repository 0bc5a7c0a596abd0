"""Draws the paper's figures 5 (metric over depth), 6 (predictions) and 7 (heatmaps) for runs."""

import importlib.util
import logging
import math
import pathlib

import numpy as np
from PIL import Image

from mrpose_jax import errors
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax import tables
from mrpose_jax import visualize
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.metrics import choice
from mrpose_jax.report import page
from mrpose_jax.report import paper_tables
from mrpose_jax.runtime import data_copies

log = logging.getLogger(__name__)

# Okabe and Ito's palette, which is distinguishable with all common colour vision deficiencies.
COLORS = {
  'simple_baseline': '#555555',
  'mrheatnet1': '#56b4e9',
  'mrheatnet2': '#0072b2',
  'mrfeanet1': '#e69f00',
  'mrfeanet2': '#d55e00',
}
_MARKERS = 'osD^v'  # one for each width of our networks
_CELL_WIDTH = 320  # width of a picture in figure 6, in pixels


def check_matplotlib():
  """Raises ConfigError if matplotlib is not installed."""
  if importlib.util.find_spec('matplotlib') is None:
    raise errors.ConfigError("matplotlib is missing: pip install 'mrpose_jax[report]'")


def draw(
  runs, paper: dict[str, dict[int, float]], output: pathlib.Path, data_dir, num_images: int
) -> tuple[list[page.Figure], list[str]]:
  """Draws figures 5, 6 and 7 for the runs on one data set at one input size.

  Args:
    runs: the runs, see `comparison.read_run`.
    paper: {network: {depth: per cent}} for figure 5.
    output: folder for the files.
    data_dir: folder of prepared data; None uses the one in the first run's configuration.
    num_images: number of images in figure 6 and of people in figure 7.

  Returns:
    The figures, and one sentence for each figure that could not be drawn.
  """
  first = runs[0]
  where = f'{file_suffix(first)}.png'
  figures, left_out = [], []
  if paper or any(math.isfinite(rank(run, primary_name(runs))) for run in runs):
    figures.append(draw_depths(runs, paper, output / f'figure5_{where}'))
  else:
    left_out.append(f'Figure 5 is left out: no run has a finite {primary_name(runs)}.')
  try:
    folder = data_copies.local_folder(first.data, data_dir or first.data_dir)
    dataset = prepared_data.open_dataset(first.data, folder)
    examples = read_examples(dataset, num_images)
  except (errors.ConfigError, errors.DataError) as error:
    return figures, [*left_out, f'Figures 6 and 7 are left out: {error}.']
  shown, columns = [], []
  for run in runs:
    log.info('figure 6: %s, step %d', run.workdir, run.step)
    try:
      predictor = _load(run)
    except errors.CheckpointError as error:
      left_out.append(f'Figures 6 and 7 are without {run.label}: {error}.')
      continue
    column = [
      visualize.draw_people(image, predictor(image, boxes), predictor.skeleton)
      for image, boxes in examples
    ]
    shown.append(run)
    columns.append(column)
  if not shown:
    return figures, left_out

  captions = [run.label for run in shown]
  if len(set(captions)) < len(captions):
    captions = [run.workdir.name for run in shown]
  sheet = side_by_side(columns, captions)
  Image.fromarray(sheet).save(output / f'figure6_{where}')
  names = ', '.join(f'{run.label} ({run.workdir.name})' for run in shown)
  caption = (
    f'Figure 6: predictions on the first {len(examples)} validation images, one column per '
    f"network: {names}. Blue is the person's left side, orange the right."
  )
  figures.append(page.Figure(f'figure6_{where}', caption))

  best = max(shown, key=lambda run: rank(run, primary_name(runs)))
  Image.fromarray(draw_heatmaps(_load(best), examples)).save(output / f'figure7_{where}')
  caption = (
    f'Figure 7: {best.label} ({best.workdir.name}), the best of these networks: its prediction for '
    'the largest person of each image, and the heatmap and peak of every keypoint.'
  )
  figures.append(page.Figure(f'figure7_{where}', caption))
  return figures, left_out


def file_suffix(run) -> str:
  """Suffix of the names of a section's files, such as coco_256x192."""
  return f'{run.data}_{run.image_size[0]}x{run.image_size[1]}'


def _load(run):
  return predictors.load_predictor(run.workdir / 'checkpoints' / str(run.step))


def primary_name(runs) -> str:
  """Name of the metric by which the runs are compared, such as AP: what most of them have."""
  names = list(dict.fromkeys(run.primary for run in runs))
  return max(names, key=lambda name: sum(name in run.metrics for run in runs))


def rank(run, metric: str) -> float:
  """A run's score by a metric, the higher the better; -inf where it is undefined."""
  value = run.metrics.get(metric)
  return -math.inf if value is None else choice.score(metric, value)


def title_of(metric: str) -> str:
  """Name of a metric in figures."""
  return {'Mean': 'PCKh@0.5'}.get(metric, metric)


def draw_depths(runs, paper: dict[str, dict[int, float]], file: pathlib.Path) -> page.Figure:
  """Draws figure 5: the primary metric over depth, with one line per network.

  Runs are solid lines with filled markers, the paper's networks dashed lines with hollow ones.
  Several runs of the same network and depth are shown by the best.
  """
  # Without pyplot there is no backend to choose and no figure to close.
  from matplotlib import figure
  from matplotlib import lines

  metric = primary_name(runs)
  ours = {}
  for run in runs:
    value = run.metrics.get(metric)
    if value is not None:
      points = ours.setdefault((run.network, run.width), {})
      better = min if choice.lower_is_better(metric) else max
      points[run.depth] = better(value, points.get(run.depth, value))
  depths = sorted({d for points in [*ours.values(), *paper.values()] for d in points})
  plot = figure.Figure(figsize=(7.5, 4.2), dpi=160, layout='constrained')
  axes = plot.add_subplot()

  def line(points, network, **style):
    # Shifted horizontally, as several networks often have the same value.
    dodge = 0.05 * (list(COLORS).index(network) - 2)
    xs = [depths.index(depth) + dodge for depth in sorted(points)]
    ys = [points[depth] for depth in sorted(points)]
    axes.plot(xs, ys, color=COLORS[network], markersize=6, **style)

  for network, points in paper.items():
    line(points, network, linestyle='--', marker='o', markerfacecolor='white', linewidth=1.2)
  widths = sorted({width for _, width in ours}, reverse=True)
  for (network, width), points in ours.items():
    marker = _MARKERS[widths.index(width) % len(_MARKERS)]
    line(points, network, linestyle='-', marker=marker, linewidth=2.2)
  axes.set_xticks(range(len(depths)), [f'ResNet-{depth}' for depth in depths])
  axes.set_xlim(-0.5, len(depths) - 0.5)
  show_per_cent(axes, metric)
  axes.grid(axis='y', color='#dddddd', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
  networks = [name for name in COLORS if name in paper or any(name == n for n, _ in ours)]
  keys = [lines.Line2D([], [], color=COLORS[name], linewidth=3, label=name) for name in networks]
  for i, width in enumerate(widths):
    label = 'ours' if width == paper_tables.WIDTH else f'ours, width {width}'
    marker = _MARKERS[i % len(_MARKERS)]
    keys.append(lines.Line2D([], [], color='#222222', marker=marker, label=label))
  if paper:
    hollow = {'linestyle': '--', 'marker': 'o', 'markerfacecolor': 'white'}
    keys.append(lines.Line2D([], [], color='#222222', label='paper', **hollow))
  axes.legend(handles=keys, loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
  plot.savefig(file)
  caption = f'Figure 5: {title_of(metric)} over the depth of the encoder, one line per network'
  return page.Figure(
    file.name, f'{caption}; ours are solid, the paper dashed.' if paper else f'{caption}.'
  )


def show_per_cent(axes, metric: str):
  """Labels the y axis and limits it to what is possible, plus a margin of half a marker."""
  axes.set_ylabel(f'{title_of(metric)} ({tables.unit(metric)})')
  low, high = axes.get_ylim()
  margin = 0.03 * (high - low)
  highest = math.inf if choice.lower_is_better(metric) else 100
  axes.set_ylim(max(low, -margin), min(high, highest + margin))


def read_examples(
  dataset: prepared_data.Dataset, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Reads the first `count` validation images with people: (uint8 [H, W, 3], boxes [N, 4])."""
  examples = []
  for record in dataset.source('validation'):
    boxes = np.asarray(record['people']['box'], np.float32).reshape(-1, 4)
    if len(boxes):
      examples.append((image_files.decode(record['image'], f'image {record["image_id"]}'), boxes))
    if len(examples) == count:
      break
  return examples


def side_by_side(columns: list[list[np.ndarray]], captions: list[str]) -> np.ndarray:
  """Draws figure 6 from each run's pictures of the same images: one row per image."""
  rows = list(zip(*columns))
  tallest = max(picture.shape[0] / picture.shape[1] for picture in columns[0])
  cell = (round(_CELL_WIDTH * min(tallest, 4 / 3)), _CELL_WIDTH)
  cells = [picture for row in rows for picture in row]
  return visualize.contact_sheet(cells, len(columns), cell, captions * len(rows))


def draw_heatmaps(predictor: predictors.Predictor, examples) -> np.ndarray:
  """Draws figure 7: the network's crop of the largest person of each image, and the heatmaps."""
  codec = predict.codec_of(predictor.config)
  to_crop = codec.image_size[1] / codec.heatmap_size[1]
  cells = []
  for image, boxes in examples:
    largest = boxes[boxes[:, 2:].prod(axis=1).argmax()]
    crop, heatmaps = predictor.heatmaps(image, largest)
    points, scores = map(np.asarray, codec.decode(heatmaps[None]))
    people = np.concatenate([points * to_crop, scores[..., None]], -1)  # [1, K, 3]
    grid = visualize.heatmap_grid(crop, heatmaps, predictor.skeleton)
    # The crop is enlarged before drawing, so that the skeleton's lines are as fine as the grid's.
    zoom = grid.shape[0] / crop.shape[0]
    size = (round(crop.shape[1] * zoom), grid.shape[0])
    large = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC))
    people[..., :2] = (people[..., :2] + 0.5) * zoom - 0.5
    person = visualize.draw_people(large, people, predictor.skeleton)
    cells.append(np.concatenate([person, grid], axis=1))
  return visualize.contact_sheet(cells, 1, cells[0].shape[:2])
