"""Training on a mix of people and mice, which have a nose and two ears in common."""

import dataclasses
import json
import logging
import shutil

import jax
import numpy as np
import pytest

from examples import mice
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import losses
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import train
from mrpose_jax import training_step
from mrpose_jax.input_pipeline import browse
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import mixing
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import number_types
from tests.helpers import tiny_people

EARS = (('left_ear', 'earL'), ('right_ear', 'earR'))


@pytest.fixture(scope='module')
def mice_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mice')
  mice.write(folder / 'source', {'train': 8, 'validation': 2})
  sets = {'train': 'train', 'validation': 'validation'}
  prepare.prepare('coco', folder / 'source', folder, **sets, canvas=200)
  return folder


def config_of(mice_dir, people=3, mouse=1, **fields):
  config = tiny_people.config(**fields)
  config.data.mix = (
    ('coco', config.data.data_dir, people),
    ('coco', str(mice_dir), mouse),
  )
  config.data.synonyms = EARS
  return config


def open_all(config):
  return configuration.open_mix(config, configuration.open_dataset(config))


def test_what_is_logged(mice_dir, caplog):
  with caplog.at_level(logging.INFO, 'mrpose_jax'):
    dataset = open_all(config_of(mice_dir))
  people, mouse = (len(member.dataset.source('train')) for member in dataset.mix)
  epoch = people + mouse
  first, second = (told for told in caplog.messages if told.startswith('data.mix'))
  assert first == (
    f'data.mix: {dataset.folder}: 75.0 % of each step, its {people} people '
    f'{0.75 * epoch / people:.3g} times an epoch; keypoints matched: '
    f'{", ".join(skeletons.COCO.keypoints)}; missing: none; dropped: none'
  )
  assert second == (
    f'data.mix: {mice_dir}/coco/1.0.0: 25.0 % of each step, its {mouse} people '
    f'{0.25 * epoch / mouse:.3g} times an epoch; keypoints matched: nose, left_ear (earL), '
    f'right_ear (earR); missing: left_eye, right_eye, {", ".join(skeletons.COCO.keypoints[5:])}; '
    'dropped: pawL, pawR, tail_base, tail_tip'
  )
  caplog.clear()
  config = config_of(mice_dir)
  config.data.mix = config.data.mix[1:]
  with caplog.at_level(logging.INFO, 'mrpose_jax'):
    dataset = open_all(config)
  assert f'data.mix: {dataset.folder} is evaluated on, not trained on' in caplog.messages
  assert len(mixing.TrainingRecords(dataset)) == mouse
  assert dataset.skeleton == skeletons.COCO
  unknown = ', '.join(('left_eye', 'right_eye', *skeletons.COCO.keypoints[5:]))
  assert f'no data set has {unknown}, which the network therefore does not learn' in caplog.text


def test_without_a_mix_nothing_changes(caplog):
  config = tiny_people.config()
  dataset = configuration.open_dataset(config)
  with caplog.at_level(logging.INFO, 'mrpose_jax'):
    assert configuration.open_mix(config, dataset) is dataset
  assert 'data.mix' not in caplog.text


def inside(folder, value):
  """The value with `folder` in place of DIR."""
  if isinstance(value, dict):
    return {name: inside(folder, part) for name, part in value.items()}
  if isinstance(value, tuple):
    return tuple(inside(folder, part) for part in value)
  return value.replace('DIR', str(folder)) if isinstance(value, str) else value


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    ({'mix': ('coco', 'DIR', 1)}, errors.ConfigError, r"'coco' is not \(name, folder, weight\)"),
    ({'mix': (('coco', 'DIR'),)}, errors.ConfigError, r'is not \(name, folder, weight\)'),
    ({'mix': (('coco', 'DIR', '1'),)}, errors.ConfigError, r'is not \(name, folder, weight\)'),
    ({'mix': (('coco', 'DIR', 0),)}, errors.ConfigError, 'with a weight above 0, as in --config'),
    ({'mix': (('coco', 'DIR', float('nan')),)}, errors.ConfigError, 'with a weight above 0'),
    ({'mix': ((5, 'DIR', 1),)}, errors.ConfigError, r'is not \(name, folder, weight\)'),
    ({'mix': (('mpii', 'DIR', 1),)}, errors.DataError, r'prepare --dataset=mpii --source=FOLDER'),
    ({'mix': (('coco', 'DIR', 1), ('coco', 'DIR/.', 2))}, errors.ConfigError, 'twice'),
    ({'synonyms': (('nose', 'earL'),)}, errors.ConfigError, "both keypoints of 'mouse'"),
    ({'synonyms': (('nose', 'snout'),)}, errors.ConfigError, "has a keypoint 'snout'"),
    ({'synonyms': ('nose', 'snout')}, errors.ConfigError, 'data.synonyms .*: groups of names'),
  ],
)
def test_malformed_mixes(mice_dir, change, error, message):
  config = config_of(mice_dir)
  config.data.update(inside(mice_dir, change))
  with pytest.raises(error, match=message) as caught:
    train.train_and_evaluate(config, mice_dir / 'run')
  assert '\n' not in str(caught.value)
  assert not (mice_dir / 'run').exists()


def test_data_sets_that_do_not_fit_together(mice_dir, tmp_path):
  source, sets = mice_dir / 'source', {'train': 'train', 'validation': 'validation'}
  config = config_of(tmp_path)

  def refused(message, error=errors.ConfigError):
    with pytest.raises(error, match=message):
      open_all(config)

  prepare.prepare('coco', source, tmp_path, **sets, aspect=1.0)
  refused(
    f'coco in {tmp_path} was prepared for width / height = 1; .* --aspect=0.75 .* --overwrite'
  )
  prepare.prepare('coco', source, tmp_path, **sets, scale=0.2, overwrite=True)
  refused('patches were cut for smaller crops .* --scale=0.4 --shift=0 --overwrite')
  prepare.prepare('coco', source, tmp_path, train='', validation='train', overwrite=True)
  refused("has no split 'train'; prepare it with --train=", errors.DataError)
  prepare.prepare('coco', source, tmp_path, **sets, overwrite=True)
  file = tmp_path / 'coco/1.0.0/metadata.json'
  text = file.read_text()
  file.write_text(text.replace('"padding": 1.25', '"padding": 1.0'))
  refused(
    'was prepared with boxes padded by 1, .* by 1.25; prepare the data again with --overwrite'
  )
  file.write_text(text.replace('"nose"', '"snout"'))
  config.data.synonyms = ()
  refused(
    r'no keypoint of .* \(snout, earL, .*\) is one of .* \(nose, left_eye, .*\); names that mean '
    'the same can be given as data.synonyms'
  )
  config.data.synonyms = (('nose', 'snout'),)
  assert open_all(config).mix[1].positions == (0, *16 * [-1])


@pytest.mark.parametrize('flip', [0.0, 1.0])
def test_missing_keypoints_have_no_weight_and_no_gradient(mice_dir, flip):
  config = config_of(mice_dir)
  config.augment.flip = flip
  dataset = open_all(config)
  examples_of = training_step.make_examples(
    predict.codec_of(config), augment.Augmentation(**config.augment), dataset.skeleton, config.seed
  )
  present = [0, 3, 4]  # nose and ears
  missing = [k for k in range(17) if k not in present]
  is_mouse = np.array(
    [folder != dataset.folder for folder, _ in loader.people_of_step(dataset, 8, config.seed, 0)]
  )
  assert is_mouse.sum() == 2
  batch = batching.unpack(next(loader.train_batches(dataset, 8, config.seed)))
  assert (batch.visible[is_mouse][:, present] > 0).all()
  assert not batch.visible[is_mouse][:, missing].any()
  assert not batch.keypoints[is_mouse][:, missing].any()

  examples = jax.jit(examples_of)(0, batch)
  assert (np.asarray(examples.draws.flip) == bool(flip)).all()
  assert not np.asarray(examples.visible)[is_mouse][:, missing].any()
  assert not np.asarray(examples.weights)[is_mouse][:, missing].any()
  # Mirroring exchanges left and right ears.
  order = [0, 4, 3] if flip else present
  np.testing.assert_array_equal(
    np.asarray(examples.visible)[is_mouse][:, present], batch.visible[is_mouse][:, order]
  )

  heatmaps = jax.random.normal(jax.random.key(1), examples.target.shape)
  gradient = jax.jit(jax.grad(losses.keypoint_mse_loss))(
    heatmaps, examples.target, examples.weights
  )
  learned = np.asarray(gradient).any((1, 2))  # [N, K]
  np.testing.assert_array_equal(learned, np.asarray(examples.weights) > 0)
  assert not learned[is_mouse][:, missing].any()
  assert learned[is_mouse][:, present].any() and learned[~is_mouse][:, missing].any()


def test_the_sheet_of_a_mix(mice_dir, tmp_path):
  config = config_of(mice_dir, people=1, mouse=1)
  dataset = open_all(config)
  cells = browse.training_cells(dataset, config)
  people = loader.people_of_step(dataset, 8, config.seed, 0)
  for (_, caption), (folder, _) in zip(cells, people):
    name = f', {folder.parents[1].name}/coco'
    assert caption.removesuffix(', mirrored').endswith(name), caption
  assert len({folder for folder, _ in people}) == 2
  written = browse.browse(config, tmp_path, num=4)
  assert [path.name for path in written] == ['train.png', 'mirrored.png', 'validation.png']


@pytest.fixture(scope='module')
def whole(mice_dir, tmp_path_factory):
  """The workdir of an uninterrupted run of two epochs, and its metrics."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train_and_evaluate(config_of(mice_dir, log_every=1), workdir)


def losses_of(workdir):
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [(line['step'], line['loss']) for line in lines if 'loss' in line]


def test_a_run_and_its_continuation_equal_an_unbroken_run(mice_dir, whole, tmp_path):
  config = config_of(mice_dir, log_every=1)
  train.train_and_evaluate(config_of(mice_dir, log_every=1, epochs=1.0), tmp_path)
  train.train_and_evaluate(config, tmp_path)
  states = []
  for workdir in (whole[0], tmp_path):
    checkpoints = checkpoint.Checkpoints(workdir)
    run = train.build(config, open_all(config), workdir)
    assert checkpoints.latest_step() == run.total_steps
    states.append(train.restore_or_start(run, checkpoints))
    checkpoints.close()
  total = sum(len(member.dataset.source('train')) for member in run.dataset.mix)
  assert run.total_steps == round(2 * total / 8) == int(states[0].step)
  for one, other in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_array_equal(one, other)
  assert losses_of(tmp_path) == losses_of(whole[0])
  assert len(losses_of(tmp_path)) == run.total_steps


def test_another_mix_is_refused_on_resuming(mice_dir, whole):
  workdir, _ = whole
  for change in (
    {'mix': config_of(mice_dir, mouse=2).data.mix},
    {'mix': config_of(mice_dir).data.mix[::-1]},
    {'mix': ()},
  ):
    config = config_of(mice_dir)
    config.data.update(change)
    with pytest.raises(errors.CheckpointError, match='cannot go on with other data') as caught:
      train.train_and_evaluate(config, workdir)
    assert f'data.mix was {[list(entry) for entry in config_of(mice_dir).data.mix]}' in str(
      caught.value
    )
    config.train.allow_other_data = True
    run = train.build(config, open_all(config), workdir)
    checkpoints = checkpoint.Checkpoints(workdir)
    assert int(train.restore_or_start(run, checkpoints).step) > 0
    checkpoints.close()


def test_a_mix_that_stays_is_no_difference(mice_dir, whole, caplog):
  """JSON stores lists where the configuration has tuples."""
  config = config_of(mice_dir)
  stored = paths.read_json(whole[0] / 'config.json')
  number_types.go_on(config, stored)
  assert configuration.differences(stored, config.to_dict()) == ['train.log_every was 1, is 2']


def test_runs_from_before_mixes_go_on(tmp_path):
  """Their metadata have no field data.mix, and the fingerprint of their data set."""
  config = tiny_people.config()
  dataset = configuration.open_dataset(config)
  run = train.build(config, dataset, tmp_path)
  meta = json.loads(json.dumps(run.meta))
  del meta['config']['data']['mix'], meta['config']['data']['synonyms']
  checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
  checkpoints.save(0, train.restore_or_start(run, checkpoints), meta)
  checkpoints.wait()
  run = train.build(config, open_all(config), tmp_path)
  assert int(train.restore_or_start(run, checkpoints).step) == 0
  checkpoints.close()


def test_an_evaluation_needs_the_target_data_alone(mice_dir, whole, tmp_path):
  workdir, metrics = whole
  shutil.copytree(workdir, tmp_path / 'run')
  config = config_of(tmp_path / 'gone')
  assert evaluate.evaluate(config, tmp_path / 'run') == metrics
  dataset = dataclasses.replace(open_all(config_of(mice_dir)), mix=())
  expected = sum(dataset.people_of_images.values())
  rows = json.loads(next((workdir / 'eval').glob('*/predictions.json')).read_text())
  assert len(rows) == expected
