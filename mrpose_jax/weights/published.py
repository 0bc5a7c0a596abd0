"""A published network: a folder in the form of a Hugging Face model repository.

- model.safetensors holds the variables under their paths, such as params.encoder.stem_conv.kernel.
- config.json holds the run's configuration, the skeleton, the shape of the crops, the step of the
  checkpoint, and the SHA-256 digests of the other two files.
- README.md is the model card.
"""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import skeletons

WEIGHTS, CONFIG, CARD = FILES = ('model.safetensors', 'config.json', 'README.md')
FORMAT, VERSION = 'mrpose_jax', 1
_FIELDS = ('config', 'skeleton', 'crops', 'step')


def is_published(folder: pathlib.Path) -> bool:
  """Whether a folder holds a published network, also if it is damaged."""
  if (folder / WEIGHTS).exists():
    return True
  try:
    return paths.read_json(folder / CONFIG).get('format') == FORMAT
  except (errors.CheckpointError, AttributeError):
    return False


def write(folder: pathlib.Path, variables: dict, meta: dict, card: str):
  """Writes the three files.

  Args:
    folder: a new or empty folder, or one that holds a published network, which is replaced.
    variables: {'params': ..., 'batch_stats': ...} of arrays.
    meta: JSON values of `config`, `skeleton`, `crops` and `step`.
    card: text of README.md.

  Raises:
    ConfigError: the folder holds anything else, or a README.md that was edited since, or it
      cannot be written to.
  """
  flat = traverse_util.flatten_dict(variables, sep='.')
  arrays = {name: np.ascontiguousarray(x) for name, x in flat.items()}
  metadata = {FORMAT: str(VERSION)}  # of several, the order in the file would vary
  contents = {
    WEIGHTS: safetensors.numpy.save(arrays, metadata),
    CARD: card.encode(),
  }
  digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
  config = {'format': FORMAT, 'format_version': VERSION, 'sha256': digests}
  config |= {name: meta[name] for name in _FIELDS}
  contents[CONFIG] = (json.dumps(config, indent=2) + '\n').encode()
  # Complete before it takes the folder's place, so that a full disk or a kill leaves the old one.
  partial = folder.with_name(f'.{folder.name}.partial')
  try:
    _check_replaceable(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in contents.items():
      (partial / name).write_bytes(content)
    folder.mkdir(exist_ok=True)
    for name in FILES:
      (partial / name).replace(folder / name)
  except OSError as error:
    raise errors.ConfigError(f'--output={folder}: cannot be written ({error.strerror})') from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def read(folder: pathlib.Path, shapes_of: Callable[[dict], dict]) -> tuple[dict, dict]:
  """Reads a published network.

  Args:
    folder: the folder.
    shapes_of: meta -> the tree of shapes of the network's variables.

  Returns:
    {'params': ..., 'batch_stats': ...} of NumPy arrays, and `meta` as for `write`.

  Raises:
    CheckpointError: a file is missing, damaged, of another version or of another network.
  """
  file = folder / CONFIG
  content = paths.read_json(file)
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise errors.CheckpointError(f'{file}: was not written by --mode=publish of mrpose_jax')
  if content.get('format_version') != VERSION:
    raise errors.CheckpointError(
      f'{file}: has format {content.get("format_version")}, this version of mrpose_jax reads '
      f'{VERSION}; update mrpose_jax'
    )
  try:
    meta = {name: content[name] for name in _FIELDS}
    skeletons.from_dict(meta['skeleton'])
    digest = content['sha256'][WEIGHTS]
    shapes = traverse_util.flatten_dict(shapes_of(meta), sep='.')
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.CheckpointError(f'{file}: damaged ({type(error).__name__}: {error})') from error
  arrays = _read_arrays(folder / WEIGHTS, digest)
  for name in sorted(shapes.keys() | arrays.keys()):
    stored, expected = (getattr(tree.get(name), 'shape', None) for tree in (arrays, shapes))
    if stored != expected:
      raise errors.CheckpointError(
        f'{folder / WEIGHTS}: belongs to another network than {CONFIG}: {name} is '
        f'{stored or "absent"}, not {expected or "absent"}'
      )
  return traverse_util.unflatten_dict(arrays, sep='.'), meta


def _read_arrays(file, digest):
  try:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
      raise errors.CheckpointError(
        f'{file}: damaged or not completely downloaded: it does not match the digest in {CONFIG}'
      )
    return safetensors.numpy.load(content)
  except (OSError, safetensors.SafetensorError) as error:
    raise errors.CheckpointError(f'{file}: cannot be read ({error})') from error


def _check_replaceable(folder):
  """Raises ConfigError unless `write` loses nothing of the user's in this folder."""
  names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
  if not names:
    return
  try:
    digest = paths.read_json(folder / CONFIG)['sha256'][CARD]
  except (errors.CheckpointError, KeyError, TypeError):
    raise errors.ConfigError(
      f'--output={folder}: holds other files ({", ".join(names[:3])}); name a new folder'
    ) from None
  card = folder / CARD
  if card.exists() and hashlib.sha256(card.read_bytes()).hexdigest() != digest:
    raise errors.ConfigError(
      f'{card}: was edited since it was written; name a new folder, or move this file away first'
    )
