"""Paths of disks and buckets; runtime/test_buckets.py has the tests that need a bucket."""

import pathlib

import pytest

from mrpose_jax import errors
from mrpose_jax import paths


def test_other_schemes_are_refused():
  for text in ('s3://bucket/x', 'az://bucket/x', 'https://host/x', 'gs:/bucket/x', 'gs:///x'):
    with pytest.raises(errors.ConfigError):
      paths.parse(text)
  assert paths.parse('~/x') == pathlib.Path.home() / 'x'


@pytest.mark.parametrize(
  ('name', 'local', 'command'),
  [
    ('data', 'FOLDER', 'rsync -r'),
    ('data/v1.0', 'FOLDER', 'rsync -r'),
    ('data.d/', 'FOLDER', 'rsync -r'),
    ('runs/pose.onnx', 'FILE', 'cp'),
  ],
)
def test_the_command_that_copies(name, local, command):
  address = f'gs://my.bucket/{name}'
  for written, copied in ((True, f'{local} {address}'), (False, f'{address} {local}')):
    with pytest.raises(errors.ConfigError) as raised:
      paths.parse_local(address, '--output', written)
    assert str(raised.value).endswith(f': gcloud storage {command} {copied}')
