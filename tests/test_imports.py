"""Checks the imports of every file: no circles, fixed directions, no hidden modules."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Folder -> name of its package.
PACKAGES = {
  'mrpose_jax': 'mrpose_jax',
  'input_pipeline': 'mrpose_jax.input_pipeline',
  'configs': 'configs',
  'benchmarks': 'benchmarks',
  'examples': 'examples',
}
FILES = {
  '.'.join((package, *path.relative_to(ROOT / folder).with_suffix('').parts)).removesuffix(
    '.__init__'
  ): path
  for folder, package in PACKAGES.items()
  for path in (ROOT / folder).rglob('*.py')
}
# Commands may import everything; only tests and benchmarks import commands.
COMMANDS = (
  'mrpose_jax.__main__',
  'mrpose_jax.report.__main__',
  'mrpose_jax.input_pipeline.browse',
  'mrpose_jax.input_pipeline.convert',
  'mrpose_jax.input_pipeline.prepare',
  'mrpose_jax.input_pipeline.sigmas',
)
# Only these may import packages that reach buckets, and so tell a bucket from a disk.
CLIENTS = {
  'etils': ('mrpose_jax.buckets', 'mrpose_jax.paths', 'mrpose_jax.runtime.checkpoint'),
  'fsspec': ('mrpose_jax.buckets',),
  'gcsfs': (),
  'google': ('mrpose_jax.runtime.run_locks',),
}
LEAVES = (
  'mrpose_jax.errors',
  'mrpose_jax.paths',
  'mrpose_jax.skeletons',
  'mrpose_jax.command_line',
)


@functools.cache
def tree(name):
  return ast.parse(FILES[name].read_text(encoding='utf-8'))


@functools.cache
def imports(name) -> frozenset[str]:
  """Names of the project's modules that a module imports, also inside functions."""
  names = set()
  for node in ast.walk(tree(name)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        module = f'{node.module}.{alias.name}'
        names.add(module if module in FILES else node.module)
  return frozenset(names & FILES.keys())


def outside(package):
  """Names of the modules outside a package."""
  return [name for name in FILES if name != package and not name.startswith(f'{package}.')]


def test_there_is_no_circle():
  done, path = set(), []

  def visit(name):
    assert name not in path, ' -> '.join([*path[path.index(name) :], name])
    if name not in done:
      path.append(name)
      for other in sorted(imports(name)):
        visit(other)
      path.pop()
      done.add(name)

  for name in FILES:
    visit(name)


@pytest.mark.parametrize('package', ['configs', 'benchmarks', 'examples'])
def test_nothing_imports(package):
  for name in outside(package):
    assert not [other for other in imports(name) if other.split('.')[0] == package], name


@pytest.mark.parametrize('room', ['report', 'planning', 'inference'])
def test_only_commands_import(room):
  for name in outside(f'mrpose_jax.{room}'):
    if name not in COMMANDS and not name.startswith('benchmarks.'):
      assert not [n for n in imports(name) if n.startswith(f'mrpose_jax.{room}')], name


def test_the_cpus_forms_have_one_door():
  users = [name for name in outside('mrpose_jax.cpu') if 'mrpose_jax.cpu' in str(imports(name))]
  assert users == ['mrpose_jax.runtime.compilation']


def test_the_input_pipeline_imports_leaves_alone():
  for name in FILES:
    if name.startswith('mrpose_jax.input_pipeline') and name not in COMMANDS:
      others = {n for n in imports(name) if not n.startswith('mrpose_jax.input_pipeline')}
      assert others <= set(LEAVES), name


@pytest.mark.parametrize('client', sorted(CLIENTS))
def test_one_module_owns_paths(client):
  users = []
  for name in FILES:
    for node in ast.walk(tree(name)):
      if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        modules = [node.module]
      else:
        continue
      users += [name for module in modules if module.split('.')[0] == client]
  assert set(users) == set(CLIENTS[client])


@pytest.mark.parametrize('name', sorted(FILES))
def test_no_alias_and_no_variable_hides_a_module(name):
  """Only aliases that are usual in the field, such as `np`, are allowed."""
  modules = set()
  for node in ast.walk(tree(name)):
    if isinstance(node, ast.Import | ast.ImportFrom):
      for alias in node.names:
        public = alias.asname == alias.name  # a re-export in the package's public interface
        assert alias.asname in (None, 'np', 'jnp', 'nn', 'ocp', 'tfds') or public, alias.asname
        modules.add((alias.asname or alias.name).split('.')[0])
  fields = {id(node.target) for node in ast.walk(tree(name)) if isinstance(node, ast.AnnAssign)}
  for node in ast.walk(tree(name)):
    if id(node) in fields:
      continue  # annotated names are class fields
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      assert node.id not in modules, f'{name}:{node.lineno}: {node.id}'
    elif isinstance(node, ast.arg):
      assert node.arg not in modules, f'{name}:{node.lineno}: {node.arg}'
