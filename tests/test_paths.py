"""Paths of disks and buckets; runtime/test_buckets.py has the tests that need a bucket."""

import pathlib

import pytest

from mrpose_jax import errors
from mrpose_jax import paths


def test_other_schemes_are_refused():
  for text in ('s3://bucket/x', 'az://bucket/x', 'https://host/x', 'gs:/bucket/x', 'gs:///x'):
    with pytest.raises(errors.ConfigError):
      paths.parse(text)
  with pytest.raises(errors.ConfigError, match='gcloud storage cp -r FOLDER gs://bucket/x'):
    paths.parse_local('gs://bucket/x', '--output', written=True)
  assert paths.parse('~/x') == pathlib.Path.home() / 'x'
