"""The folder of a published network: round trip, damage, and what may be replaced."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

import mrpose_jax
from configs import custom
from mrpose_jax import errors
from mrpose_jax import predictors
from mrpose_jax.weights import importing
from mrpose_jax.weights import published
from mrpose_jax.weights import publishing
from tests.helpers import tiny_run


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.write(tmp_path_factory.mktemp('runs') / 'run', 'mrfeanet2')


@pytest.fixture(scope='module')
def original(workdir, tmp_path_factory):
  folder = tmp_path_factory.mktemp('published') / 'new' / 'mrfeanet2_tiny'
  publishing.publish(workdir, folder)
  return folder


@pytest.fixture
def folder(original, tmp_path):
  return pathlib.Path(shutil.copytree(original, tmp_path / 'copy'))


def assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_round_trip_to_the_bit(workdir, folder):
  variables, meta, step = predictors.restore(workdir)
  variables_back, meta_back, step_back = predictors.restore(folder)
  assert_same_bits(variables_back, variables)
  assert step_back == step == 0
  for name in ('skeleton', 'crops'):
    assert meta_back[name] == meta[name]
  assert meta_back['config'] == meta['config']


def test_predictor_and_initial_weights(workdir, folder):
  of_run, of_folder = (mrpose_jax.load_predictor(source) for source in (workdir, str(folder)))
  assert_same_bits(of_folder.variables, of_run.variables)
  assert of_folder.skeleton == of_run.skeleton
  assert of_folder.crops == of_run.crops == {'aspect': 1.0, 'padding': 1.25}
  model = mrpose_jax.create_model('mrfeanet2', 18, num_keypoints=17, width=4)
  starts = [importing.pretrained(str(source), model, 'rgb') for source in (workdir, folder)]
  assert_same_bits(*starts)


def test_there_is_no_choice_of_variables(folder):
  with pytest.raises(errors.CheckpointError, match='holds one set of variables; leave out ema=Tr'):
    predictors.restore(folder, ema=True)


def test_becomes_a_workdir_again(folder, tmp_path):
  """For example to evaluate it."""
  config = custom.get_config('mrfeanet2,width=4')
  config.data.image_size = (64, 64)
  importing.import_weights(config, str(folder), tmp_path / 'run')
  (variables, meta, _), (expected, expected_meta, _) = map(
    predictors.restore, (tmp_path / 'run', folder)
  )
  assert_same_bits(variables, expected)
  assert meta['skeleton'] == expected_meta['skeleton']
  assert meta['crops'] == expected_meta['crops']
  config = custom.get_config('mrheatnet1,width=4')
  with pytest.raises(errors.CheckpointError, match="network is 'mrfeanet2' in"):
    importing.import_weights(config, str(folder), tmp_path / 'other')
  assert not (tmp_path / 'other').exists()


def test_files(folder):
  assert sorted(path.name for path in folder.iterdir()) == sorted(published.FILES)
  assert not folder.with_name(f'.{folder.name}.partial').exists()
  arrays = safetensors.load_file(folder / 'model.safetensors')
  assert arrays['params.encoder.stem_conv.kernel'].shape == (7, 7, 3, 4)
  assert arrays['batch_stats.decoder.c5_up1.norm.mean'].dtype == np.float32
  config = json.loads((folder / 'config.json').read_text())
  assert (config['format'], config['format_version']) == ('mrpose_jax', 1)
  assert config['skeleton']['keypoints'][0] == 'nose'


def damage_weights(folder):
  file = folder / 'model.safetensors'
  content = bytearray(file.read_bytes())
  content[-1] ^= 1
  file.write_bytes(content)


def cut_weights(folder):
  file = folder / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:1000])


def change_config(folder, **fields):
  file = folder / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def change_network(folder):
  config = json.loads((folder / 'config.json').read_text())['config']
  config['model']['width'] = 8
  change_config(folder, config=config)


@pytest.mark.parametrize(
  'damage, message',
  [
    (damage_weights, r'model\.safetensors: damaged or not completely downloaded'),
    (cut_weights, r'model\.safetensors: damaged or not completely downloaded'),
    (lambda f: (f / 'model.safetensors').unlink(), r'model\.safetensors: cannot be read'),
    (lambda f: (f / 'config.json').unlink(), r'config\.json: cannot be read'),
    (lambda f: (f / 'config.json').write_text('{'), r'config\.json: cannot be read'),
    (lambda f: (f / 'config.json').write_text('[]'), r'config\.json: was not written by'),
    (lambda f: change_config(f, format='x'), r'config\.json: was not written by --mode=publish'),
    (lambda f: change_config(f, format_version=2), r'has format 2, .* reads 1; update mrpose_jax'),
    (lambda f: change_config(f, sha256={}), r"config\.json: damaged \(KeyError: 'model\.safe"),
    (lambda f: change_config(f, config=3), r'config\.json: damaged'),
    (lambda f: change_config(f, skeleton={'name': 'x'}), r"damaged \(KeyError: 'keypoints'\)"),
    (change_network, r'belongs to another network than config\.json: .* is \(.*\), not \('),
  ],
)
def test_damage_is_one_line(folder, damage, message):
  damage(folder)
  with pytest.raises(errors.CheckpointError, match=message) as raised:
    predictors.restore(folder)
  assert '\n' not in str(raised.value)


def test_replaces_its_own_folder(workdir, folder):
  before = (folder / 'model.safetensors').read_bytes()
  damage_weights(folder)
  (folder / '.gitattributes').write_text('kept')
  publishing.publish(workdir, folder)
  assert (folder / 'model.safetensors').read_bytes() == before
  assert (folder / '.gitattributes').read_text() == 'kept'
  predictors.restore(folder)


def test_overwrites_nothing_else(workdir, folder, tmp_path):
  card = folder / 'README.md'
  card.write_text(card.read_text().replace('unknown', 'apache-2.0'))
  before = card.read_text()
  with pytest.raises(errors.ConfigError, match=r'README\.md: was edited since'):
    publishing.publish(workdir, folder)
  assert card.read_text() == before

  mine = tmp_path / 'mine'
  mine.mkdir()
  (mine / 'config.json').write_text('{}')
  with pytest.raises(errors.ConfigError, match=r'mine: holds other files \(config\.json\)'):
    publishing.publish(workdir, mine)
  assert [path.name for path in mine.iterdir()] == ['config.json']
  with pytest.raises(errors.ConfigError, match='holds other files'):
    publishing.publish(workdir, workdir)
  with pytest.raises(errors.ConfigError, match='cannot be written'):
    publishing.publish(workdir, mine / 'config.json' / 'x')
  with pytest.raises(errors.ConfigError, match='cannot be written'):
    publishing.publish(workdir, mine / 'config.json')


def test_an_empty_folder_is_used(workdir, tmp_path):
  (tmp_path / 'empty').mkdir()
  publishing.publish(workdir, tmp_path / 'empty')
  assert published.is_published(tmp_path / 'empty')


def test_a_workdir_is_not_published(workdir, tmp_path):
  assert not published.is_published(workdir)
  assert not published.is_published(tmp_path / 'missing')
