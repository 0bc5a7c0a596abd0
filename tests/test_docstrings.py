"""Runs the examples in docstrings, with runs/quickstart as workdir and photo.jpg as image."""

import doctest
import importlib

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny_run

MODULES = ('box_inputs', 'inference.conversions', 'predictors', 'runtime.show', 'skeletons')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('examples')
  tiny_run.write(folder / 'runs' / 'quickstart')
  Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(folder / 'photo.jpg')
  return folder


@pytest.mark.parametrize('name', MODULES)
def test_examples(name, folder, monkeypatch):
  monkeypatch.chdir(folder)
  result = doctest.testmod(importlib.import_module(f'mrpose_jax.{name}'))
  assert result.attempted > 0
  assert result.failed == 0
