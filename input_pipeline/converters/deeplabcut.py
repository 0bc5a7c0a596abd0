"""Reads DeepLabCut's annotations: CollectedData_SCORER.csv or .h5, and config.yaml."""

import collections
import csv
import pathlib

import numpy as np

from mrpose_jax import errors
from mrpose_jax.input_pipeline.converters import foreign
from mrpose_jax.input_pipeline.formats import checks

# The individual that holds the unique body parts of a project with several animals.
UNIQUE = 'single'


def read(path: pathlib.Path, images: pathlib.Path | None = None) -> foreign.ForeignData:
  """Reads a project or one of its annotation files.

  A config.yaml stands for all files labeled-data/*/CollectedData_SCORER.csv of its project, or .h5
  where there is no .csv. It names the body parts and the limbs. The images of a file are beside it.
  The header has the rows scorer, bodyparts, coords, or, with several animals, scorer, individuals,
  bodyparts, coords. An empty x or y means that the body part is not labelled. The unique body parts
  of a project with several animals, which belong to no animal, are left out and counted.

  Args:
    path: config.yaml, or a file CollectedData_SCORER.csv or .h5.
    images: folder of the images; None for the folder of each annotation file.

  Raises:
    DataError: a file or an image cannot be used; all problems are counted and the first few named.
  """
  project = {}
  config = path
  if path.suffix != '.yaml':
    config = path.absolute().parent.parent.parent / 'config.yaml'
  if config.exists():
    project = foreign.read_yaml(config)
  tables = [path] if config != path else _tables(path, project)
  rows, names = [], {}
  for table in tables:
    columns, files, values = (_read_hdf if table.suffix == '.h5' else _read_csv)(table)
    layout = _layout(columns, table)
    names |= dict.fromkeys(name for parts in layout.values() for name in parts)
    rows.append((table, layout, files, values))
  try:
    category = _category(project, names)
  except checks.MALFORMED as error:
    raise errors.DataError(f'{config}: bodyparts or skeleton cannot be used ({error})') from error
  order = {name: k for k, name in enumerate(category['keypoints'])}
  found, problems, dropped = [], [], collections.Counter()
  for table, layout, files, values in rows:
    for file, row in zip(files, values):
      image = (images or table.absolute().parent) / foreign.base_name(file)
      size = foreign.image_size(image, problems)
      people = []
      for individual, columns_of in layout.items():
        keypoints = np.zeros((len(order), 3))
        for name, columns in columns_of.items():
          if np.isfinite(row[columns]).all():
            keypoints[order[name]] = *row[columns], 2
        if individual == UNIQUE and len(layout) > 1:
          dropped['unique body part'] += int((keypoints[:, 2] > 0).sum())
        elif keypoints[:, 2].any():
          people.append(foreign.ForeignPerson(keypoints))
      if size:
        found.append(foreign.ForeignImage(image, size, people))
  checks.raise_problems(path, problems)
  return foreign.ForeignData(category, {1: category['name']}, found, +dropped)


def _category(project, names):
  """The COCO category of the keypoints `names`, in the order of the project's body parts."""
  parts = project.get('multianimalbodyparts') or project.get('bodyparts')
  if isinstance(parts, list) and set(parts) >= set(names):
    names = dict.fromkeys(map(str, parts))
  order = {name: k for k, name in enumerate(names, start=1)}
  return {
    'name': str(project.get('Task') or 'animal'),
    'keypoints': list(order),
    'skeleton': [
      [order[a], order[b]] for a, b in project.get('skeleton') or () if {a, b} <= order.keys()
    ],
  }


def _tables(config, project):
  """The annotation files of a project."""
  scorer = project.get('scorer')
  scorer = scorer if isinstance(scorer, str) and scorer else '*'
  found = {}
  for suffix in ('.h5', '.csv'):  # the .csv, which needs no further package, replaces the .h5
    for table in sorted(config.parent.glob(f'labeled-data/*/CollectedData_{scorer}{suffix}')):
      found[table.parent] = table
  if not found:
    raise errors.DataError(
      f'{config}: there is no labeled-data/*/CollectedData_{scorer}.csv or .h5 beside it'
    )
  return [found[folder] for folder in sorted(found)]


def _layout(columns, path):
  """Returns {individual: {body part: [column of x, column of y]}}; '' is a lone individual."""
  layout = collections.defaultdict(dict)
  for number, (*individual, name, coordinate) in enumerate(columns):
    layout[''.join(individual)].setdefault(name, {})[coordinate] = number
  if not layout or any(
    not {'x', 'y'} <= part.keys() for parts in layout.values() for part in parts.values()
  ):
    raise errors.DataError(f'{path}: each body part needs a column x and a column y')
  return {
    individual: {name: [part['x'], part['y']] for name, part in parts.items()}
    for individual, parts in layout.items()
  }


def _read_csv(path):
  """Returns the columns as ([individual], body part, coordinate), the files, the values [N, C]."""
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      rows = [row for row in csv.reader(file) if row]
  except (OSError, ValueError, csv.Error) as error:
    raise errors.DataError(f'{path}: not a readable CSV file ({error})') from error
  header = {row[0]: row for row in rows[:4]}
  levels = [name for name in ('individuals', 'bodyparts', 'coords') if name in header]
  if levels[-2:] != ['bodyparts', 'coords']:
    raise errors.DataError(
      f'{path}: not an annotation file of DeepLabCut: no rows bodyparts and coords in its header'
    )
  # The image's path is in one column, or in three: labeled-data, video, image.
  first = 3 if header['coords'][1:3] == ['', ''] else 1
  columns = list(zip(*(header[level][first:] for level in levels)))
  rows = rows[len(levels) + ('scorer' in header) :]
  files, values = [], []
  for number, row in enumerate(rows):
    try:
      values.append([float(cell) if cell.strip() else np.nan for cell in row[first:]])
      if len(values[-1]) != len(columns):
        raise ValueError(f'{len(values[-1])} values for {len(columns)} columns')
    except ValueError as error:
      raise errors.DataError(f'{path}: row {number} of {row[0]!r:.60}: {error}') from error
    files.append('/'.join(row[:first]))
  return columns, files, np.array(values).reshape(len(files), len(columns))


def _read_hdf(path):
  """Returns what `_read_csv` returns, from the table that pandas has written."""
  try:
    import pandas  # inside, because it is an optional dependency, as tables is, which it imports

    table = pandas.read_hdf(path)
    levels = [n for n in ('individuals', 'bodyparts', 'coords') if n in table.columns.names]
    columns = list(zip(*(table.columns.get_level_values(level) for level in levels)))
    files = ['/'.join(row) if isinstance(row, tuple) else str(row) for row in table.index]
    return columns, files, table.to_numpy(np.float64)
  except ImportError as error:
    raise errors.DataError(
      f"{path}: needs pandas and tables (pip install 'mrpose_jax[deeplabcut]'); the .csv of this "
      'name needs neither'
    ) from error
  except Exception as error:  # HDF5 and pandas raise errors of many types for damaged files
    told = str(error).strip().rpartition('\n')[2]
    raise errors.DataError(f'{path}: not an annotation file of DeepLabCut ({told})') from error
