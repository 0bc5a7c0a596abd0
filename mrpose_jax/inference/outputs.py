"""Keeps predictions from overwriting the files that they are made from."""

import pathlib
from collections.abc import Iterable

from mrpose_jax import errors


def check(output: pathlib.Path, names: Iterable[str], inputs: Iterable[pathlib.Path]):
  """Refuses to write into a folder of the input, or over an input that has another path, too.

  Args:
    output: the folder to write to; it may be missing.
    names: names of the files to write there.
    inputs: the files that are read, and the folder of the images or the video.

  Raises:
    ConfigError: the folder is an input, or a file to write is the same as one, perhaps by a link.
  """
  known = {_identity(path): path for path in inputs if path.exists()}
  for target in (output, *(output / name for name in names)):
    if target.exists() and _identity(target) in known:
      raise errors.ConfigError(
        f'--output={output}: {known[_identity(target)]} there is the input; choose another folder'
      )


def _identity(path):
  status = path.stat()
  return status.st_dev, status.st_ino
