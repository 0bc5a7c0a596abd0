"""A few drawn people, prepared once a test session, and the smallest configuration for them."""

import functools
import pathlib
import tempfile

from configs import custom
from input_pipeline import prepare
from input_pipeline.datasets.synthetic import synthetic_people


@functools.cache
def data_dir() -> pathlib.Path:
  """Folder with data set 'coco': 12 images to train on, 5 to validate on."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='tiny_people_'))
  source = folder / 'source'
  synthetic_people.write_coco(source, 'train', 12, seed=0, processes=1)
  synthetic_people.write_coco(source, 'validation', 5, seed=0, processes=1)
  prepare.prepare('coco', source, folder, train='train', validation='validation', canvas=160)
  return folder


def config(**train):
  """simple_baseline on ResNet-18, width 4, 128x96, 8 people a step; `train` overrides."""
  made = custom.get_config('simple_baseline,width=4')
  made.data.data_dir = str(data_dir())
  made.train.update({'batch_size': 8, 'log_every': 2, 'evaluate_every': 1.0, **train})
  made.train.update({'epochs': made.train.epochs if 'epochs' in train else 2.0})
  made.eval.batch_size = 8
  made.eval.canvas = 384
  return made
