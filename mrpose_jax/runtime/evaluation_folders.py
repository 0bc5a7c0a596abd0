"""The folders of a workdir's evaluations: one for each step and each choice of settings.

WORKDIR/eval/STEP holds the evaluation with the settings of the training run. An evaluation with
other settings is written beside it, to a folder that names the differences, for example
eval/STEP-detections=boxes,flip_test=False. Each folder holds its settings in settings.json.
"""

import json
import os
import pathlib
import re

from mrpose_jax import codecs
from mrpose_jax import paths
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.runtime import number_types

SETTINGS = 'settings.json'
_NAME_LENGTH = 100  # characters; file systems allow 255 bytes


def settings_of(config: dict, dataset: prepared_data.Dataset) -> dict:
  """Everything besides the weights that the result of an evaluation depends on.

  Args:
    config: the configuration as a dictionary; fields that an older version lacks are left out.
    dataset: the data that are evaluated.

  Returns:
    The content of settings.json: names of settings and their values.
  """
  settings = {n: value for n, value in config['eval'].items() if n not in ('batch_size', 'primary')}
  # What None stands for, so that naming it is not another setting.
  settings['flip_test'] = dataset.skeleton.mirroring(settings['flip_test'], True)
  codec = codecs.CODECS[config['data'].get('codec', 'paper')]
  settings['offset'] = settings.get('offset') or codec.offset
  if settings['offset'] == 'dark':
    settings['sigma'] = config['data']['sigma']  # of the smoothing
  if settings['detections']:
    settings['detections'] = os.path.abspath(os.path.expanduser(settings['detections']))
  else:
    settings.pop('detection_threshold', None)
  for section, names in (('model', ('dtype', 'precision')), ('data', ('flip_pairs', 'sigmas'))):
    settings |= {name: config[section][name] for name in names if name in config[section]}
  if 'dtype' in settings:
    settings['dtype'] = number_types.choose(settings['dtype'])
  settings['data'] = dataset.image_set('validation')
  settings['fingerprint'] = dataset.fingerprint('validation')
  return json.loads(json.dumps(settings))  # as JSON stores it, with lists for tuples


def choose(workdir, step: int, settings: dict, meta: dict, dataset) -> pathlib.Path:
  """Returns the folder to write an evaluation to; it holds none with other settings.

  Args:
    workdir: folder of the run.
    step: the checkpoint that was evaluated.
    settings: from `settings_of`.
    meta: `meta` of the checkpoint.
    dataset: the data that were evaluated.
  """
  parent = paths.parse(workdir) / 'eval'
  own = meta.get('evaluation') or _read(parent / str(step)) or settings_of(meta['config'], dataset)
  name = '-'.join(filter(None, [str(step), _differences(own, settings)]))
  folder, count = parent / name, 1
  while _read(folder) not in (None, settings):  # e.g. two files of detections have the same name
    count += 1
    folder = parent / f'{name}-{count}'
  return folder


def split_name(folder: pathlib.Path) -> tuple[int, str] | None:
  """Splits a folder's name into its step and what differs from the run; None for other names."""
  match = re.fullmatch(r'(\d+)(?:-(.+))?', folder.name)
  return match and (int(match[1]), match[2] or '')


def _read(folder):
  file = folder / SETTINGS
  return paths.read_json(file) if file.exists() else None


def _differences(own, settings):
  """The settings that differ from the run's own, e.g. 'flip_test=False,offset=none'."""
  words = {}
  for name, value in settings.items():
    if own.get(name, value) == value:
      continue
    if name in ('data', 'fingerprint'):
      words['data'] = f'data={settings["data"]}'
    elif name == 'detections':
      words[name] = f'detections={pathlib.Path(value).stem}' if value else 'annotated_boxes'
    elif name == 'metrics':
      words[name] = f'metrics={"+".join(value) or "default"}'
    else:
      words[name] = name if isinstance(value, list) else f'{name}={value}'
  return ','.join(re.sub(r'[^\w.=-]+', '_', word) for word in words.values())[:_NAME_LENGTH]
