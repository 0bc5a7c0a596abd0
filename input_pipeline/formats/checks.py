"""Reads foreign JSON files, and provides the checks that all formats share."""

import json
import math
import pathlib

from mrpose_jax import errors

# Errors raised by reading a malformed record; int(inf) is an OverflowError.
MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)


def read_json(path):
  """Returns the content of a JSON file; raises DataError."""
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except FileNotFoundError as error:
    folder = pathlib.Path(path).parent
    names = sorted(p.name for p in folder.glob('*.json')) if folder.is_dir() else []
    hint = f'; found there: {", ".join(names[:6])}' if names else ''
    raise errors.DataError(f'{path}: there is no such file{hint}') from error
  except (OSError, RecursionError, ValueError) as error:
    raise errors.DataError(f'{path}: not a readable JSON file ({error})') from error


def is_positive(value):
  return isinstance(value, int | float) and 0 < value < math.inf


def leaves_folder(name):
  """Whether a file name is empty, absolute, or may lead out of its folder."""
  path = pathlib.PurePosixPath(name)
  return not name or path.is_absolute() or '..' in path.parts


def raise_problems(path, problems, limit=5):
  """Raises a DataError that names the first problems and counts the others, if there are any."""
  if problems:
    more = f' and {len(problems) - limit} more' if len(problems) > limit else ''
    raise errors.DataError(f'{path}: {"; ".join(problems[:limit])}{more}')


def brief(row):
  """The row as JSON, cut to 60 characters."""
  text = json.dumps(row, default=str)
  return text if len(text) <= 60 else text[:57] + '...'
