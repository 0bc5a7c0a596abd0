"""Metrics as Markdown tables and single lines."""

import math

COCO_COLUMNS = ('AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL')


def markdown_table(rows: dict[str, dict[str, float]]) -> str:
  """Markdown table with one row per result; COCO's 0..1 metrics are shown in per cent.

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
  """Markdown table of text cells."""

  def line(cells):
    return '|' + ''.join(f' {cell} |' if cell else ' |' for cell in cells)

  escaped = [[cell.replace('|', '\\|') for cell in row] for row in rows]
  return '\n'.join([line(header), '|---' * len(header) + '|', *map(line, escaped)])


def one_line(metrics: dict[str, float]) -> str:
  """One line of metrics, such as 'AP 70.9, AP50 88.8'."""
  return ', '.join(f'{name} {_cell(name, value)}' for name, value in metrics.items())


def unit(column: str) -> str:
  """The unit of a metric in tables: 'pixels' for EPE, and '%' for all others."""
  return 'pixels' if column == 'EPE' else '%'


def digits(column: str) -> int:
  """Number of decimals of a metric in tables."""
  return 2 if column.partition(':')[0] in ('EPE', 'NME') else 1


def per_cent(column: str, value: float) -> float | None:
  """A metric in per cent, or in the unit of `unit`; None if there was nothing to measure.

  This is marked by -1 in COCO's metrics (by pycocotools, if nobody is of that size) and by NaN in
  the others.
  """
  if column in COCO_COLUMNS:
    return 100 * value if value >= 0 else None
  return value if math.isfinite(value) else None


def _cell(column, value):
  value = per_cent(column, value)
  return '-' if value is None else f'{value:.{digits(column)}f}'
