"""Checks the commands in the pages: programs, flags, configurations and their fields exist."""

import pathlib
import re
import shlex

import pytest

from configs import coco
from configs import coco_strong
from configs import custom
from configs import lsp
from configs import mpii
from configs import quickstart
from examples import masks_config
from mrpose_jax import defaults

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
CONFIGS = {
  'coco': coco,
  'coco_strong': coco_strong,
  'custom': custom,
  'lsp': lsp,
  'masks_config': masks_config,
  'mpii': mpii,
  'quickstart': quickstart,
}
# Program -> files that define its flags.
SOURCES = {
  'main.py': ('mrpose_jax/__main__.py', 'mrpose_jax/command_line.py'),
  'mrpose_jax': ('mrpose_jax/__main__.py', 'mrpose_jax/command_line.py'),
  'mrpose_jax.input_pipeline.prepare': ('input_pipeline/prepare.py',),
  'mrpose_jax.input_pipeline.convert': ('input_pipeline/convert.py',),
  'mrpose_jax.input_pipeline.browse': ('input_pipeline/browse.py', 'mrpose_jax/command_line.py'),
  'mrpose_jax.input_pipeline.sigmas': ('input_pipeline/sigmas.py',),
  'mrpose_jax.report': ('mrpose_jax/report/__main__.py',),
  'benchmarks': ('benchmarks/__main__.py',),
  'benchmarks.kill_runs': ('benchmarks/kill_runs.py',),
  'benchmarks.ablation': ('benchmarks/ablation.py',),
  'benchmarks.beside_torch': ('benchmarks/beside_torch.py', 'mrpose_jax/command_line.py'),
  'examples.masks': ('examples/masks.py', 'mrpose_jax/command_line.py'),
  'examples.mice': ('examples/mice.py',),
}


def commands(page):
  return commands_of(page.read_text(encoding='utf-8'))


def commands_of(text):
  """Commands in a page's code blocks (`sh` or no language) and in its running text."""
  blocks = re.findall(r'^```(\w*)\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
  shell = '\n'.join(block for language, block in blocks if language in ('', 'sh'))
  lines = shell.replace('\\\n', ' ').splitlines()
  lines += re.findall(r'`(python [^`\n]+)`', text)
  return [line for line in lines if re.match(r'\S*(python|srun) ', line)]


def flags_of(program):
  sources = '\n'.join((ROOT / name).read_text() for name in SOURCES[program])
  names = set(re.findall(r"DEFINE_\w+\(\s*'(\w+)'", sources))
  return names | {f'no{name}' for name in re.findall(r"DEFINE_bool\(\s*'(\w+)'", sources)}


def check(command):
  """Raises AssertionError if the program, a flag, a mode or a field does not exist."""
  words = shlex.split(command, comments=True)
  start = next(i for i, word in enumerate(words) if pathlib.Path(word).name.startswith('python'))
  words = words[start + 1 :]
  program = words[1] if words[0] == '-m' else words[0]
  assert program in SOURCES, command
  known = flags_of(program)
  for word in words:
    if not word.startswith('--') or word == '--':
      continue
    name, _, value = word[2:].partition('=')
    if name.startswith('config.'):
      section, field = name.split('.')[1:] if name.count('.') == 2 else ('', name.split('.')[1])
      values = defaults.get_config()
      assert field in (values[section] if section else values), f'{command}: {name}'
      continue
    assert name in known, f'{command}: {word}'
    if name == 'mode':
      assert f"'{value}'" in (ROOT / 'mrpose_jax/__main__.py').read_text(), command
    if name == 'config' and value not in ('...', 'FILE'):
      file, _, argument = value.partition(':')
      module = CONFIGS[pathlib.Path(file).stem]
      module.get_config(*([] if argument.isupper() or not argument else [argument]))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_of_a_page(page):
  for command in commands(page):
    check(command)


def test_there_are_commands():
  assert sum(len(commands(page)) for page in PAGES) > 20


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_fields_files_and_links_of_a_page(page):
  """Every `config.SECTION.FIELD`, path of a module and link in the page exists."""
  text = page.read_text(encoding='utf-8')
  config = defaults.get_config()
  for section, field in re.findall(r'\bconfig\.(\w+)\.(\w+)', text):
    if (section, field) != ('SECTION', 'FIELD'):
      assert field in config[section], f'config.{section}.{field}'
  for link in re.findall(r'\]\(([^)#]+?)(?:#[^)]*)?\)', text):
    if '://' not in link:
      assert (page.parent / link).exists(), link
  for path in re.findall(r'`((?:mrpose_jax|input_pipeline|configs|tests)/[\w/]+\.py)`', text):
    assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
  'command',
  [
    'python main.py --mod=eval',
    'python main.py --mode=trian',
    'python main.py --config.train.epoch=3',
    'python main.py --config=configs/coco.py:dept=50',
    'python -m mrpose_jax.input_pipeline.prepare --config=configs/coco.py',
    'python -m mrpose_jax.reports x',
  ],
)
def test_what_is_not_there_is_noticed(command):
  with pytest.raises(Exception, match=r'.'):
    check(command)


def test_every_page_is_in_the_sites_navigation():
  """`make docs` refuses pages that are not; this test needs no mkdocs."""
  navigation = (ROOT / 'mkdocs.yml').read_text().partition('\nnav:\n')[2]
  listed = re.findall(r'[\w-]+\.(?:md|ipynb)', navigation)
  pages = [path.name for path in (ROOT / 'docs').iterdir() if path.suffix in ('.md', '.ipynb')]
  assert sorted(listed) == sorted([*pages, 'index.md', 'changelog.md', 'contributing.md'])
