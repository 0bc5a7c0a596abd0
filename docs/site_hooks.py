"""Adds the repository's README, CHANGELOG and CONTRIBUTING to the site that mkdocs builds."""

import logging
import pathlib
import re

from mkdocs.structure import files as mkdocs_files

log = logging.getLogger('mkdocs.hooks')  # with --strict, its warnings end the build

ROOT = pathlib.Path(__file__).parents[1]
# File of the repository -> page of the site.
PAGES = {
  'README.md': 'index.md',
  'CHANGELOG.md': 'changelog.md',
  'CONTRIBUTING.md': 'contributing.md',
}


def on_files(files, config):
  """Adds the pages; their links lead from the repository's root to the site's."""
  for source, page in PAGES.items():
    text = (ROOT / source).read_text(encoding='utf-8').replace('](docs/', '](')
    for other, target in PAGES.items():
      text = text.replace(f']({other}', f']({target}')
    files.append(mkdocs_files.File.generated(config, page, content=text))
  return files


def on_page_content(html, page, config, files):
  """Lets links of a notebook lead to the site's pages, as mkdocs does for Markdown only."""
  if not page.file.src_uri.endswith('.ipynb'):
    return html

  def link(match):
    name = match[1].removeprefix('../')
    target = files.get_file_from_path(PAGES.get(name, name))
    if target is None:
      log.warning('%s: there is no page %s', page.file.src_uri, match[1])
      return match[0]
    return f'href="{target.url_relative_to(page.file)}"'

  return re.sub(r'href="([\w./]+\.md)"', link, html)
