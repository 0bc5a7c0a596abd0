"""Adds the repository's README, CHANGELOG and CONTRIBUTING to the site that mkdocs builds."""

import pathlib

from mkdocs.structure import files as mkdocs_files

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
