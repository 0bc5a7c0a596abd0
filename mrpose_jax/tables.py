"""Metrics as Markdown tables and single lines."""

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
