"""Reading JSON files of others, and the checks that all formats share."""

import json
import math
import pathlib

from mrpose_jax import errors

# What reading a record of the wrong form raises; int(inf) is an OverflowError.
MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)


def read_json(path):
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except FileNotFoundError as error:
    folder = pathlib.Path(path).parent
    beside = sorted(p.name for p in folder.glob('*.json')) if folder.is_dir() else []
    found = f'; found there: {", ".join(beside[:6])}' if beside else ''
    raise errors.DataError(f'{path}: there is no such file{found}') from error
  except (OSError, RecursionError, ValueError) as error:
    raise errors.DataError(f'{path}: not a readable JSON file ({error})') from error


def is_positive(value):
  return isinstance(value, int | float) and 0 < value < math.inf


def leaves_folder(name):
  path = pathlib.PurePosixPath(name)
  return not name or path.is_absolute() or '..' in path.parts


def raise_problems(path, problems, limit=5):
  if problems:
    more = f' and {len(problems) - limit} more' if len(problems) > limit else ''
    raise errors.DataError(f'{path}: {"; ".join(problems[:limit])}{more}')


def brief(row):
  text = json.dumps(row, default=str)
  return text if len(text) <= 60 else text[:57] + '...'
