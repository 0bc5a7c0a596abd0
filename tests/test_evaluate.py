"""Evaluation of imported weights, with detections, on test sets and on MPII."""

import errno
import json
import os
import zipfile

import jax
import numpy as np
import pytest
import scipy.io
from PIL import Image

import mrpose_jax
from configs import custom
from configs import mpii as mpii_config
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import paths
from mrpose_jax import train
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.report import comparison
from mrpose_jax.runtime import checkpoint
from mrpose_jax.weights import importing
from mrpose_jax.weights import torch_files
from tests.helpers import shared_data
from tests.helpers import tiny_people

# Joint names, in the order of gt_valid.mat.
MAT_JOINTS = (
  *('rank', 'rkne', 'rhip', 'lhip', 'lkne', 'lank', 'pelv', 'thor', 'neck', 'head'),
  *('rwri', 'relb', 'rsho', 'lsho', 'lelb', 'lwri'),
)


def random_weights(config, num_keypoints):
  """Random PyTorch state dict for the configuration's network."""
  model = mrpose_jax.create_model(
    config.model.network, config.model.depth, num_keypoints, width=config.model.width
  )
  variables = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
  )
  r = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: r.uniform(0.05, 0.2, x.shape).astype(np.float32), variables)
  return mrpose_jax.export_torch_weights(variables, model)


def test_imported_weights_evaluate_predict_and_train(tmp_path, capsys):
  config = tiny_people.config(epochs=0.7)
  weights = random_weights(config, 17)
  workdir = tmp_path / 'run'
  importing.import_weights(config, weights, workdir)
  assert config.model.channel_order == 'bgr'
  assert json.loads((workdir / 'config.json').read_text())['model']['channel_order'] == 'bgr'
  predictor = mrpose_jax.load_predictor(workdir)
  assert predictor.step == 0
  image = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
  assert predictor(image).shape == (1, 17, 3)
  config = tiny_people.config(epochs=0.7)  # its rgb is replaced by the weights' bgr
  evaluate.evaluate(config, workdir)
  assert config.model.channel_order == 'bgr'
  assert 'simple_baseline, step 0' in capsys.readouterr().out
  with pytest.raises(errors.CheckpointError, match='holds a run already'):
    importing.import_weights(config, weights, workdir)

  train.train_and_evaluate(config, workdir)
  assert checkpoint.Checkpoints(workdir).latest_step() > 0


def test_evaluations_with_other_settings_are_kept_apart(tmp_path, caplog):
  """The same settings give the same folder; the report names every evaluation of the checkpoint."""
  workdir = tmp_path / 'run'
  importing.import_weights(tiny_people.config(), random_weights(tiny_people.config(), 17), workdir)

  def evaluated(**settings):
    """Evaluates with these settings of `eval`; returns the folders and their metrics."""
    config = tiny_people.config()
    config.eval.update(settings)
    evaluate.evaluate(config, workdir)
    files = sorted((workdir / 'eval').glob('*/metrics.json'))
    return {file.parent.name: file.read_text() for file in files}

  def write_boxes(file, size):
    boxes = [
      {'image_id': image_id, 'category_id': 1, 'bbox': [5, 5, size, size], 'score': 0.9}
      for image_id in dataset.people_of_images
    ]
    file.parent.mkdir()
    file.write_text(json.dumps(boxes))
    return str(file)

  dataset = prepared_data.open_dataset('coco', tiny_people.data_dir())
  first = write_boxes(tmp_path / 'first' / 'boxes.json', 60)
  second = write_boxes(tmp_path / 'second' / 'boxes.json', 90)
  assert list(evaluated()) == ['0']
  names = ['0']
  for settings, name in (
    ({'detections': first}, '0-detections=boxes'),
    ({'detections': second}, '0-detections=boxes-2'),
    ({'flip_test': False, 'offset': 'none'}, '0-flip_test=False,offset=none'),
    ({'flip_test': True}, ''),  # what None means for these data
    ({'offset': 'quarter'}, ''),  # what None means for this codec
    ({'detections': first}, ''),
  ):
    before = {file: file.read_bytes() for file in workdir.glob('eval/*/*.json')}
    found = evaluated(**settings)
    names += [name] if name else []
    assert list(found) == sorted(names)
    for file, content in before.items():
      assert file.read_bytes() == content, file
  assert list(evaluated(batch_size=4)) == sorted(names)  # not a setting that the result depends on
  settings = json.loads((workdir / 'eval' / '0-detections=boxes-2' / 'settings.json').read_text())
  assert settings['detections'] == second

  run = comparison.read_run(workdir)
  assert run.folder.name == '0'
  _, rows = comparison.make_table([run])
  assert [row.cells[4] for row in rows if row.kind == 'ours'] == [
    'ours',
    'ours, detected boxes, detections=boxes',
    'ours, detected boxes, detections=boxes-2',
    'ours, flip_test=False,offset=none',
  ]


def test_the_numbers_are_printed_before_a_read_only_workdir_ends_the_evaluation(
  tmp_path, monkeypatch, capsys
):
  config = tiny_people.config()
  importing.import_weights(config, random_weights(config, 17), tmp_path / 'run')

  def read_only(folder):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

  monkeypatch.setattr(paths, 'staged', read_only)
  with pytest.raises(OSError, match='Read-only file system'):
    evaluate.evaluate(config, tmp_path / 'run')
  assert f'| {config.model.network}, step 0 |' in capsys.readouterr().out


def test_channel_order_follows_from_the_kind_of_file():
  assert torch_files.channel_order_of({'conv1.weight': 0, 'final_layer.bias': 0}) == 'bgr'
  assert (
    torch_files.channel_order_of({'backbone.conv1.weight': 0, 'head.final_layer.b': 0}) == 'rgb'
  )
  assert torch_files.channel_order_of({'conv1.weight': 0, 'fc.weight': 0}) == 'rgb'


def test_a_coco_test_set_gives_the_file_that_its_server_takes(tmp_path, capsys):
  source = tmp_path / 'coco'
  (source / 'annotations').mkdir(parents=True)
  (source / 'test2017').mkdir()
  r = np.random.default_rng(0)
  names = ['000000000001.jpg', '000000000002.jpg']
  for name in names:
    Image.fromarray(r.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(
      source / 'test2017' / name
    )
  info = {
    'images': [
      {'id': i + 1, 'file_name': name, 'width': 60, 'height': 40} for i, name in enumerate(names)
    ],
    'categories': [{'id': 1, 'name': 'person'}, {'id': 2, 'name': 'bicycle'}],
  }
  (source / 'annotations' / 'image_info_test-dev2017.json').write_text(json.dumps(info))
  box = {'category_id': 1, 'bbox': [5, 5, 20, 30], 'score': 0.9}
  detections = [{'image_id': 2, **box}, {'image_id': 1, **box}, {'image_id': 9, **box}]
  detections += [{'image_id': 1, **box, 'category_id': 2}, {'image_id': 1, **box, 'score': 0.01}]
  (tmp_path / 'detections.json').write_text(json.dumps(detections))
  with pytest.raises(errors.DataError, match='a test set cannot be trained on'):
    prepare.prepare('coco', source, tmp_path / 'data', train='test-dev2017', validation='')
  prepare.prepare('coco', source, tmp_path / 'data', train='', validation='test-dev2017')

  config = tiny_people.config()
  config.data.data_dir = str(tmp_path / 'data')
  config.eval.detections = str(tmp_path / 'detections.json')
  config.eval.detection_threshold = 0.05
  config.eval.keypoint_threshold = 0.0
  workdir = tmp_path / 'run'
  importing.import_weights(config, random_weights(config, 17), workdir)
  assert evaluate.evaluate(config, workdir) == {}
  assert 'a test set' in capsys.readouterr().out
  name = 'person_keypoints_test-dev2017_mrpose_results'
  with zipfile.ZipFile(workdir / 'eval' / '0' / f'{name}.zip') as archive:
    assert archive.namelist() == [f'{name}.json']
    people = json.loads(archive.read(f'{name}.json'))
  assert sorted(person['image_id'] for person in people) == [1, 2]
  assert all(
    person.keys() == {'image_id', 'category_id', 'keypoints', 'score'} for person in people
  )
  with pytest.raises(errors.DataError, match='no split'):
    train.train_and_evaluate(config, tmp_path / 'other')


def test_mpii_trains_and_evaluates_in_the_benchmarks_form(tmp_path, capsys):
  """Four people on random images, with a ground truth file in the benchmark's layout."""
  source = tmp_path / 'mpii'
  (source / 'annot').mkdir(parents=True)
  (source / 'images').mkdir()
  r = np.random.default_rng(0)
  rows, joints = [], r.uniform(20, 180, (4, 16, 2))
  for i in range(4):
    name = f'{i // 2}.jpg'  # two people per image
    Image.fromarray(r.integers(0, 256, (200, 210, 3), dtype=np.uint8)).save(
      source / 'images' / name
    )
    rows.append(
      {
        'image': name,
        'center': [100.0, 90.0],
        'scale': 0.8,
        'joints': joints[i].tolist(),
        'joints_vis': [1] * 16,
      }
    )
  for split in ('train', 'valid'):
    (source / 'annot' / f'{split}.json').write_text(json.dumps(rows))
  truth = {
    'dataset_joints': np.array([MAT_JOINTS], dtype=object),
    'jnt_missing': np.zeros((16, 4)),
    'pos_gt_src': joints.transpose(1, 2, 0),
    'headboxes_src': np.array([[[10.0] * 4, [10.0] * 4], [[40.0] * 4, [50.0] * 4]]),
  }
  scipy.io.savemat(source / 'annot' / 'gt_valid.mat', truth)
  prepare.prepare('mpii', source, tmp_path / 'data', canvas=160)

  config = mpii_config.get_config('simple_baseline,depth=18')
  config.model.width = 4
  config.data.data_dir = str(tmp_path / 'data')
  config.data.image_size = (64, 64)
  config.train.update({'batch_size': 4, 'epochs': 1.0, 'evaluate_every': 1.0})
  config.eval.batch_size = 4
  config.eval.canvas = 224
  metrics = train.train_and_evaluate(config, tmp_path / 'run')
  assert list(metrics) == [
    *('Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle', 'Mean'),
    *('Mean@0.1', 'Mean@0.11', 'PCK@0.2'),
  ]
  step = next((tmp_path / 'run' / 'eval').iterdir())
  predictions = scipy.io.loadmat(step / 'pred.mat')['preds']
  assert predictions.shape == (4, 16, 2)
  people = json.loads((step / 'predictions.json').read_text())
  np.testing.assert_allclose(
    predictions[3] - 1, np.reshape(people[3]['keypoints'], (16, 3))[:, :2], atol=1e-3
  )
  capsys.readouterr()

  # Sigmas change neither the metric nor the files, and only the split's own ground truth counts.
  config.data.sigmas = (0.1,) * 16
  (folder,) = (tmp_path / 'data' / 'mpii').glob('1.*')
  (folder / 'gt_train.mat').write_bytes(b'of another split')
  assert evaluate.evaluate(config, tmp_path / 'run') == pytest.approx(metrics)
  assert (step.with_name('1-sigmas') / 'pred.mat').exists()
  config.data.sigmas = ()
  capsys.readouterr()

  # The test set has bounding boxes but no joints.
  for row in rows:
    del row['joints'], row['joints_vis']
  (source / 'annot' / 'test.json').write_text(json.dumps(rows))
  prepare.prepare('mpii', source, tmp_path / 'test', train='', validation='test', canvas=160)
  config.data.data_dir = str(tmp_path / 'test')
  assert evaluate.evaluate(config, tmp_path / 'run') == {}
  again = scipy.io.loadmat(step.with_name('1-data=test') / 'pred.mat')['preds']
  np.testing.assert_allclose(again, predictions, atol=1e-3)


def test_real_detections_on_real_photographs(tmp_path, capsys):
  """Evaluates an untrained network on a detector's 118 boxes in four photographs of COCO."""
  source = shared_data.data('coco_sample')
  prepare.prepare('coco', source, tmp_path, train='', validation='val2017')
  config = custom.get_config('simple_baseline,width=4')
  config.data.data_dir = str(tmp_path)
  config.eval.detections = str(
    source / 'person_detection_results' / 'COCO_val2017_detections_AP_H_56_person.json'
  )
  config.eval.keypoint_threshold = 0.0
  importing.import_weights(config, random_weights(config, 17), tmp_path / 'run')
  metrics = evaluate.evaluate(config, tmp_path / 'run')
  assert 0 <= metrics['AP'] <= 1
  people = json.loads((tmp_path / 'run' / 'eval' / '0' / 'predictions.json').read_text())
  assert 4 <= len(people) <= 118
  assert len({person['image_id'] for person in people}) == 4
