"""Downloads published networks from the Hugging Face hub: hf://owner/name[@revision]."""

import os
import pathlib
import re

from mrpose_jax import errors
from mrpose_jax.weights import published

PREFIX = 'hf://'


def is_address(source: str | os.PathLike) -> bool:
  """Whether this is the address of a repository on the hub."""
  return isinstance(source, str) and source.startswith(PREFIX)


def download(address: str) -> pathlib.Path:
  """Returns the folder in the cache of huggingface_hub that holds the network.

  Files that are in the cache are not downloaded again. Without a connection, or with
  HF_HUB_OFFLINE=1, the cached files are used.

  Args:
    address: hf://owner/name, or hf://owner/name@revision with a branch, a tag or a commit.

  Raises:
    CheckpointError: the package is missing, the address is malformed, the files are neither on the
      hub nor in the cache, or the repository holds something else.
  """
  match = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?:@(\S+))?', address)
  if not match:
    raise errors.CheckpointError(
      f'{address}: write hf://owner/name, or hf://owner/name@revision with a branch, tag or commit'
    )
  try:
    import huggingface_hub.errors
  except ImportError as error:
    raise errors.CheckpointError(
      f"{address}: downloading needs a package; pip install 'mrpose_jax[hub]'"
    ) from error
  repository, revision = match.groups()
  try:
    folder = huggingface_hub.snapshot_download(
      repository, revision=revision, allow_patterns=list(published.FILES)
    )
  except huggingface_hub.errors.RevisionNotFoundError as error:
    raise errors.CheckpointError(f'{address}: has no revision {revision}') from error
  except huggingface_hub.errors.RepositoryNotFoundError as error:
    raise errors.CheckpointError(
      f'{address}: there is no such repository, or it is private; `hf auth login` gives access to '
      'those of your account'
    ) from error
  except huggingface_hub.errors.LocalEntryNotFoundError as error:
    raise errors.CheckpointError(
      f'{address}: is not in the cache, and the hub cannot be reached'
    ) from error
  except Exception as error:  # errors of HTTP, of the file system and of the hub's storage
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise errors.CheckpointError(f'{address}: cannot be downloaded ({reason})') from error
  folder = pathlib.Path(folder)
  if not published.is_published(folder):
    raise errors.CheckpointError(f'{address}: holds no network of mrpose_jax')
  return folder
