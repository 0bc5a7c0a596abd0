"""Every configuration builds, and every field is read somewhere and has a comment."""

import dataclasses
import itertools
import pathlib
import re

import pytest

from configs import coco
from configs import coco_strong
from configs import custom
from configs import lsp
from configs import mpii
from configs import quickstart
from mrpose_jax import defaults
from mrpose_jax import errors
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.models import decoders

ROOT = pathlib.Path(__file__).parents[2]


def fields(config):
  return [
    f'{section}.{name}'
    for section, values in config.to_dict().items()
    if isinstance(values, dict)
    for name in values
  ]


@pytest.mark.parametrize('module', [coco, coco_strong, custom, lsp, mpii, quickstart])
def test_each_configuration_has_the_same_fields(module):
  assert fields(module.get_config()) == fields(defaults.get_config())


@pytest.mark.parametrize('network', decoders.DECODERS)
def test_network_and_depth_by_argument(network):
  for module in (coco, mpii):
    config = module.get_config(f'{network},depth=101')
    assert (config.model.network, config.model.depth) == (network, 101)


def test_the_papers_recipes():
  """Section IV: Adam, batch 64, 1e-3 with two drops; 256x192 and 256x256."""
  for config, size, epochs, drops, scale in (
    (coco.get_config(), (256, 192), 170, (120, 150), 0.4),
    (mpii.get_config(), (256, 256), 140, (90, 120), 0.25),
  ):
    assert tuple(config.data.image_size) == size
    assert config.train.batch_size == 64
    assert config.train.learning_rate == 1e-3
    assert (config.train.epochs, config.train.drop_epochs) == (epochs, drops)
    assert config.train.drop_factor == 0.1
    assert (config.augment.rotation, config.augment.scale) == (30, scale)
    assert config.data.sigma == 2


def test_the_papers_configurations_have_no_part_of_a_stronger_recipe():
  """configs/coco.py and mpii.py change nothing but size, augmentation and schedule."""
  default = defaults.get_config()
  assert default.data.codec == 'paper'
  assert (default.train.optimizer, default.train.schedule) == ('adam', 'piecewise')
  off = ('shift', 'half_body', 'brightness', 'contrast', 'saturation', 'hue', 'dropout')
  assert not any(default.augment[name] for name in (*off, 'scale_range'))
  off = ('warmup_epochs', 'gradient_clip', 'hard_keypoints', 'ema')
  assert not any(default.train[name] for name in off)
  for config in (coco.get_config(), mpii.get_config()):
    changed = {
      f'{section}.{name}'
      for section in ('model', 'data', 'augment', 'train', 'eval')
      for name, value in config[section].items()
      if value != default[section][name]
    }
    allowed = 'model.network augment.scale data.name data.image_size train.epochs train.drop_epochs'
    assert changed <= {*allowed.split(), 'eval.canvas'}


def test_the_strong_recipe_at_two_sizes():
  large = coco_strong.get_config('depth=101,size=384x288')
  assert (large.model.depth, large.data.image_size, large.data.sigma) == (101, (384, 288), 3.0)
  assert coco_strong.get_config().data.image_size == (256, 192)
  with pytest.raises(errors.ConfigError, match='size=big: give HEIGHTxWIDTH'):
    coco_strong.get_config('size=big')
  with pytest.raises(errors.ConfigError, match="unknown recipe 'strongest': use one of strong"):
    lsp.get_config('recipe=strongest')


def test_the_released_recipe():
  config = coco.get_config('mrfeanet2,recipe=released').augment
  assert (config.rotation, config.scale, config.draw) == (40, 0.3, 'normal')
  config = mpii.get_config('recipe=released').augment
  assert (config.rotation, config.scale, config.draw) == (30, 0.25, 'normal')


def test_a_key_that_nothing_reads_is_a_bug():
  files = set((ROOT / 'mrpose_jax').rglob('*.py')) - {ROOT / 'mrpose_jax' / 'defaults.py'}
  source = '\n'.join(path.read_text() for path in files)
  unpacked = {f'augment.{field.name}' for field in dataclasses.fields(augment.Augmentation)}
  for field in fields(defaults.get_config()):
    assert field in unpacked or re.search(rf'\b{re.escape(field)}\b', source), field


def test_every_field_has_its_comment():
  lines = (ROOT / 'mrpose_jax' / 'defaults.py').read_text().splitlines()
  for before, line in itertools.pairwise(lines):
    if re.match(r'  config\.[\w.]+ = (?!ml_collections)', line):
      assert before.lstrip().startswith('#'), line


def test_wrong_arguments():
  with pytest.raises(errors.ConfigError, match="did you mean 'depth'"):
    coco.get_config('dpeth=50')
  with pytest.raises(errors.ConfigError, match='depth=fifty: not of type int'):
    coco.get_config('depth=fifty')
  with pytest.raises(errors.ConfigError, match='unknown recipe'):
    mpii.get_config('recipe=mine')
