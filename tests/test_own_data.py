"""A drawn mouse with seven keypoints, from the annotation file to the report, without code."""

import ast
import json
import logging
import math
import re
import shutil

import numpy as np
import pytest

import mrpose_jax
from configs import custom
from examples import mice
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax import skeletons
from mrpose_jax import train
from mrpose_jax import training_step
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.report import comparison
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import configuration
from mrpose_jax.weights import importing
from tests.helpers import tiny_run


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mice')
  mice.write(folder / 'source', {'train': 10, 'validation': 4})
  for file in (folder / 'source' / 'annotations').iterdir():  # COCO's person is 1, a mouse may be 3
    content = json.loads(file.read_text())
    for row in content['annotations']:
      row['category_id'] = 3
    content['categories'][0]['id'] = 3
    file.write_text(json.dumps(content))
  prepare.prepare('coco', folder / 'source', folder, train='train', validation='validation')
  return folder


def config_of(data_dir):
  config = custom.get_config('simple_baseline,width=4')
  config.data.data_dir = str(data_dir)
  config.train.update({'batch_size': 8, 'log_every': 1, 'epochs': 1.0})
  config.eval.update({'batch_size': 8, 'canvas': 160})
  return config


def test_names_make_the_skeleton(data_dir):
  skeleton = configuration.open_dataset(config_of(data_dir)).skeleton
  assert (skeleton.name, skeleton.num_keypoints) == ('mouse', 7)
  assert skeleton.flip_pairs == ((1, 2), (3, 4))
  assert skeleton.limbs[0] == (1, 0)
  assert [skeleton.side(k) for k in (0, 1, 4)] == ['middle', 'left', 'right']
  assert skeleton.sigmas == ()
  assert skeleton.suppression_sigmas == (skeletons.ESTIMATED_SIGMA,) * 7
  assert np.isclose(np.mean(skeletons.COCO.sigmas), skeletons.ESTIMATED_SIGMA, atol=5e-4)


def test_the_configuration_says_otherwise(data_dir):
  config = config_of(data_dir)
  config.data.sigmas = (0.02, 0.03, 0.03, 0.05, 0.05, 0.06, 0.09)
  config.data.flip_pairs = (('earL', 'earR'),)
  skeleton = configuration.open_dataset(config).skeleton
  assert skeleton.sigmas == config.data.sigmas
  assert skeleton.flip_pairs == ((1, 2),)
  config.data.sigmas = (0.1, 0.1)
  with pytest.raises(errors.ConfigError, match=r'data\.sigmas \(0\.1, 0\.1\): 7 positive numbers'):
    configuration.open_dataset(config)


def test_no_flip_pair_is_known(data_dir, tmp_path, caplog):
  """Mirroring and the flip test are off, unless the configuration sets them."""
  source = tmp_path / 'source'
  mice.write(source, {'train': 4, 'validation': 2})
  for file in (source / 'annotations').iterdir():
    content = json.loads(file.read_text())
    content['categories'][0]['keypoints'] = [str(i) for i in range(7)]
    file.write_text(json.dumps(content))
  prepare.prepare('coco', source, tmp_path, train='train', validation='validation')
  assert caplog.text.count("flip pairs of 'mouse': none; mirroring (augment.flip) and") == 2
  caplog.clear()
  config = config_of(tmp_path)
  skeleton = configuration.open_dataset(config).skeleton
  assert 'no flip pairs are known; mirroring (augment.flip) and the flip test' in caplog.text
  batch = batching.unpack(
    next(loader.train_batches(prepared_data.open_dataset('coco', tmp_path), 8, 0))
  )

  def num_mirrored(skeleton):
    augmentation = augment.Augmentation(**config.augment)
    examples_of = training_step.make_examples(predict.codec_of(config), augmentation, skeleton, 0)
    return sum(int(examples_of(step, batch).draws.flip.sum()) for step in range(4))

  assert num_mirrored(skeleton) == 0
  assert num_mirrored(skeletons.change(skeleton, [('1', '2')])) > 0
  config.augment.flip = 0.5
  assert num_mirrored(skeleton) > 0
  configuration.open_dataset(config)
  assert 'no flip pairs are known, although augment.flip=0.5: a mirrored crop keeps' in caplog.text
  caplog.clear()
  configuration.open_dataset(config_of(data_dir))
  assert 'flip' not in caplog.text


def test_pairs_that_prepared_data_lack_but_names_give(data_dir, tmp_path, caplog):
  folder = shutil.copytree(data_dir / 'coco', tmp_path / 'coco') / '1.0.0'
  metadata = json.loads((folder / 'metadata.json').read_text())
  metadata['skeleton']['flip_pairs'] = []
  (folder / 'metadata.json').write_text(json.dumps(metadata))
  config = config_of(tmp_path)
  assert configuration.open_dataset(config).skeleton.flip_pairs == ()
  told = next(line for line in caplog.messages if 'flip pairs' in line)
  assert 'no flip pairs are known; mirroring (augment.flip) and the flip test' in told
  assert 'The names give pairs, which data of an older preparation lack: prepare again' in told
  given = re.search(r'--config\.data\.flip_pairs="(.*)"', told)[1]
  config.data.flip_pairs = ast.literal_eval(given)
  expected = prepared_data.open_dataset('coco', data_dir).skeleton.flip_pairs
  assert configuration.open_dataset(config).skeleton.flip_pairs == expected


def test_from_fine_tuning_to_the_report(data_dir, tmp_path, caplog):
  start = tiny_run.write(tmp_path / 'coco_run')  # 17 keypoints
  config = config_of(data_dir)
  config.model.pretrained = str(start)
  workdir = tmp_path / 'mice_run'
  with caplog.at_level(logging.INFO, 'mrpose_jax'):
    metrics = train.train_and_evaluate(config, workdir)
  assert f'starting from step 0 of {start}, K = 17' in caplog.text
  assert (
    '2 tensors start fresh: params/decoder/head/bias, params/decoder/head/kernel' in caplog.text
  )
  # The category gives no sigmas, and no keypoint is called left_shoulder or right_hip.
  assert list(metrics) == ['PCK@0.2', 'EPE']
  assert 0 <= metrics['PCK@0.2'] <= 100 and metrics['EPE'] > 0
  assert "PCK@0.2: normalised by the box's longer side, because no keypoints are" in caplog.text
  step = checkpoint.Checkpoints(workdir).best_step()
  score = json.loads((workdir / 'checkpoints' / str(step) / 'score.json').read_text())
  assert score == {'score': metrics['PCK@0.2'], 'metric': 'PCK@0.2'}

  predictor = mrpose_jax.load_predictor(workdir)
  assert predictor.skeleton.keypoints == tuple(mice.CATEGORY['keypoints'])
  image = data_dir / 'source' / 'images' / 'validation' / '0.png'
  assert predictor(image).shape == (1, 7, 3)
  rows = json.loads(next((workdir / 'eval').glob('*/predictions.json')).read_text())
  assert len(rows[0]['keypoints']) == 21
  assert {row['category_id'] for row in rows} == {3}
  page = comparison.write([workdir], tmp_path / 'report', None, 1)
  text = page.read_text()
  assert 'mice_run' in text and 'By keypoint' in text and 'EPE (pixels)' in text

  # Other metrics of the same checkpoint, against the files that the evaluation writes.
  config = config_of(data_dir)
  config.data.sigmas = (0.1,) * 7
  config.eval.metrics = ('APL', 'EPE', 'PCK@0.1:box,NME', 'PCKh@0.5')
  config.eval.primary, config.eval.oks_threshold = 'NME', 1.0  # every person is kept
  caplog.clear()
  other = evaluate.evaluate(config, workdir)
  assert list(other) == ['APL', 'EPE', 'PCK@0.1:box', 'NME']
  assert 'PCKh@0.5 is left out' in caplog.text
  assert other['APL'] == -1
  assert 'nothing was measured for APL: the split annotates no such person' in caplog.text
  assert other['EPE'] == metrics['EPE']
  (folder,) = (workdir / 'eval').glob(f'{step}-*')
  assert folder.name.startswith(f'{step}-metrics=APL_EPE_PCK_0.1_box_NME_PCKh_0.5,')
  check_against_files(other, data_dir, folder)


def check_against_files(metrics, data_dir, folder):
  """EPE, PCK@0.1:box and NME in plain Python, for predictions in the order of the annotations."""
  file = data_dir / 'source' / 'annotations' / 'validation.json'
  annotations = json.loads(file.read_text())['annotations']
  rows = json.loads((folder / 'predictions.json').read_text())
  distances, correct, shares = [], [], []
  for annotation in annotations:
    *_, width, height = annotation['bbox']
    people = [row for row in rows if row['image_id'] == annotation['image_id']]
    same = [a['id'] for a in annotations if a['image_id'] == annotation['image_id']]
    person = people[same.index(annotation['id'])]
    for k in range(7):
      point, truth = (r['keypoints'][3 * k : 3 * k + 2] for r in (person, annotation))
      distances.append(math.dist(point, truth))
      correct.append(distances[-1] <= 0.1 * max(width, height))
      shares.append(distances[-1] / math.sqrt(width * height))
  assert metrics['EPE'] == pytest.approx(np.mean(distances), abs=1e-3)
  assert metrics['PCK@0.1:box'] == pytest.approx(100 * np.mean(correct))
  assert metrics['NME'] == pytest.approx(100 * np.mean(shares), abs=1e-3)


def test_metrics_that_do_not_exist_are_refused_before_anything_else(data_dir, tmp_path):
  for names, primary, message in (
    (('PKC@0.2',), '', r"there is no metric 'PKC@0\.2'; possible: AP, AP50"),
    (('AP',), '', r'eval\.metrics=AP: not computed .* no OKS sigmas \(see data\.sigmas\)'),
    ((), 'AP', r"eval\.primary='AP': not computed for"),
    (('EPE',), 'AP', r"eval\.primary='AP': is not among eval\.metrics=EPE"),
  ):
    config = config_of(data_dir)
    config.eval.metrics, config.eval.primary = names, primary
    with pytest.raises(errors.ConfigError, match=message) as raised:
      train.train_and_evaluate(config, tmp_path / 'run')
    assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()


def test_data_that_an_older_version_prepared(data_dir, tmp_path):
  """It stored the mean of COCO's sigmas where a category gives none."""
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  (folder,) = (tmp_path / 'coco').glob('1.*')
  for file in folder.glob('*.json'):
    content = json.loads(file.read_text())
    part = content['skeleton'] if file.name == 'metadata.json' else None
    part = content['categories'][0] if 'categories' in content else part
    if part:
      part['sigmas'] = [0.067] * 7
      file.write_text(json.dumps(content))
  assert json.loads((folder / 'metadata.json').read_text())['skeleton']['sigmas'] == [0.067] * 7
  dataset = configuration.open_dataset(config_of(tmp_path))
  assert dataset.skeleton.sigmas == ()
  sets = {'train': 'train', 'validation': 'validation'}
  report = prepare.prepare('coco', data_dir / 'source', tmp_path, **sets)
  assert 'was prepared before and stays as it is' in report


def test_pretrained_runs_that_do_not_fit(tmp_path):
  start = tiny_run.write(tmp_path / 'run')
  model = mrpose_jax.create_model('mrheatnet1', depth=18, num_keypoints=7, width=4)
  with pytest.raises(
    errors.CheckpointError, match="network is 'simple_baseline', not 'mrheatnet1'"
  ):
    importing.pretrained(str(start), model, 'rgb')
  model = mrpose_jax.create_model('simple_baseline', depth=18, num_keypoints=17, width=4)
  with pytest.raises(errors.ConfigError, match=r'set --config\.model\.channel_order=rgb'):
    importing.pretrained(str(start), model, 'bgr')
  with pytest.raises(errors.CheckpointError, match='no checkpoints here'):
    importing.pretrained(str(tmp_path), model, 'rgb')


def test_the_same_keypoints_keep_the_head(tmp_path):
  start = tiny_run.write(tmp_path / 'run')
  model = mrpose_jax.create_model('simple_baseline', depth=18, num_keypoints=17, width=4)
  variables = importing.pretrained(str(start), model, 'rgb')
  head = predictors.restore(start)[0]['params']['decoder']['head']['kernel']
  np.testing.assert_array_equal(variables['params']['decoder']['head']['kernel'], head)


def test_all_images_in_one_folder(data_dir, tmp_path):
  content = json.loads((data_dir / 'source' / 'annotations' / 'validation.json').read_text())
  for image in content['images']:
    image['file_name'] = f'validation/{image["file_name"]}'
  content['categories'][0] |= {'sigmas': [0.05] * 7, 'flip_pairs': [['pawL', 'pawR']]}
  (tmp_path / 'annotations').mkdir()
  (tmp_path / 'annotations' / 'mine.json').write_text(json.dumps(content))
  (tmp_path / 'images').symlink_to(data_dir / 'source' / 'images')
  report = prepare.prepare('coco', tmp_path, tmp_path / 'data', train='', validation='mine')
  assert 'in 4 images' in report
  skeleton = prepared_data.open_dataset('coco', tmp_path / 'data').skeleton
  assert skeleton.sigmas == (0.05,) * 7
  assert skeleton.flip_pairs == ((3, 4),)


def test_another_aspect(data_dir, tmp_path):
  config = config_of(data_dir)
  config.data.image_size = (64, 64)
  with pytest.raises(errors.ConfigError, match=r'prepare it again, .* --aspect=1 .* --overwrite'):
    configuration.open_dataset(config)
  sets = {'train': 'train', 'validation': 'validation'}
  prepare.prepare('coco', data_dir / 'source', tmp_path, **sets, aspect=1.0)
  config.data.data_dir = str(tmp_path)
  dataset = configuration.open_dataset(config)
  assert dataset.crops['aspect'] == 1
  assert dataset.category_ids == [3]


def test_augmentation_matters_to_training_alone(data_dir):
  """Evaluation reads whole images, however the training patches were cut."""
  config = config_of(data_dir)
  config.augment.shift = 0.3
  dataset = configuration.open_dataset(config)
  with pytest.raises(errors.ConfigError, match=r'cut for smaller crops .* --shift=0.3 --overwrite'):
    configuration.open_mix(config, dataset)


def test_small_patches_for_large_crops(data_dir, caplog):
  config = config_of(data_dir)
  dataset = configuration.open_dataset(config)
  configuration.open_mix(config, dataset)
  assert 'are blurred' not in caplog.text
  config.data.image_size = (512, 384)
  configuration.open_mix(config, dataset)
  assert 'sides of 512 pixels at most, so crops of 512 x 384 are blurred; ' in caplog.text
  assert '--canvas=896 --scale=0.4 --shift=0 --overwrite' in caplog.text


def test_drawn_people_that_were_prepared_otherwise_stay(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, 'prepare', None)
  shutil.copytree(data_dir / 'coco', tmp_path / 'synthetic_people')
  config = config_of(tmp_path)
  config.data.name = 'synthetic_people'
  assert configuration.open_dataset(config).kind == 'synthetic_people'
