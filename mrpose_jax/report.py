"""Results as tables for people."""

COCO_COLUMNS = ('AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL')


def markdown_table(rows: dict[str, dict[str, float]]) -> str:
  """A Markdown table, a row a result; COCO's 0..1 numbers are shown in per cent as papers do.

  Args:
    rows: name of the row -> {metric: value}; the first row names the columns.
  """
  columns = list(next(iter(rows.values())))
  lines = [
    '| | ' + ' | '.join(columns) + ' |',
    '|---' * (len(columns) + 1) + '|',
  ]
  for name, metrics in rows.items():
    cells = [_cell(column, metrics[column]) for column in columns]
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def one_line(metrics: dict[str, float]) -> str:
  """'AP 70.9, AP50 88.8, ...'."""
  return ', '.join(f'{name} {_cell(name, value)}' for name, value in metrics.items())


def _cell(column, value):
  if column in COCO_COLUMNS:
    return (
      '-' if value < 0 else f'{100 * value:.1f}'
    )  # pycocotools: -1 where nobody is of that size
  return f'{value:.1f}'
