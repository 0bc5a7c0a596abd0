"""Results as tables for people; as a command, evaluated runs beside the paper's tables.

  python -m mrpose_jax.report runs/coco runs/mpii --output=runs/report

writes report.md, report.html (one file, pictures included) and their pictures into --output: the
paper's figures 5, 6 and 7 of these runs, training curves, errors by keypoint, left and right
confused, and the people that are predicted best and worst. Needs matplotlib:
pip install 'mrpose_jax[report]'.

Exit codes: 0 done, 2 wrong flags or no matplotlib, 4 a workdir that cannot be used.
"""

import math

COCO_COLUMNS = ('AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL')


def markdown_table(rows: dict[str, dict[str, float]]) -> str:
  """A Markdown table, a row a result; COCO's 0..1 numbers are shown in per cent as papers do.

  Args:
    rows: name of the row -> {metric: value}; the first row names the columns.
  """
  columns = list(next(iter(rows.values())))
  cells = [
    [name, *(_cell(column, metrics[column]) for column in columns)]
    for name, metrics in rows.items()
  ]
  return markdown_lines(['', *columns], cells)


def markdown_lines(header: list[str], rows: list[list[str]]) -> str:
  """A Markdown table of text."""

  def line(cells):
    return '|' + ''.join(f' {cell} |' if cell else ' |' for cell in cells)

  escaped = [[cell.replace('|', '\\|') for cell in row] for row in rows]
  return '\n'.join([line(header), '|---' * len(header) + '|', *map(line, escaped)])


def one_line(metrics: dict[str, float]) -> str:
  """'AP 70.9, AP50 88.8, ...'."""
  return ', '.join(f'{name} {_cell(name, value)}' for name, value in metrics.items())


def per_cent(column: str, value: float) -> float | None:
  """A metric in per cent; None where nothing was there to be measured.

  That is -1 in COCO's metrics (pycocotools, where nobody is of that size) and NaN in the others.
  """
  if column in COCO_COLUMNS:
    return 100 * value if value >= 0 else None
  return value if math.isfinite(value) else None


def _cell(column, value):
  value = per_cent(column, value)
  return '-' if value is None else f'{value:.1f}'


def main(workdirs: list[str]):
  # Here, because training and evaluation use the tables above.
  from mrpose_jax import errors
  from mrpose_jax import paper_report

  if not workdirs:
    raise errors.ConfigError(
      'no workdirs: python -m mrpose_jax.report WORKDIR... --output=FOLDER; each is the folder of '
      'an evaluated run'
    )
  page = paper_report.write(
    workdirs, flags.FLAGS.output, flags.FLAGS.data_dir or None, flags.FLAGS.num_images
  )
  print(f'{page} and {page.with_suffix(".md").name}')


if __name__ == '__main__':
  from absl import flags

  from mrpose_jax import command_line

  flags.DEFINE_string('output', 'runs/report', 'Folder to write to.')
  flags.DEFINE_string('data_dir', None, "Folder of prepared data [each run's own].")
  flags.DEFINE_integer('num_images', 4, 'Images in figure 6 and people in figure 7.', lower_bound=1)
  command_line.run(main)
