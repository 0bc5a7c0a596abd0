"""Paths of local folders and of Google Cloud Storage (gs://), and how files are written there.

Nothing else in the project asks whether a path is local; `buckets` knows the ways of a bucket. It
differs from a disk in this: an object is written whole or not at all, nothing can be appended to
it, and a folder is only a common beginning of names, so that it is renamed and removed object by
object. Where a bucket cannot be used, every method of its paths raises BucketError.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable
from typing import TypeAlias
from typing import TypeVar

from etils import epath

from mrpose_jax import buckets
from mrpose_jax import errors

# A local path, or one in a bucket, which has the same methods.
Path: TypeAlias = pathlib.Path | epath.Path
_T = TypeVar('_T')

# Orbax writes this file last into a checkpoint in a bucket; on a disk, it renames the folder last.
COMMIT_FILE = 'commit_success.txt'
_UNFINISHED = '.orbax-checkpoint-tmp'
_STREAMS = 8  # objects that are read or written at the same time


def parse(text: str | os.PathLike) -> Path:
  """The path that a user's text names: an absolute local path, or a path in a bucket.

  Raises:
    ConfigError: the text has another scheme than gs://, names no bucket, or the bucket cannot be
      reached.
  """
  text = os.fspath(text)
  scheme = _scheme(text)
  if not scheme:
    return pathlib.Path(text).expanduser().absolute()
  if scheme != 'gs':
    raise errors.ConfigError(
      f'{text}: {scheme}:// cannot be used here; give a local folder or gs://BUCKET/FOLDER'
    )
  bucket = text.removeprefix(buckets.PREFIX).partition('/')[0] if in_bucket(text) else ''
  special = sorted(set(text) & set('[]*?\\#'))
  if special:
    raise errors.ConfigError(f'{text}: cannot be used with {" ".join(special)} in its name')
  if not bucket:
    raise errors.ConfigError(f'{text}: write gs://BUCKET/FOLDER')
  buckets.check_access(bucket)
  return buckets.Path(text)


def in_bucket(text: str | os.PathLike) -> bool:
  """Whether a user's text names a path in a bucket."""
  return os.fspath(text).startswith(buckets.PREFIX)


def parse_local(text: str | os.PathLike, flag: str = '', written: bool = False) -> pathlib.Path:
  """As `parse`, for files and folders that have to be local; a relative path stays relative.

  Args:
    text: what the user gave.
    flag: the option that it was given for, such as '--output', if there is one.
    written: whether it is written to.

  Raises:
    ConfigError: the path is in a bucket, or has another scheme.
  """
  name = os.fspath(text)
  scheme = _scheme(name)
  given = f'{flag}={name}' if flag else name
  if in_bucket(name):
    # A name such as pose.onnx is that of a file. `cp -r` would put a folder into one that exists.
    is_file = re.search(r'/.*\.[A-Za-z]\w*$', name.removeprefix(buckets.PREFIX))
    local, command = ('FILE', 'cp') if is_file else ('FOLDER', 'rsync -r')
    copy = f'write to a {local} and copy it' if written else f'copy it to a {local}'
    source_and_target = f'{local} {name}' if written else f'{name} {local}'
    raise errors.ConfigError(
      f'{given}: has to be local; {copy}: gcloud storage {command} {source_and_target}'
    )
  if scheme:
    raise errors.ConfigError(
      f'{given}: {scheme}:// cannot be used here; give a local file or folder'
    )
  return pathlib.Path(name).expanduser()


def _scheme(text):
  """'s3' for s3://bucket/x, also where pathlib has made s3:/bucket/x of it; None for a path."""
  found = re.match(r'([A-Za-z][A-Za-z0-9+.-]*):/', text)
  return found and found[1]


def cache_folder(name: str) -> pathlib.Path | None:
  """The folder of this name in the user's cache folder; None for a user without a home folder."""
  home = os.path.expanduser(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  return pathlib.Path(home) / 'mrpose_jax' / name if os.path.isabs(home) else None


def by_kind(path: Path, local: _T, bucket: _T) -> _T:
  """Returns the one of two values that suits the path."""
  return local if isinstance(path, pathlib.Path) else bucket


def write_text(path: Path, text: str):
  """Writes a file that is never seen half-written."""
  path = _as_path(path)
  if isinstance(path, pathlib.Path):
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(text, encoding='utf-8')
    partial.replace(path)
  else:
    path.write_bytes(text.encode())


def write_json(path: Path, content):
  """Writes a JSON file that is never seen half-written."""
  write_text(path, json.dumps(content, indent=2) + '\n')


def read_json(path: Path) -> dict:
  """Reads a JSON file; raises CheckpointError if it is missing or not JSON."""
  try:
    return json.loads(_as_path(path).read_bytes().decode())
  except (OSError, ValueError) as error:
    raise errors.CheckpointError(f'{path}: cannot be read ({error})') from error


def files_below(folder: Path) -> list[str]:
  """Names of all files below a folder, relative to it, in ascending order."""
  folder = _as_path(folder)
  if isinstance(folder, pathlib.Path):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())
  return sorted(buckets.objects_below(folder))


def digests(folder: Path, names: list[str]) -> dict[str, str]:
  """SHA-256 of files, by their names relative to a folder."""

  def digest(name):
    with buckets.reaching(folder / name), open_binary(folder / name) as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()

  with concurrent.futures.ThreadPoolExecutor(_STREAMS) as pool:
    return dict(zip(names, pool.map(digest, names)))


def open_binary(path: Path):
  """Opens a file for reading bytes."""
  return _as_path(path).open('rb')


def is_committed(checkpoint_folder: Path) -> bool:
  """Whether Orbax has finished the checkpoint in a folder."""
  if isinstance(checkpoint_folder, pathlib.Path):
    return _UNFINISHED not in checkpoint_folder.name
  return (checkpoint_folder / COMMIT_FILE).exists()


def remove_tree(folder: Path, first: tuple[str, ...] = ()):
  """Removes a folder, if it exists, so far as that is allowed.

  Args:
    folder: the folder.
    first: names of files in it that are removed before all others, so that a removal that is
      interrupted leaves nothing that looks complete.
  """
  with contextlib.suppress(OSError, errors.BucketError), buckets.reaching(folder):
    for name in (COMMIT_FILE, *first):
      (folder / name).unlink(missing_ok=True)
    if isinstance(folder, pathlib.Path):
      shutil.rmtree(folder)
    else:
      buckets.file_system().rm(str(folder), recursive=True)


def move_tree(folder: Path, target: Path):
  """Moves a folder; what was at `target` is removed."""
  remove_tree(target)
  if isinstance(folder, pathlib.Path):
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)
  else:
    with buckets.reaching(folder):  # copied whole first, so that an interruption loses nothing
      buckets.file_system().copy(str(folder), str(target), recursive=True)
    remove_tree(folder)


class Stage:
  """A local folder whose files are published in a folder of a run.

  If the folder is local, it is that folder, and publishing does nothing. For a bucket, it is a
  temporary folder, and publishing writes the files that changed, each one whole.

  Attributes:
    folder: the local folder.
  """

  def __init__(self, target: Path, check: Callable[[], None] = lambda: None):
    """Makes the local folder.

    Args:
      target: the folder of the run.
      check: function that is called before files are published; raises an error to prevent it.
    """
    self._target, self._check = _as_path(target), check
    self._temporary, self._published = None, {}
    if isinstance(self._target, pathlib.Path):
      self.folder = self._target
      self.folder.mkdir(parents=True, exist_ok=True)
    else:
      self._temporary = tempfile.TemporaryDirectory(prefix='mrpose_jax_')
      self.folder = pathlib.Path(self._temporary.name)

  def publish(self):
    """Writes the files that changed since the last call, in the order of their last changes.

    Raises:
      BucketError, or what `check` raises: nothing is written after that.
    """
    if self._temporary is None:
      return
    self._check()
    changed = []
    for name in files_below(self.folder):
      status = (self.folder / name).stat()
      version = status.st_mtime_ns, status.st_size
      if self._published.get(name) != version:
        changed.append((version, name))
    for version, name in sorted(changed):
      (self._target / name).write_bytes((self.folder / name).read_bytes())
      self._published[name] = version

  def close(self):
    """Removes the temporary folder; what was not published is lost."""
    if self._temporary is not None:
      self._temporary.cleanup()


@contextlib.contextmanager
def staged(target: Path, check: Callable[[], None] = lambda: None):
  """Context that gives a local folder, whose files are published at its end; see `Stage`."""
  with contextlib.closing(Stage(target, check)) as stage:
    yield stage.folder
    stage.publish()


def _as_path(path):
  """A path as it is, or that of a text."""
  return path if isinstance(path, pathlib.Path | epath.Path) else parse(path)
