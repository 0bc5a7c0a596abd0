"""Reads Label Studio's exports "JSON" and "JSON-MIN" of keypoint and rectangle labels."""

import collections
import pathlib
import re
import urllib.parse

import numpy as np

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.converters import foreign
from mrpose_jax.input_pipeline.formats import checks

# A task's name of an uploaded file begins with eight characters that Label Studio adds.
_UPLOAD = re.compile(r'^[0-9a-f]{8}-')


def read(path: pathlib.Path, images: pathlib.Path | None = None) -> foreign.ForeignData:
  """Reads the people of all tasks.

  A person is a rectangle with its keypoints: those whose parent it is or that a relation joins to
  it (export "JSON" alone knows these), else those inside it; of several rectangles the smallest
  counts. On an image without rectangles all keypoints belong to one person. A rectangle's label is
  its category. Of several annotations of a task, the one marked as ground truth counts, else the
  first that was not cancelled; the others, and tasks without one, are counted as left out.

  The keypoints are in alphabetical order, except that COCO's 17 names are in COCO's order.

  Args:
    path: the JSON file.
    images: folder of the images and its subfolders; None for the file's folder.

  Raises:
    DataError: the file, a task or an image cannot be used; all problems are counted and the first
      few named.
  """
  tasks = checks.read_json(path)
  if isinstance(tasks, dict) and 'images' in tasks:
    raise errors.DataError(
      f"{path}: is in COCO's format, which mrpose_jax.input_pipeline.prepare reads"
    )
  if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
    raise errors.DataError(f'{path}: not an export of Label Studio: a list of tasks is needed')
  files = foreign.by_name([images or path.absolute().parent])
  problems, dropped, read_tasks = [], collections.Counter(), []
  for number, task in enumerate(tasks):
    where = f'task {task.get("id", number)}'
    try:
      name, regions, others = _regions(task)
    except checks.MALFORMED as error:
      problems.append(f'{where}: not a task of Label Studio ({error})')
      continue
    dropped['further annotation of a task'] += others
    if regions is None:
      dropped['task without an annotation'] += 1
      continue
    image = files.get(name) or files.get(_UPLOAD.sub('', name))
    if image is None:
      problems.append(f'{where}: there is no image {name} in {images or path.parent}')
    elif size := foreign.image_size(image, problems, upright=True):
      try:
        read_tasks.append((image, size, _group(regions, size, dropped)))
      except KeyError as error:
        problems.append(f'{where}: a region lacks {error}')
      except checks.MALFORMED as error:
        problems.append(f'{where}: {error}')
  checks.raise_problems(path, problems)
  names = {name for _, _, people in read_tasks for _, _, points in people for name in points}
  coco = skeletons.COCO.keypoints
  names = list(coco) if names == set(coco) else sorted(names)
  labels = sorted({label for _, _, people in read_tasks for label, _, _ in people})
  numbers = {label: number for number, label in enumerate(labels, start=1)}
  found = []
  for image, size, people in read_tasks:
    found_people = []
    for label, box, points in people:
      keypoints = np.array([(*points[n], 2) if n in points else (0, 0, 0) for n in names], float)
      found_people.append(foreign.ForeignPerson(keypoints, box, numbers[label]))
    found.append(foreign.ForeignImage(image, size, found_people))
  category = {'name': next(iter(labels), 'object'), 'keypoints': names}
  return foreign.ForeignData(category, {i: label for label, i in numbers.items()}, found, +dropped)


def _regions(task):
  """Returns the image's file name, the regions, and the number of annotations left out.

  The regions are None if nobody has annotated the task.

  A region is a dict with the fields of its value and 'id' and 'parent', which may be None.
  """
  annotations = task.get('annotations', task.get('completions'))  # the latter before version 1.0
  if annotations is None:  # JSON-MIN: each field of the task with regions is a list of them
    lists = [v for v in task.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    regions = [region | {'id': None, 'parent': None} for each in lists for region in each]
    return _file_name(task), regions, 0
  given = [a for a in annotations if not a.get('was_cancelled')]
  if not given:
    return _file_name(task['data']), None, 0
  annotation = next((a for a in given if a.get('ground_truth')), given[0])
  result = annotation['result']
  parents = {}
  for row in result:
    if row.get('type') == 'relation':
      parents |= {row['from_id']: row['to_id'], row['to_id']: row['from_id']}
  regions = [
    row['value'] | {'id': row['id'], 'parent': row.get('parentID') or parents.get(row['id'])}
    for row in result
    if row.get('type') != 'relation'
  ]
  return _file_name(task['data']), regions, len(given) - 1


def _file_name(fields):
  """The name of a task's image file, from the first field that names one."""
  for value in fields.values():
    if isinstance(value, str):
      query = urllib.parse.parse_qs(urllib.parse.urlparse(value).query)
      place = query['d'][0] if 'd' in query else urllib.parse.unquote(value.partition('?')[0])
      name = foreign.base_name(place)
      if pathlib.PurePath(name).suffix.lower() in foreign.SUFFIXES:
        return name
  raise ValueError('no field of its data is the name of an image')


def _group(regions, size, dropped):
  """Returns (label, box in pixels or None, {keypoint name: (x, y)}) of each person.

  Raises:
    ValueError: a keypoint occurs twice in a person, or a rectangle is rotated.
  """
  scale = np.array(size) / 100  # positions are in per cent of the image
  boxes, points = [], []
  for region in regions:
    labels = region.get('keypointlabels') or region.get('rectanglelabels')
    if not labels:
      dropped['region that is no labelled keypoint or rectangle'] += 1
      continue
    if not (isinstance(labels, list) and isinstance(labels[0], str)):
      raise ValueError(f'label {checks.brief(labels)} is not a text')
    place = np.array([region['x'], region['y']], float) * scale
    if 'keypointlabels' in region:
      points.append((labels[0], place, region['parent']))
    elif region.get('rotation'):
      raise ValueError('a rectangle is rotated; boxes must be upright')
    else:
      extent = np.array([region['width'], region['height']], float) * scale
      boxes.append((labels[0], place, extent, region['id']))
  people = [{} for _ in boxes] or [{}]
  area = [extent.prod() for _, _, extent, _ in boxes]
  for name, place, parent in points:
    owners = [i for i, (*_, number) in enumerate(boxes) if parent and number == parent]
    owners = owners or [
      i for i, (_, low, extent, _) in enumerate(boxes)
      if (place >= low).all() and (place <= low + extent).all()
    ]  # fmt: skip
    if boxes and not owners:
      dropped['keypoint outside all rectangles'] += 1
      continue
    owner = min(owners, key=area.__getitem__) if boxes else 0
    if name in people[owner]:
      raise ValueError(f'keypoint {name!r:.60} occurs twice in a person')
    people[owner][name] = tuple(place)
  if not boxes:
    return [('object', None, people[0])] if points else []
  return [(label, (*low, *extent), owned) for (label, low, extent, _), owned in zip(boxes, people)]
