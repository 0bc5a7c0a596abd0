"""A few drawn people, prepared once per test session, and the smallest configuration for them."""

import functools
import pathlib
import tempfile

from configs import custom
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people


@functools.cache
def data_dir() -> pathlib.Path:
  """Folder with a data set 'coco' of 12 training images and 5 validation images."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='tiny_people_'))
  source = folder / 'source'
  synthetic_people.write_coco(source, 'train', 12, seed=0, processes=1)
  synthetic_people.write_coco(source, 'validation', 5, seed=0, processes=1)
  prepare.prepare('coco', source, folder, train='train', validation='validation', canvas=160)
  return folder


def config(**train):
  """simple_baseline of width 4, 8 people per step; `train` overrides fields of config.train."""
  made = custom.get_config('simple_baseline,width=4')
  made.data.data_dir = str(data_dir())
  made.train.update({'batch_size': 8, 'log_every': 2, 'evaluate_every': 1.0, **train})
  made.train.update({'epochs': made.train.epochs if 'epochs' in train else 2.0})
  made.eval.batch_size = 8
  made.eval.canvas = 384
  return made


def strong_config(**train):
  """`config` with every part of a stronger recipe that the patches of these people allow."""
  made = config(
    **{
      'optimizer': 'adamw',
      'schedule': 'cosine',
      'warmup_epochs': 0.5,
      'gradient_clip': 0.01,
      'hard_keypoints': 8,
      'ema': 0.9,
      **train,
    }
  )
  made.data.codec = 'udp'
  made.augment.update({'rotation_probability': 0.6, 'hue': 0.1, 'dropout': 0.5})
  made.augment.scale_range = (0.5, 1.25)
  made.eval.scales = (1.0, 1.2)
  return made
