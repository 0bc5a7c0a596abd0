"""Small files of the formats that `mrpose_jax.input_pipeline.convert` reads, with their images."""

import csv
import json

import numpy as np
import yaml
from PIL import ExifTags
from PIL import Image
from scipy import io

SCORER = 'Ada'


def image(path, width=100, height=80, orientation=1):
  """Writes an image, with an EXIF orientation, and returns its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  Image.new('RGB', (width, height), 'navy').save(path, exif=exif)
  return path


def yolo(folder, rows=None, **content):
  """Two images of set train, one of set val; `rows` are the label lines by image name."""
  fields = {
    'path': '.',
    'train': 'images/train',
    'val': 'images/val',
    'kpt_shape': [3, 3],
    'flip_idx': [0, 2, 1],
    'names': {0: 'mouse'},
  }
  rows = rows or {
    'a': '0 0.5 0.5 0.2 0.5 0.5 0.25 2 0.41 0.5 1 0 0 0',
    'c': '0 0.1 0.2 0.2 0.4 0.1 0.1 2 0.2 0.2 2 0.05 0.3 2',
  }
  for name, image_set in (('a', 'train'), ('b', 'train'), ('c', 'val')):
    image(folder / 'images' / image_set / f'{name}.png')
    if name in rows:
      labels = folder / 'labels' / image_set / f'{name}.txt'
      labels.parent.mkdir(parents=True, exist_ok=True)
      labels.write_text(rows[name] + '\n')
  path = folder / 'data.yaml'
  fields = {name: value for name, value in (fields | content).items() if value is not None}
  path.write_text(yaml.safe_dump(fields))
  return path


def deeplabcut(folder, people, names, individuals=(), columns=1, size=(100, 80), **config):
  """A project with one video; `people` maps image names to [individuals, K, 2], NaN for none."""
  video = folder / 'labeled-data' / 'walk'
  levels = [('scorer', SCORER)] + ([('individuals', None)] if individuals else [])
  levels += [('bodyparts', None), ('coords', None)]
  header = [[name] + [''] * (columns - 1) for name, _ in levels]
  for individual in individuals or ('',):
    for name in names:
      for coordinate in 'xy':
        values = [SCORER, *([individual] if individuals else []), name, coordinate]
        for row, value in zip(header, values):
          row.append(value)
  rows = []
  for file, points in people.items():
    image(video / file, *size)
    path = ['labeled-data', 'walk', file]
    cells = ['' if np.isnan(v) else repr(float(v)) for v in np.ravel(points)]
    rows.append([*(path if columns == 3 else ['/'.join(path)]), *cells])
  path = video / f'CollectedData_{SCORER}.csv'
  with open(path, 'w', newline='') as file:
    csv.writer(file).writerows([*header, *rows])
  if config:
    fields = {'scorer': SCORER, 'bodyparts': list(names)} | config
    (folder / 'config.yaml').write_text(yaml.safe_dump(fields))
  return path


def keypoint(name, x, y, number=None, parent=None):
  """A keypoint of Label Studio, in per cent of the image."""
  value = {'x': x, 'y': y, 'width': 0.5, 'keypointlabels': [name]}
  row = {'id': number or f'{name}{x}', 'type': 'keypointlabels', 'value': value}
  return row | ({'parentID': parent} if parent else {})


def rectangle(number, x, y, width, height, label='mouse', **more):
  """A rectangle of Label Studio, in per cent of the image."""
  place = {'x': x, 'y': y, 'width': width, 'height': height, 'rotation': 0}
  value = place | {'rectanglelabels': [label]} | more
  return {'id': number, 'type': 'rectanglelabels', 'value': value}


def label_studio(folder, *results, field='img'):
  """An export "JSON" with one task and image a<i>.png for each list of regions."""
  tasks = []
  for i, result in enumerate(results):
    image(folder / f'a{i}.png')
    url = f'/data/upload/3/0f1e2d3c-a{i}.png'
    annotation = {'id': 10 + i, 'was_cancelled': False, 'result': result}
    tasks.append({'id': i, 'data': {'text': 'x', field: url}, 'annotations': [annotation]})
  path = folder / 'project-3.json'
  path.write_text(json.dumps(tasks))
  return path


def leeds(folder, joints, digits=4):
  """joints.mat and an image for each person; `joints` is [3, 14, N] or [14, 3, N]."""
  for n in range(1, joints.shape[2] + 1):
    image(folder / 'images' / f'im{n:0{digits}}.jpg', 120, 150)
  io.savemat(folder / 'joints.mat', {'joints': joints})
  return folder / 'joints.mat'


def mpii(folder, images):
  """MPII's .mat; `images` is a list of (name, whether in the training set, people).

  A person is a dict of objpos (x, y) and scale, which may be missing, and points, a list of
  (id, x, y, is_visible).
  """
  entries = np.zeros(len(images), [('image', object), ('annorect', object)])
  for entry, (name, _, people) in zip(entries, images):
    image(folder / 'images' / name, 320, 240)
    entry['image'] = {'name': name}
    entry['annorect'] = np.array([_mpii_person(**person) for person in people], object)
  content = {'annolist': entries, 'img_train': np.array([train for _, train, _ in images], int)}
  path = folder / 'mpii_human_pose_v1_u12_1.mat'
  io.savemat(path, {'RELEASE': content})
  return path


def _mpii_person(points=(), objpos=None, scale=None):
  rows = [{'x': x, 'y': y, 'id': k, 'is_visible': visible} for k, x, y, visible in points]
  empty = np.zeros((0, 0))
  return {
    'scale': empty if scale is None else scale,
    'objpos': empty if objpos is None else {'x': objpos[0], 'y': objpos[1]},
    'annopoints': {'point': np.array(rows, object)} if rows else empty,
  }
