"""Converts annotations of other tools to COCO's format, which `prepare` reads.

  python -m mrpose_jax.input_pipeline.convert --source=FILE_OR_FOLDER --output=FOLDER

FOLDER then holds annotations/SET.json for each set, and a link images/SET to the folder of its
images, which are not copied. Tools without sets have only the set train. The format is recognised
by the source's name, or by the names in the source folder, in this order: config.yaml or
CollectedData_* (DeepLabCut), another .yaml (Ultralytics YOLO pose), mpii*.mat (MPII), another .mat
(LSP and LSPET), .json (Label Studio); --format says otherwise.

Exit codes: 0 done (also if it was done before), 2 wrong flags, 3 unusable data.
"""

import fnmatch
import logging
import os
import pathlib
import shlex
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from mrpose_jax import command_line
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.converters import deeplabcut
from mrpose_jax.input_pipeline.converters import foreign
from mrpose_jax.input_pipeline.converters import label_studio
from mrpose_jax.input_pipeline.converters import leeds
from mrpose_jax.input_pipeline.converters import mpii_mat
from mrpose_jax.input_pipeline.converters import yolo
from mrpose_jax.input_pipeline.formats import coco_json

log = logging.getLogger(__name__)


# Share of the images to evaluate on, for tools without sets.
HELD_OUT = '0.1'


class Format(NamedTuple):
  """A format's reader, and the patterns of its files' names."""

  read: Callable[[pathlib.Path, pathlib.Path | None], foreign.ForeignData]
  patterns: tuple[str, ...]


FORMATS = {
  'deeplabcut': Format(
    deeplabcut.read, ('config.yaml', 'CollectedData_*.csv', 'CollectedData_*.h5')
  ),
  'yolo': Format(yolo.read, ('*.yaml', '*.yml')),
  'mpii': Format(mpii_mat.read, ('mpii*.mat',)),
  'lsp': Format(leeds.read, ('*.mat',)),
  'label_studio': Format(label_studio.read, ('*.json',)),
}


def convert(
  source,
  output,
  file_format: str | None = None,
  images=None,
  overwrite: bool = False,
) -> str:
  """Converts annotations; an earlier conversion with the same result is left unchanged.

  Args:
    source: the tool's file, or the folder that holds it.
    output: folder for annotations/ and images/; created if missing.
    file_format: a key of FORMATS; None to recognise it.
    images: folder of the images; None for the place where the tool keeps them.
    overwrite: replace annotation files with another content, and a link to another folder.

  Returns:
    A report with one line per set, and the command that prepares the sets.

  Raises:
    ConfigError: `output` cannot be written to.
    DataError: files that cannot be used or recognised, or other files in `output`.
  """
  source = paths.parse_local(source, '--source')
  output = paths.parse_local(output, '--output', written=True)
  if images is not None:
    images = paths.parse_local(images, '--images').absolute()
    if not images.is_dir():
      raise errors.DataError(f'--images={images}: there is no such folder')
  file_format, file = find(source, file_format)
  data = FORMATS[file_format].read(file, images)
  sets = foreign.to_annotations(data, file)
  annotations, _ = next(iter(sets.values()))
  skeletons.log_assumptions(annotations.skeleton, file)
  if data.dropped:
    left_out = ', '.join(f'{count} {reason}' for reason, count in sorted(data.dropped.items()))
    log.warning('%s: left out: %s', file, left_out)
  try:
    changed = _write(sets, output, overwrite, file)
  except OSError as error:
    raise errors.ConfigError(f'--output={output}: cannot be written to ({error})') from error
  lines = [f'{file} was read as {file_format}']
  for name, (annotations, _) in sets.items():
    lines.append(f'{name}: {len(annotations.rows)} people in {len(annotations.images)} images')
  lines.append(
    f'written to {output}' if changed else f'{output} was written before and stays as it is'
  )
  lines.append(f'next: {_next_command(sets, output)}')
  return '\n'.join(lines)


def find(source: pathlib.Path, file_format: str | None) -> tuple[str, pathlib.Path]:
  """Returns the format and the file to read; see the module for the rule.

  Raises:
    DataError: the source does not exist, is not recognised, or holds several such files.
  """
  if not source.exists():
    raise errors.DataError(f'--source={source}: there is no such file or folder')
  if source.is_file() and file_format:
    return file_format, source
  names = sorted(path.name for path in source.iterdir()) if source.is_dir() else [source.name]
  folder = source if source.is_dir() else source.parent
  for name in [file_format] if file_format else FORMATS:
    for pattern in FORMATS[name].patterns:
      matches = fnmatch.filter(names, pattern)
      if len(matches) > 1:
        raise errors.DataError(f'{source}: {" and ".join(matches)}: name one of them as --source')
      if matches:
        return name, folder / matches[0]
  patterns = ', '.join(pattern for known in FORMATS.values() for pattern in known.patterns)
  raise errors.DataError(f'{source}: not recognised, for it is or holds none of {patterns}')


def _write(sets, output, overwrite, source):
  """Writes the annotation files and the links; returns whether anything changed."""
  files, links = {}, {}
  for name, (annotations, folder) in sets.items():
    file, content = output / 'annotations' / f'{name}.json', coco_json.encode(annotations)
    if not file.exists() or file.read_bytes() != content:
      files[file] = content
    link = output / 'images' / name
    # Where the images are in the output folder already, no link is needed.
    there = link if os.path.lexists(link) else link.parent
    if not there.exists() or there.resolve() != folder.resolve():
      links[link] = folder.resolve()
  occupied = [path for path in (*files, *links) if os.path.lexists(path)]
  if occupied and not overwrite:
    raise errors.DataError(
      f'{occupied[0]}: has other content; replace it with --overwrite, or choose another --output'
    )
  for file in files:
    if file.exists() and file.samefile(source):
      raise errors.DataError(f'{file}: is the source and is not replaced; choose another --output')
  for link in links:
    if os.path.lexists(link) and not link.is_symlink():
      raise errors.DataError(f'{link}: is no link and is not replaced; choose another --output')
  for file, content in files.items():
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f'.{file.name}.{os.getpid()}')
    unfinished.write_bytes(content)
    os.replace(unfinished, file)
  for link, folder in links.items():
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(folder, target_is_directory=True)
  return bool(files or links)


def _next_command(sets, output):
  """The command that prepares the sets."""
  annotations, _ = next(iter(sets.values()))
  train = 'train' if 'train' in sets else ''
  validation = 'validation' if 'validation' in sets else train and HELD_OUT
  return (
    'python -m mrpose_jax.input_pipeline.prepare --dataset=coco '
    f'--source={shlex.quote(str(output))} --train={train} --validation={validation} '
    '--data_dir=DATA_DIR' + (' --categories=all' if len(annotations.categories) > 1 else '')
  )


def define_flags():
  """Defines the flags of the command. Importing this module defines none."""
  flags.DEFINE_string('source', None, "The tool's file, or the folder that holds it.")
  flags.DEFINE_string('output', None, 'Folder to write annotations/ and images/ into.')
  flags.DEFINE_enum('format', None, sorted(FORMATS), 'Format of the source [recognised].')
  flags.DEFINE_string('images', None, 'Folder of the images [where the tool keeps them].')
  flags.DEFINE_bool('overwrite', False, 'Replace an earlier conversion.')


def main(arguments):
  command_line.no_arguments(arguments)
  values = flags.FLAGS
  print(convert(values.source, values.output, values.format, values.images, values.overwrite))


if __name__ == '__main__':
  define_flags()
  flags.mark_flags_as_required(['source', 'output'])
  command_line.run(main)
