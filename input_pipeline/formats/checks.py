"""Reads foreign JSON files, and provides the checks that all formats share."""

import json
import pathlib

import numpy as np

from mrpose_jax import errors
from mrpose_jax import paths

# Errors raised by reading a malformed record; int(inf) is an OverflowError.
MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
# Coordinates at or beyond this many pixels are mistakes.
LARGEST = 1e9


def read_json(path):
  """Returns the content of a JSON file in UTF-8, with or without a byte order mark.

  Raises:
    DataError: there is no such file, or it cannot be read.
  """
  path = paths.parse_local(path)
  try:
    with open(path, encoding='utf-8-sig') as file:
      return json.load(file)
  except FileNotFoundError as error:
    folder = path.parent
    names = sorted(p.name for p in folder.glob('*.json')) if folder.is_dir() else []
    hint = f'; found there: {", ".join(names[:6])}' if names else ''
    raise errors.DataError(f'{path}: there is no such file{hint}') from error
  except (OSError, RecursionError, ValueError) as error:
    raise errors.DataError(f'{path}: not a readable JSON file ({error})') from error


def is_positive(value):
  return isinstance(value, int | float) and 0 < value < LARGEST**2


def whole_number(value) -> int:
  """Returns an id as an int; also '7' and 7.0 are ids.

  Raises:
    ValueError: not a whole number of 64 bits.
  """
  try:
    number = int(value)
    fraction = isinstance(value, float) and number != value
    if isinstance(value, bool) or fraction or not -(2**63) <= number < 2**63:
      raise ValueError
  except MALFORMED as error:
    raise ValueError(f'{brief(value)} is not a whole number') from error
  return number


def in_range(values) -> bool:
  """Whether all coordinates are finite and of a size that images have."""
  return bool((np.abs(values) < LARGEST).all())


def leaves_folder(name):
  """Whether a file name is empty, absolute, no valid text, or may lead out of its folder."""
  path = pathlib.PurePosixPath(name)
  is_text = '\0' not in name and name == name.encode(errors='ignore').decode()
  return not name or not is_text or path.is_absolute() or '..' in path.parts


def raise_problems(path, problems, limit=5):
  """Raises a DataError that names the first problems and counts the others, if there are any."""
  if problems:
    more = f' and {len(problems) - limit} more' if len(problems) > limit else ''
    raise errors.DataError(f'{path}: {"; ".join(problems[:limit])}{more}')


def brief(row):
  """The row as JSON, cut to 60 characters."""
  text = json.dumps(row, default=str)
  return text if len(text) <= 60 else text[:57] + '...'
