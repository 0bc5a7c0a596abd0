"""Google Cloud Storage (gs://): paths whose methods raise one kind of error, listing, copying.

Code that handles local paths as well uses `paths`, which decides between a disk and a bucket.
"""

import contextlib
import functools
import importlib.util
import inspect
import logging
import os
import pathlib
from collections.abc import Callable

from etils import epath

from mrpose_jax import errors

PREFIX = 'gs://'
# Packages whose exceptions `reaching` turns into a BucketError.
_CLIENTS = ('aiohttp', 'gcsfs', 'google', 'requests', 'urllib3')


def bucket_and_name(path: epath.Path) -> tuple[str, str]:
  """The bucket of an object, and the object's name."""
  bucket, _, name = str(path).removeprefix(PREFIX).partition('/')
  return bucket, name


@contextlib.contextmanager
def reaching(path: pathlib.Path | epath.Path):
  """Turns the errors of reading or writing a bucket into a BucketError that names the path.

  A missing object stays a FileNotFoundError, and the errors of a disk stay as they are.
  """
  try:
    yield
  except Exception as error:
    # gcsfs raises plain OSErrors, without a number, where access is denied or times out.
    denied = isinstance(error, OSError) and not error.errno and not isinstance(path, pathlib.Path)
    if is_of_client(error) or (denied and not isinstance(error, FileNotFoundError)):
      raise unreachable(path, error) from error
    raise


def is_of_client(error: Exception) -> bool:
  """Whether an exception comes from a package that reaches buckets."""
  return type(error).__module__.partition('.')[0] in _CLIENTS


def unreachable(path: epath.Path | str, error: Exception) -> errors.BucketError:
  """The BucketError that names a path and why it cannot be reached."""
  return errors.BucketError(
    f'{path}: cannot be reached ({errors.brief(error)}); the same command goes on once it can'
  )


class Path(type(epath.Path(f'{PREFIX}bucket'))):
  """A path in a bucket, whose methods raise BucketError where the bucket cannot be used.

  The methods of epath raise the exceptions of several packages, and its `is_dir` says False, so
  that a folder counts as missing while nobody can look. A missing object is a FileNotFoundError.
  """

  def is_dir(self):
    try:
      return self.stat().is_directory
    except FileNotFoundError:
      return False


def _reached(method):
  """The method of a path with the errors of `reaching`."""

  @functools.wraps(method)
  def reach(path, *arguments, **options):
    with reaching(path):
      result = method(path, *arguments, **options)
      return iter([*result]) if inspect.isgenerator(result) else result

  return reach


for _name in (
  *('copy', 'exists', 'glob', 'is_dir', 'iterdir', 'mkdir', 'open', 'read_bytes', 'read_text'),
  *('rename', 'replace', 'rmtree', 'stat', 'unlink', 'write_bytes', 'write_text'),
):
  setattr(Path, _name, _reached(getattr(Path, _name)))


@functools.cache
def file_system():
  """The file system of all buckets; epath uses the same object."""
  if importlib.util.find_spec('gcsfs') is None:
    raise errors.ConfigError("gs:// needs a package: pip install 'mrpose_jax[gcs]'")
  import fsspec

  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # our errors say what failed, on one line
  os.environ['EPATH_USE_TF'] = 'false'  # epath would use TensorFlow where it is installed
  # A folder that was listed once would stay as it was then.
  fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
  return fsspec.filesystem('gcs', finalize_on_close=True)


@functools.cache
def check_access(bucket: str):
  """Raises ConfigError unless the objects of a bucket can be listed."""
  system = file_system()
  try:
    system.ls(bucket)
  except FileNotFoundError as error:
    raise errors.ConfigError(f'{PREFIX}{bucket}: there is no such bucket') from error
  except Exception as error:  # of the network, of credentials, and of several packages
    raise errors.ConfigError(
      f'{PREFIX}{bucket}: cannot be reached ({errors.brief(error)}); check its name and the '
      'network, and log in with gcloud auth application-default login'
    ) from error


def objects_below(folder: epath.Path) -> dict[str, tuple[str, int]]:
  """Generation, and size in bytes, of each object below a folder of a bucket, by relative name.

  Whenever an object is written, it gets another generation.
  """
  start = str(folder).removeprefix(PREFIX) + '/'
  with reaching(folder):
    found = file_system().find(start, detail=True)
  return {
    name.removeprefix(start): (str(about['generation']), int(about['size']))
    for name, about in found.items()
  }


def fetch(
  source: epath.Path, generation: str, target: pathlib.Path, advance: Callable[[int], None]
):
  """Copies an object of a bucket to a local file, which is never seen half-written.

  Args:
    source: the object.
    generation: its generation, from `objects_below`.
    target: the file.
    advance: called with the number of bytes that have arrived since the last call.

  Raises:
    OSError: the object has changed or cannot be read, or the file cannot be written.
  """
  from fsspec import callbacks

  class Arrival(callbacks.Callback):
    def relative_update(self, inc=1):
      advance(inc)

  partial = target.with_name(f'{target.name}.partial')
  with reaching(source):
    file_system().get_file(
      str(source), str(partial), callback=Arrival(), concurrency=1, generation=generation
    )
  with partial.open('rb') as file:
    os.fsync(file.fileno())
  partial.replace(target)
