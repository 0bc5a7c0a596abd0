"""Flags and error handling that all commands share: one line per error, documented exit codes."""

import errno
import io
import logging
import os
import pathlib
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable

import ml_collections
from absl import app
from absl import flags
from ml_collections import config_flags

from mrpose_jax import buckets
from mrpose_jax import errors
from mrpose_jax import paths

# Full disk, full quota, file size limit, a file system that is read-only, and no permission.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
STDOUT = 1  # file descriptor
READER_LEFT = 128 + signal.SIGPIPE  # exit code if nobody reads standard output any more
_PACKAGE = pathlib.Path(__file__).parent
# The folder that holds configs/: the package itself where pip installed it, else the checkout.
_CONFIGS_IN = _PACKAGE if (_PACKAGE / 'configs').is_dir() else _PACKAGE.parent

flags.disclaim_key_flags()  # so that the caller's --help lists the flags below


def run(command: Callable[[list[str]], None]):
  """Parses the flags and calls command(positional arguments).

  A UserError, a wrong flag or an unknown configuration key prints one line on standard error and
  exits with the error's code (2 for flags and keys). With several processes, an error in one of
  them ends it without waiting for the others, which then end as well. If the reader of standard
  output closes it early, as `head` does, the command ends without a message.
  """

  def main(argv):
    logging.basicConfig(
      level=logging.WARNING, format='%(asctime)s %(message)s', datefmt='%H:%M:%S', force=True
    )
    logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax, TFDS and Grain log too much
    logging.getLogger('mrpose_jax').setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may hold characters that the locale lacks
      sys.stdout.reconfigure(encoding='utf-8', errors='surrogateescape')
    try:
      command(argv[1:])
      print(end='', flush=True)
    except errors.UserError as error:
      _fail(error)
    except (Exception, KeyboardInterrupt) as error:
      _end_if_unwritable(error)
      if buckets.is_of_client(error):
        _fail(buckets.unreachable(buckets.PREFIX, error))
      if not _joined():
        raise
      traceback.print_exc()
      _leave(1)

  try:
    app.run(main, flags_parser=_parse)
  finally:
    try:
      print(end='', flush=True)
    except OSError:  # Python would try again at its end, and complain
      os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def define_config() -> Callable[[], ml_collections.ConfigDict]:
  """Defines the flag --config; call the returned function for its value after parsing."""
  flag = config_flags.DEFINE_config_file('config', None, 'FILE or FILE:ARGUMENTS', lock_config=True)

  def read():
    given(flag, 'a configuration, e.g. configs/quickstart.py')
    try:
      return flag.value.copy_and_resolve_references()
    except OSError as error:  # ml_collections raises the error of loading only here
      raise errors.ConfigError(f'--config: {str(error).splitlines()[-1].strip()}') from error

  return read


def define_machines() -> Callable[[bool], bool]:
  """Defines the flags of multi-process runs and of compilation; the returned function applies them.

  Call start(together) before any other use of JAX. It sets up the cache of compiled programs in
  the user's cache folder. If `together`, it joins the processes of the run; otherwise the command
  runs in process 0 alone. It returns whether this process takes part, and raises ConfigError if
  the processes do not find each other, or if JAX does not find the devices that it was told to use.
  """
  coordinator = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0 [detected].')
  count = flags.DEFINE_integer('num_processes', None, 'Number of processes in the run [detected].')
  number = flags.DEFINE_integer('process_id', None, 'Index of this process, from 0 [detected].')
  cache = flags.DEFINE_bool('compilation_cache', True, 'Keep compiled programs for the next start.')

  def start(together):
    from mrpose_jax.runtime import compilation  # inside, so that --help need not wait for JAX
    from mrpose_jax.runtime import parallel

    if not together and number.value:
      logging.getLogger('mrpose_jax').info('process 0 alone runs this command')
      return False
    compilation.set_up(keep_programs=cache.value)
    if together:
      parallel.initialize(coordinator.value, count.value, number.value)
    parallel.start_devices(alone=not together)
    if not parallel.is_main():
      logging.getLogger('mrpose_jax').setLevel(logging.WARNING)
    return True

  return start


def given(flag: flags.FlagHolder, description: str):
  """Returns the flag's value; raises ConfigError if it was not given."""
  if flag.value is None:
    raise errors.ConfigError(f'--{flag.name} is missing: name {description}')
  return flag.value


def no_arguments(arguments: list[str]):
  """Raises ConfigError if a command that accepts only flags was given positional arguments."""
  if arguments:
    raise errors.ConfigError(f'unknown argument {arguments[0]!r}: every option starts with --')


def _parse(argv):
  try:
    arguments = map(_quote_metrics, _last_of_each_field(argv))
    return flags.FLAGS([_own_config(argument) for argument in arguments])
  except errors.UserError as error:
    _fail(error)
  except OSError as error:
    _end_if_unwritable(error)  # --help prints
    _fail(errors.ConfigError(str(error)))
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    while isinstance(error.args[0], Exception):  # ml_collections wraps a KeyError
      error = error.args[0]
    _fail(errors.ConfigError(_plain(str(error.args[0]))))


def _last_of_each_field(argv):
  """Drops the earlier values of a field, because ml_collections would concatenate tuples."""
  last = {argument.partition('=')[0]: i for i, argument in enumerate(argv) if '=' in argument}
  return [
    argument
    for i, argument in enumerate(argv)
    if not argument.startswith('--config.') or last.get(argument.partition('=')[0], i) <= i
  ]


def _quote_metrics(argument):
  """Quotes the names in --config.eval.metrics=A,B, which ml_collections would read as Python."""
  flag, _, value = argument.partition('=')
  if flag == '--config.eval.metrics' and value and value[0] not in '([\'"':
    return f'{flag}={value!r}'
  return argument


def _own_config(argument):
  """Replaces `configs/FILE.py` by the project's own file if the current folder has none."""
  flag, _, value = argument.partition('=')
  file = value.partition(':')[0]
  if flag == '--config':
    paths.parse_local(value, flag)
  if flag == '--config' and not os.path.exists(file) and (_CONFIGS_IN / file).is_file():
    return f'--config={_CONFIGS_IN / value}'
  return argument


def _plain(message):
  """Puts a message on one line; rewrites that of ml_collections about an unknown key."""
  unknown = re.fullmatch(r"'(\w+)'\s*(?:Did you mean \"(\w+)\".*)?", message, re.DOTALL)
  if not unknown:
    return ' '.join(message.split())
  suggestion = f'did you mean {unknown[2]!r}? ' if unknown[2] else ''
  return f'--config has no field {unknown[1]!r}: {suggestion}(--mode=show lists all)'


def _fail(error):
  if isinstance(error, errors.Stopped):
    for number in (signal.SIGTERM, signal.SIGINT):  # another one would change the exit code
      signal.signal(number, signal.SIG_IGN)
  print(f'{type(error).__name__}: {error}', file=sys.stderr)
  # All processes raise these two at the same step, and can wait for each other.
  if _joined() and not isinstance(error, errors.Stopped | errors.DivergedError):
    _leave(error.exit_code)
  sys.exit(error.exit_code)


def _end_if_unwritable(error):
  """Ends the command if the error says that its output cannot be written."""
  if isinstance(error, BrokenPipeError):
    standard_output = select.poll()
    standard_output.register(STDOUT, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in standard_output.poll(0)):
      sys.exit(READER_LEFT)
  if isinstance(error, OSError) and error.errno in UNWRITABLE:
    where = error.filename or 'writing'
    _fail(errors.CheckpointError(f'{where}: {error.strerror}'))


def _joined():
  """Whether this process has joined others; JAX is not imported for that."""
  distributed = getattr(sys.modules.get('jax'), 'distributed', None)
  return distributed is not None and distributed.is_initialized()


def _leave(code):
  from mrpose_jax.runtime import parallel

  parallel.leave(code)
