import shlex

from configs import quickstart
from mrpose_jax import defaults
from mrpose_jax.runtime import show
from tests.runtime import test_configs


def test_each_field_with_its_value_under_its_comment():
  config = quickstart.get_config('mrheatnet1')
  lines = show.show(config).splitlines()
  comment = '# Random seed for initialisation, shuffling and augmentation.'
  assert lines[:2] == [comment, '--config.seed=0']
  flags = [line for line in lines if line.lstrip("'").startswith('--config.')]
  names = [shlex.split(flag)[0].split('=')[0].removeprefix('--config.') for flag in flags]
  assert sorted(names) == sorted(['seed', *test_configs.fields(defaults.get_config())])
  assert '--config.model.network=mrheatnet1' in flags
  assert "'--config.data.image_size=(128, 96)'" in flags
  for flag in flags:
    above = lines[lines.index(flag) - 1]
    assert above.startswith('# ') and len(above) > 3, flag


def test_comments_of_several_lines_are_joined():
  text = show.show(defaults.get_config())
  assert '() keeps those of the prepared data.\n' in text
