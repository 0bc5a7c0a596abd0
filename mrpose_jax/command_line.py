"""What the commands share: flags and errors that end in one line and a documented exit code."""

import errno
import logging
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable

import ml_collections
from absl import app
from absl import flags
from ml_collections import config_flags

from mrpose_jax import errors

# A full disk, a full quota, a limit, a file system that became read-only.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_PACKAGE = pathlib.Path(__file__).parent
# The folder that holds configs/: the package itself where pip installed it, else the checkout.
_CONFIGS_IN = _PACKAGE if (_PACKAGE / 'configs').is_dir() else _PACKAGE.parent

flags.disclaim_key_flags()  # what is defined below is the caller's, and in its --help


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
    except OSError as error:
      if error.errno not in UNWRITABLE:
        raise
      where = error.filename or 'writing'
      _fail(errors.CheckpointError(f'{where}: {error.strerror}'))

  app.run(main, flags_parser=_parse)


def define_config() -> Callable[[], ml_collections.ConfigDict]:
  """Defines the flag --config; the result reads it, once the flags are parsed."""
  flag = config_flags.DEFINE_config_file('config', None, 'FILE or FILE:ARGUMENTS', lock_config=True)

  def read():
    given(flag, 'a configuration, e.g. configs/quickstart.py')
    try:
      return flag.value.copy_and_resolve_references()
    except OSError as error:  # ml_collections keeps a file that did not load until it is used
      raise errors.ConfigError(f'--config: {str(error).splitlines()[-1].strip()}') from error

  return read


def define_machines() -> Callable[[], None]:
  """Defines the flags of runs on several machines and of compiling; the result acts on them.

  It joins the processes of the run and keeps compiled programs in the user's cache folder. Call it
  before anything else of JAX.
  """
  coordinator = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0 [by itself].')
  count = flags.DEFINE_integer('num_processes', None, 'Processes of the run [by itself].')
  number = flags.DEFINE_integer('process_id', None, 'Number of this process [by itself].')
  cache = flags.DEFINE_bool('compilation_cache', True, 'Keep compiled programs for the next start.')

  def start():
    from mrpose_jax.runtime import compilation  # here, because --help need not wait for JAX
    from mrpose_jax.runtime import parallel

    compilation.set_up(keep_programs=cache.value)
    parallel.initialize(coordinator.value, count.value, number.value)
    if not parallel.is_main():
      logging.getLogger('mrpose_jax').setLevel(logging.WARNING)

  return start


def given(flag: flags.FlagHolder, what: str):
  """The flag's value; raises ConfigError where it was left out."""
  if flag.value is None:
    raise errors.ConfigError(f'--{flag.name} is missing: name {what}')
  return flag.value


def no_arguments(arguments: list[str]):
  """Raises ConfigError where a command that takes only flags was given something else."""
  if arguments:
    raise errors.ConfigError(f'unknown argument {arguments[0]!r}: every option starts with --')


def _parse(argv):
  try:
    return flags.FLAGS([_own_config(argument) for argument in _last_of_each_field(argv)])
  except errors.UserError as error:
    _fail(error)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    while isinstance(error.args[0], Exception):  # ml_collections wraps a KeyError
      error = error.args[0]
    _fail(errors.ConfigError(_plain(str(error.args[0]))))


def _last_of_each_field(argv):
  """Without a field's earlier values: ml_collections would join those of a tuple."""
  last = {argument.partition('=')[0]: i for i, argument in enumerate(argv) if '=' in argument}
  return [
    argument
    for i, argument in enumerate(argv)
    if not argument.startswith('--config.') or last.get(argument.partition('=')[0], i) <= i
  ]


def _own_config(argument):
  """`--config=configs/FILE.py` names the project's where the current folder has no such file."""
  flag, _, value = argument.partition('=')
  file = value.partition(':')[0]
  if flag == '--config' and not os.path.exists(file) and (_CONFIGS_IN / file).is_file():
    return f'--config={_CONFIGS_IN / value}'
  return argument


def _plain(message):
  """One line; that of ml_collections about an unknown key with the key first."""
  unknown = re.fullmatch(r"'(\w+)'\s*(?:Did you mean \"(\w+)\".*)?", message, re.DOTALL)
  if not unknown:
    return ' '.join(message.split())
  near = f'did you mean {unknown[2]!r}? ' if unknown[2] else ''
  return f'--config has no field {unknown[1]!r}: {near}(--mode=show lists all)'


def _fail(error):
  if isinstance(error, errors.Stopped):
    for number in (signal.SIGTERM, signal.SIGINT):  # once more would change the exit code
      signal.signal(number, signal.SIG_IGN)
  print(f'{type(error).__name__}: {error}', file=sys.stderr)
  sys.exit(error.exit_code)
