"""Formats a report of tables, notes and figures as Markdown and as a single HTML page."""

import base64
import html
import pathlib
from typing import NamedTuple

from mrpose_jax import tables

TITLE = 'Evaluated runs of mrpose_jax'
SOURCE = (
  'Tran, Nguyen, Kim: Simple Multi-Resolution Representation Learning for Human Pose Estimation '
  '(ICPR 2020).'
)


class Figure(NamedTuple):
  """A PNG or JPEG file in the report's folder, with its caption."""

  file: str
  caption: str


class Row(NamedTuple):
  """A row of a table; `kind` is 'ours', 'paper' or 'difference'."""

  kind: str
  cells: list[str]


class Table(NamedTuple):
  """A further table, with its title and a note; the last row is set apart."""

  title: str
  header: list[str]
  rows: list[list[str]]
  note: str


class Section(NamedTuple):
  """The report's section about the runs on one data set at one input size."""

  title: str
  header: list[str]
  rows: list[Row]
  notes: list[str]
  figures: list[Figure]
  tables: list[Table]


def to_markdown(sections: list[Section]) -> str:
  """Returns the report as Markdown, with links to the picture files."""
  parts = [f'# {TITLE}', f'The paper: {SOURCE}']
  for section in sections:
    parts += [
      f'## {section.title}',
      tables.markdown_lines(section.header, [row.cells for row in section.rows]),
      *section.notes,
    ]
    for figure in section.figures:
      parts += [f'![{figure.caption}]({figure.file})', figure.caption]
    for table in section.tables:
      parts += [f'### {table.title}', tables.markdown_lines(table.header, table.rows)]
      parts += [table.note] * bool(table.note)
  return '\n\n'.join(parts) + '\n'


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #666; --back: #fff; --text: #1a1a1a; }
@media (prefers-color-scheme: dark) {
  :root { --quiet: #a8a8a8; --back: #16181b; --text: #e6e6e6; }
}
body { margin: 2rem auto; max-width: 88rem; padding: 0 1rem; line-height: 1.5;
  font-family: system-ui, sans-serif; background: var(--back); color: var(--text); }
p, figcaption { max-width: 46rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.45rem; text-align: right; white-space: nowrap; }
.runs :is(th, td):is(:nth-child(-n+2), :nth-child(5)), :is(th, td):first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--line); }
tr.ours td { border-top: 1px solid var(--line); font-weight: 600; }
tr.total td { border-top: 1px solid var(--line); font-weight: 600; }
tr.paper td, tr.difference td, figcaption { color: var(--quiet); }
figure { margin: 2rem 0; }
figure img { max-width: min(100%, 60rem); height: auto; border-radius: 4px; }
h1, h2, h3, p, figcaption { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 0.75rem; }
  h1 { font-size: 1.5rem; }
  h2 { font-size: 1.25rem; }
  figure { margin: 1.5rem 0; }
}
"""


def to_html(sections: list[Section], folder: pathlib.Path) -> str:
  """Returns the report as one HTML page that contains the pictures from `folder`."""
  body = [f'<h1>{html.escape(TITLE)}</h1>', f'<p>The paper: {html.escape(SOURCE)}</p>']
  for section in sections:
    body += [f'<h2>{html.escape(section.title)}</h2>', '<div class="table"><table class="runs">']
    body.append('<thead>' + _html_row('th', section.header) + '</thead><tbody>')
    body += [_html_row('td', row.cells, row.kind) for row in section.rows]
    body.append('</tbody></table></div>')
    body += [f'<p>{html.escape(note)}</p>' for note in section.notes]
    for figure in section.figures:
      picture = base64.b64encode((folder / figure.file).read_bytes()).decode()
      caption = html.escape(figure.caption)
      kind = {'.png': 'png', '.jpg': 'jpeg'}[pathlib.Path(figure.file).suffix]
      body.append(
        f'<figure><img src="data:image/{kind};base64,{picture}" alt="{caption}">'
        f'<figcaption>{caption}</figcaption></figure>'
      )
    for table in section.tables:
      body += [f'<h3>{html.escape(table.title)}</h3>', '<div class="table"><table>']
      body.append('<thead>' + _html_row('th', table.header) + '</thead><tbody>')
      kinds = [''] * (len(table.rows) - 1) + ['total']
      body += [_html_row('td', cells, kind) for cells, kind in zip(table.rows, kinds)]
      body.append(f'</tbody></table></div><p>{html.escape(table.note)}</p>')
  head = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(TITLE)}</title><style>{_STYLE}</style>'
  )
  content = '\n'.join(body)
  return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{content}\n</body></html>\n'


def _html_row(tag, cells, kind=''):
  inner = ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)
  return f'<tr class="{kind}">{inner}</tr>' if kind else f'<tr>{inner}</tr>'
