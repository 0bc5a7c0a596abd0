"""SHA-256 digests of a checkpoint's files, by which damage is seen."""

from mrpose_jax import errors
from mrpose_jax import paths

NAME = 'digests.json'


def write(folder: paths.Path, items: tuple[str, ...]):
  """Writes the digests of every file of the items; Orbax adds files beside them later."""
  paths.write_json(folder / NAME, _read(folder, items))


def problem(folder: paths.Path, items: tuple[str, ...]) -> str | None:
  """Describes the damage of a checkpoint folder; None if it is intact.

  Raises:
    BucketError: the bucket cannot be read, which says nothing about the checkpoint.
  """
  if not (folder / NAME).exists():
    return f'not a finished checkpoint (no {NAME})'
  try:
    expected = paths.read_json(folder / NAME)
    found = _read(folder, items)
  except (errors.CheckpointError, OSError) as error:
    return f'damaged ({errors.brief(error)})'
  for name, digest in expected.items():
    if name not in found:
      return f'damaged: {name} is missing'
    if found[name] != digest:
      return f'damaged: {name} does not match its digest'
  return None


def _read(folder, items) -> dict[str, str]:
  names = [name for name in paths.files_below(folder) if name.partition('/')[0] in items]
  return paths.digests(folder, names)
