"""What the commands share: flags and errors that end in one line and a documented exit code."""

import logging
import sys
from collections.abc import Callable

from absl import app
from absl import flags

from mrpose_jax import errors


def run(command: Callable[[list[str]], None]):
  """Parses the flags and calls command(positional arguments).

  A UserError, a wrong flag or an unknown configuration key prints one line on standard error and
  exits with the error's code (2 for flags and keys).
  """

  def main(argv):
    logging.basicConfig(
      level=logging.WARNING, format='%(asctime)s %(message)s', datefmt='%H:%M:%S', force=True
    )
    logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax, TFDS and Grain tell a lot
    logging.getLogger('mrpose_jax').setLevel(logging.INFO)
    try:
      command(argv[1:])
    except errors.UserError as error:
      _fail(error)

  app.run(main, flags_parser=_parse)


def no_arguments(arguments: list[str]):
  """Raises ConfigError where a command that takes only flags was given something else."""
  if arguments:
    raise errors.ConfigError(f'unknown argument {arguments[0]!r}: every option starts with --')


def _parse(argv):
  try:
    return flags.FLAGS(argv)
  except errors.UserError as error:
    _fail(error)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    while isinstance(error.args[0], Exception):  # ml_collections wraps a KeyError
      error = error.args[0]
    _fail(errors.ConfigError(' '.join(str(error.args[0]).split())))


def _fail(error):
  print(f'{type(error).__name__}: {error}', file=sys.stderr)
  sys.exit(error.exit_code)
