"""The package as pip installs it, used from a folder that is not the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny_run

ROOT = pathlib.Path(__file__).parents[1]
FROM_PYTHON = """
import sys
import mrpose_jax
assert mrpose_jax.__file__.startswith(sys.argv[1]), mrpose_jax.__file__
print(mrpose_jax.load_predictor('run')('images/a.png').shape)
"""


@pytest.fixture(scope='module')
def call(tmp_path_factory):
  """Runs Python with the installed package in a folder that holds a run and an image."""
  source, site, folder = (tmp_path_factory.mktemp(name) for name in ('source', 'site', 'folder'))
  for name in ('mrpose_jax', 'input_pipeline', 'configs'):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  install = (sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index')
  subprocess.run([*install, '--no-build-isolation', '--target', site, source], check=True)
  tiny_run.write(folder / 'run')
  (folder / 'images').mkdir()
  Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / 'images' / 'a.png')
  environment = {**os.environ, 'PYTHONPATH': str(site)}

  def run(*arguments):
    done = subprocess.run(
      [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  run.site, run.folder = str(site), folder
  return run


def test_every_package_is_listed():
  """pyproject.toml lists every folder with Python files."""
  listed = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']['packages']
  folders = {
    '.'.join(file.parent.relative_to(ROOT).parts)
    for package in ('mrpose_jax', 'input_pipeline')
    for file in (ROOT / package).rglob('*.py')
  }
  assert set(listed) == folders | {'mrpose_jax.configs'}


def test_predict_from_python(call):
  assert call('-c', FROM_PYTHON, call.site) == '(1, 17, 3)\n'


def test_the_command(call):
  shown = call('-m', 'mrpose_jax', '--mode=show', '--config=configs/custom.py:simple_baseline')
  assert '--config.model.network=simple_baseline' in shown
  command = ('-m', 'mrpose_jax', '--workdir=run')
  call(*command, '--mode=predict', '--input=images', '--output=out')
  assert (call.folder / 'out' / 'predictions.json').exists()
  assert 'cpu, cuda, tpu' in call(*command, '--mode=export', '--output=pose.stablehlo')
