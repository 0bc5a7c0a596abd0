"""Finds the golden arrays and sample data beside the project; without them tests are skipped."""

import pathlib

import pytest

SHARED = pathlib.Path(__file__).parents[3] / 'shared'


def golden(name: str) -> pathlib.Path:
  """Path of a file of golden arrays, e.g. 'coco_eval.npz'."""
  return _find(SHARED / 'golden' / name)


def data(name: str) -> pathlib.Path:
  """Path of a folder or file of real images and annotations, e.g. 'coco_mini'."""
  return _find(SHARED / 'data' / name)


def _find(path):
  if not path.exists():
    pytest.skip(f'{path} is not here')
  return path
