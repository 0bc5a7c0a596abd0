"""The package, installed from its source archive and used outside the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

from mrpose_jax import version
from tests.helpers import tiny_coco
from tests.helpers import tiny_run

ROOT = pathlib.Path(__file__).parents[1]
# Files of a user's project with names of the checkout's folders; importing one of them fails.
USERS_FILES = ('configs/__init__.py', 'input_pipeline.py', 'tests/__init__.py', 'benchmarks.py')
PREDICTS = """
import sys
import mrpose_jax
assert mrpose_jax.__file__.startswith(sys.argv[1]), mrpose_jax.__file__
print(mrpose_jax.load_predictor('run')('images/a.png').shape)
"""
READS_WITH_WORKERS = """
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data

if __name__ == '__main__':
  dataset = prepared_data.open_dataset('coco', 'data')
  print(next(loader.train_batches(dataset, 4, seed=0, num_workers=1)).patches.grid.shape)
"""
SAME_MODULES = """
from input_pipeline import boxes, warp
from mrpose_jax import input_pipeline
from mrpose_jax.input_pipeline.device import geometry
assert boxes is geometry is input_pipeline.boxes
assert warp is input_pipeline.warp
"""


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """Folder that pip installed the package in: a wheel that it built from the source archive."""
  source, site = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('site')
  for name in ('mrpose_jax', 'input_pipeline', 'configs'):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  build = 'from setuptools import build_meta; build_meta.build_sdist("dist")'
  subprocess.run([sys.executable, '-c', build], cwd=source, check=True)
  (archive,) = (source / 'dist').iterdir()
  assert archive.name == f'mrpose_jax-{version.__version__}.tar.gz'
  install = (sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index')
  subprocess.run([*install, '--no-build-isolation', '--target', site, archive], check=True)
  return site


@pytest.fixture(scope='module', params=['an empty folder', 'files with names of ours'])
def call(request, site, tmp_path_factory):
  """Runs Python with the installed package in a user's folder: a run, an image, a data set."""
  folder = tmp_path_factory.mktemp('folder')
  if request.param == 'files with names of ours':
    for name in USERS_FILES:
      (folder / name).parent.mkdir(exist_ok=True)
      (folder / name).write_text("raise ImportError('this is the user's file')\n")
  tiny_run.write(folder / 'run')
  tiny_coco.write(folder / 'source')
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


def test_one_package_is_installed(site):
  assert {path.name for path in site.iterdir() if not path.name.endswith('.dist-info')} == {
    'mrpose_jax'
  }


def test_every_package_is_listed():
  """pyproject.toml lists every folder with Python files."""
  listed = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']['packages']
  folders = {
    f'{prefix}{".".join(file.parent.relative_to(ROOT).parts)}'
    for prefix, folder in (('', 'mrpose_jax'), ('mrpose_jax.', 'input_pipeline'))
    for file in (ROOT / folder).rglob('*.py')
  }
  assert set(listed) == folders | {'mrpose_jax.configs'}


def test_version(call):
  told = call('-c', 'import mrpose_jax; print(mrpose_jax.__version__)')
  installed = call('-c', 'from importlib import metadata; print(metadata.version("mrpose_jax"))')
  assert told == installed == f'{version.__version__}\n'


def test_predict_from_python(call):
  assert call('-c', PREDICTS, call.site) == '(1, 17, 3)\n'


def test_the_command(call):
  shown = call('-m', 'mrpose_jax', '--mode=show', '--config=configs/custom.py:simple_baseline')
  assert '--config.model.network=simple_baseline' in shown
  command = ('-m', 'mrpose_jax', '--workdir=run')
  call(*command, '--mode=predict', '--input=images', '--output=out')
  assert (call.folder / 'out' / 'predictions.json').exists()
  assert 'cpu, cuda, tpu' in call(*command, '--mode=export', '--output=pose.stablehlo')


def test_preparing_and_reading_with_worker_processes(call):
  command = ('-m', 'mrpose_jax.input_pipeline.prepare', '--dataset=coco', '--source=source')
  report = call(*command, '--data_dir=data', '--canvas=64', '--processes=2')
  assert 'train: 6 people in 3 images' in report
  (call.folder / 'reads.py').write_text(READS_WITH_WORKERS)
  assert call('reads.py') == '(4, 2)\n'


def test_the_checkout_has_the_short_names_too():
  subprocess.run([sys.executable, '-c', SAME_MODULES], cwd=ROOT, check=True)
  for command in ('prepare', 'browse'):
    done = subprocess.run(
      [sys.executable, '-m', f'input_pipeline.{command}', '--dataset=cocoa', '--config=no.py'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 2 and 'ConfigError' in done.stderr, done.stderr
