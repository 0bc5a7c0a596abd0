"""What the readers of other tools' files return, and its form in COCO's terms."""

import collections
import dataclasses
import itertools
import os
import pathlib
import re

import numpy as np
import yaml
from PIL import Image
from scipy import io

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.formats import annotation_types
from mrpose_jax.input_pipeline.formats import checks
from mrpose_jax.input_pipeline.host import image_files

# Where a file has no boxes, the box is the extent of the labelled keypoints, enlarged on all four
# sides by this fraction of its longer side, and clipped to the image.
MARGIN = 0.15
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
# Errors that Pillow raises for files that are no images.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True)
class ForeignPerson:
  """One annotated person.

  Attributes:
    keypoints: [K, 3] x, y in pixels, 0 for the centre of the first one, and COCO's visibility.
    box: x, y, width, height in pixels; None to derive it from the keypoints.
    category: id.
  """

  keypoints: np.ndarray
  box: tuple[float, ...] | None = None
  category: int = 1


@dataclasses.dataclass(frozen=True)
class ForeignImage:
  """One image file, its people, and the name of its set; tools without sets have only train."""

  path: pathlib.Path
  size: tuple[int, int]
  people: list[ForeignPerson]
  image_set: str = 'train'


@dataclasses.dataclass(frozen=True)
class ForeignData:
  """The content of a tool's files.

  Attributes:
    category: a COCO category without its id, see `skeletons.from_category`.
    categories: name of each category by id.
    images: the images, in the order of the files.
    dropped: number of annotations left out, by reason.
  """

  category: dict
  categories: dict[int, str]
  images: list[ForeignImage]
  dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def derived_box(keypoints, size) -> list[float]:
  """Returns the box of labelled keypoints by the rule of MARGIN.

  Args:
    keypoints: [K, 3] x, y, visibility.
    size: width, height of the image.

  Returns:
    x, y, width, height; without area if fewer than two places are labelled.
  """
  points = keypoints[keypoints[:, 2] > 0, :2]
  if not len(points):
    return [0.0, 0.0, 0.0, 0.0]
  margin = MARGIN * np.ptp(points, axis=0).max()
  low = np.maximum(points.min(0) - margin, 0)
  high = np.minimum(points.max(0) + margin, size)
  return [*low.tolist(), *np.maximum(high - low, 0).tolist()]


def to_annotations(
  data: ForeignData, where
) -> dict[str, tuple[annotation_types.Annotations, pathlib.Path]]:
  """Returns the annotations of each set, and the folder that its image files lie in.

  Images and annotations are numbered from 1.

  Args:
    data: from a reader.
    where: the source, for errors.

  Raises:
    DataError: there are no images, or keypoints, boxes or names that cannot be used.
  """
  if not data.images:
    raise errors.DataError(f'{where}: no annotated image')
  skeleton = skeletons.from_category(data.category, str(where))
  by_set, person_ids, sets = collections.defaultdict(list), itertools.count(1), {}
  problems = []
  for image in data.images:
    by_set[image.image_set].append(image)
    for number, person in enumerate(image.people, start=1):
      box = person.box or (0, 0, 0, 0)
      if not checks.in_range([*box, *person.keypoints.reshape(-1)]) or min(box[2:]) < 0:
        problems.append(f'{image.path}: the keypoints or the box of person {number} cannot be used')
  checks.raise_problems(where, problems)
  for image_set, images in sorted(by_set.items()):
    folder = pathlib.Path(os.path.commonpath([image.path.parent for image in images]))
    entries, rows = [], []
    for number, image in enumerate(images, start=1):
      name = image.path.relative_to(folder).as_posix()
      entries.append(annotation_types.ImageEntry(number, name, [], image.size))
      for person in image.people:
        box = derived_box(person.keypoints, image.size) if person.box is None else person.box
        keypoints = np.where(person.keypoints[:, 2:] > 0, person.keypoints, 0).reshape(-1)
        ids = next(person_ids), number, person.category
        area = box[2] * box[3]
        rows.append(annotation_types.coco_row(*ids, box, area, False, keypoints))
    annotations = annotation_types.Annotations(
      skeleton, entries, collections.Counter(), categories=data.categories, rows=rows
    )
    sets[image_set] = annotations, folder
  return sets


def read_yaml(path) -> dict:
  """Returns the content of a YAML file.

  Raises:
    DataError: not a YAML file of named values.
  """
  try:
    content = yaml.safe_load(path.read_text(encoding='utf-8-sig'))
  except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
    told = ' '.join(str(error).split())
    raise errors.DataError(f'{path}: not a readable YAML file ({told})') from error
  if not isinstance(content, dict):
    raise errors.DataError(f'{path}: not a YAML file of named values')
  return content


def read_mat(path: pathlib.Path, name: str, **settings):
  """Returns a variable of a MATLAB file; `settings` are those of scipy.io.loadmat.

  Raises:
    DataError: the file cannot be read, or has no such variable.
  """
  try:
    return io.loadmat(path, **settings)[name]
  except Exception as error:  # loadmat raises errors of many types for damaged files
    told = ' '.join(f'{type(error).__name__}: {error}'.split())
    raise errors.DataError(f'{path}: no MATLAB file with a readable {name!r} ({told})') from error


def image_size(
  path: pathlib.Path, problems: list[str], upright: bool = False
) -> tuple[int, int] | None:
  """Returns width and height of the stored pixels; None, and one more problem, if it cannot.

  With `upright`, an EXIF orientation is a problem, because the annotations are fractions of the
  upright picture, but preparation ignores the orientation.
  """
  try:
    with Image.open(path) as image:
      if upright and image_files.orientation(path.read_bytes()) != 1:
        problems.append(f'{path}: has an EXIF orientation; store its pixels upright')
      return image.size
  except _UNREADABLE as error:
    reason = f'not a readable image ({error})' if path.exists() else 'there is no such image'
    problems.append(f'{path}: {reason}')
    return None


def by_name(folders) -> dict[str, pathlib.Path]:
  """Image files in folders and in their subfolders, by name; the first folders take precedence."""
  found = {}
  for folder in folders:
    for path in sorted(folder.rglob('*')):
      if path.suffix.lower() in SUFFIXES:
        found.setdefault(path.name, path)
  return found


def base_name(name: str) -> str:
  """File name without its folders, in Linux's or Windows' notation."""
  return re.split(r'[/\\]', name)[-1]


def beside(path: pathlib.Path) -> pathlib.Path:
  """The folder images/ beside a file if it exists, else the file's folder."""
  folder = path.absolute().parent / 'images'
  return folder if folder.is_dir() else folder.parent
