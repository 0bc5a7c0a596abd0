"""The model card, and what a published folder must not tell."""

import json
import pathlib

import huggingface_hub
import pytest

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import predictors
from mrpose_jax.weights import published
from mrpose_jax.weights import publishing
from tests.helpers import tiny_run

METRICS = {'AP': 0.7, 'AP50': 0.9, 'APM': -1.0, 'AR': 0.75}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  workdir = tiny_run.write(tmp_path_factory.mktemp('runs') / 'run')
  (workdir / 'eval' / '0').mkdir(parents=True)
  paths.write_json(workdir / 'eval' / '0' / 'metrics.json', METRICS)
  settings = {'detections': '/home/somebody/coco/detections.json'}
  paths.write_json(workdir / 'eval' / '0' / 'settings.json', settings)
  return workdir


@pytest.fixture(scope='module')
def restored(workdir):
  return predictors.restore(workdir)


@pytest.fixture
def of_training(restored, monkeypatch):
  """Lets `publish` find a trained run whose fields name files of somebody's machine."""
  variables, meta, step = restored
  meta = json.loads(json.dumps(meta)) | {'iterator': {'seed': 0, 'dataset': 'somebody'}}
  config = meta['config']
  config['data'] |= {'data_dir': '/home/somebody/data', 'later_field': '~somebody/masks'}
  config['data']['mix'] = [['coco', '/home/somebody/coco', 3.0], ['mpii', 'somebody', 1.0]]
  config['eval']['detections'] = 'C:\\Users\\somebody\\boxes.json'
  config['model']['pretrained'] = '/home/somebody/resnet50.pth'
  config['train']['wandb'] = 'somebody'
  monkeypatch.setattr(predictors, 'restore', lambda workdir: (variables, meta, step))


def test_nothing_about_the_machine(workdir, of_training, tmp_path):
  publishing.publish(workdir, tmp_path / 'net')
  for name in published.FILES:
    content = (tmp_path / 'net' / name).read_bytes()
    assert b'somebody' not in content, name
    assert str(tmp_path).encode() not in content, name
  config = json.loads((tmp_path / 'net' / 'config.json').read_text())['config']
  assert config['data']['data_dir'] == 'runs/data'
  assert config['data']['later_field'] == ''
  assert config['data']['mix'] == []
  assert config['eval']['detections'] == config['model']['pretrained'] == ''
  assert config['train']['wandb'] == ''


def test_card_of_a_trained_network(workdir, of_training, tmp_path):
  publishing.publish(workdir, tmp_path / 'net')
  card = huggingface_hub.ModelCard.load(tmp_path / 'net' / 'README.md')
  data = card.data.to_dict()
  assert data['library_name'] == 'mrpose_jax'
  assert data['pipeline_tag'] == 'keypoint-detection'
  assert data['license'] == 'unknown'
  assert 'pose-estimation' in data['tags']
  measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
  assert measured == {'AP': 0.7, 'AP50': 0.9, 'AR': 0.75}  # nothing was measured for APM
  assert card.data.eval_results[0].dataset_name == 'coco'
  assert card.data.model_name == 'net'
  text = card.text
  assert '| | AP | AP50 | AR |' in text
  assert '| simple_baseline | 70.0 | 90.0 | 75.0 |' in text
  assert 'with the detected boxes of detections.json' in text
  assert 'on coco (weight 3), mpii (weight 1). Initial weights: resnet50.pth.' in text
  assert '| `train.learning_rate` | `0.001` |' in text
  assert 'nose, left_eye' in text
  assert "load_predictor('hf://OWNER/net')" in text
  assert 'Tran, Trung Q.' in text


def test_card_of_imported_weights_claims_no_training(workdir, tmp_path):
  publishing.publish(workdir, tmp_path / 'net')
  text = (tmp_path / 'net' / 'README.md').read_text()
  assert 'Weights that were imported.' in text
  assert 'train.learning_rate' not in text


def test_card_without_evaluation(tmp_path):
  workdir = tiny_run.write(tmp_path / 'run')
  publishing.publish(workdir, tmp_path / 'net')
  text = (tmp_path / 'net' / 'README.md').read_text()
  assert 'This checkpoint was not evaluated.' in text
  assert 'model-index' not in text
  # The folder of one checkpoint names the same network.
  publishing.publish(workdir / 'checkpoints' / '0', tmp_path / 'net')
  assert (tmp_path / 'net' / 'README.md').read_text() == text


def test_what_cannot_be_published(workdir, tmp_path):
  publishing.publish(workdir, tmp_path / 'net')
  for source in (tmp_path / 'net', 'hf://owner/net'):
    with pytest.raises(errors.ConfigError, match='is published already'):
      publishing.publish(source, tmp_path / 'other')
  with pytest.raises(errors.ConfigError, match='`hf upload owner/net FOLDER`'):
    publishing.publish(workdir, 'hf://owner/net')
  with pytest.raises(errors.CheckpointError, match='no checkpoints here'):
    publishing.publish(tmp_path, tmp_path / 'other')
  assert not pathlib.Path(tmp_path / 'other').exists()
