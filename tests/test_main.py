"""The command line in real processes, and one line with an exit code for each wrong input."""

import importlib.util
import json
import os
import pathlib
import platform
import resource
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import mrpose_jax
from mrpose_jax import errors
from mrpose_jax.inference import image_folder
from tests.helpers import tiny_people

ROOT = pathlib.Path(__file__).parents[1]
OVERRIDES = (
  '--config=configs/custom.py:simple_baseline,width=4',
  f'--config.data.data_dir={tiny_people.data_dir()}',
  '--config.train.batch_size=8',
  '--config.eval.batch_size=8',
  '--config.eval.canvas=384',
)


ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT)}


def call(*arguments, folder=ROOT):
  """Runs main.py in a process of its own."""
  command = [sys.executable, str(ROOT / 'main.py'), *(str(argument) for argument in arguments)]
  return subprocess.run(
    command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir that main.py trained."""
  folder = tmp_path_factory.mktemp('run')
  done = call(*OVERRIDES, f'--workdir={folder}', '--config.train.epochs=1.0')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('| | AP |')
  assert 'people/s' in done.stderr
  return folder


def test_evaluate_the_best_checkpoint(workdir):
  done = call(*OVERRIDES, f'--workdir={workdir}', '--mode=eval', '--config.eval.batch_size=4')
  assert done.returncode == 0, done.stderr
  step = next((workdir / 'eval').iterdir()).name
  assert f'simple_baseline, step {step}' in done.stdout
  assert f'predictions and pictures: {workdir}/eval/{step}' in done.stdout


def test_names_of_metrics_need_no_quotes():
  """ml_collections alone would read them as Python, and refuse a colon."""
  config = '--config=configs/custom.py'
  for value, shown in (
    ('PCK@0.2:box,EPE', "('PCK@0.2:box,EPE',)"),
    ("('EPE','AP')", "('EPE', 'AP')"),
  ):
    done = call(config, f'--config.eval.metrics={value}', '--mode=show')
    assert shlex.quote(f'--config.eval.metrics={shown}') in done.stdout, done.stderr
  done = call(config, '--config.eval.metrics=PKC@0.2,EPE', '--workdir=/nowhere')
  assert done.returncode == 2
  assert "ConfigError: eval.metrics: there is no metric 'PKC@0.2'; possible: AP, " in done.stderr


def test_predict_a_folder(workdir, tmp_path):
  images = tmp_path / 'images'
  images.mkdir()
  r = np.random.default_rng(0)
  for name, shape in (('7.jpg', (60, 80, 3)), ('b.png', (50, 40, 3))):
    Image.fromarray(r.integers(0, 256, shape, dtype=np.uint8)).save(images / name)
  (images / 'notes.txt').write_text('not an image')
  boxes = [
    {'image_id': 7, 'bbox': [5, 5, 30, 50]},
    {'image_id': 7, 'bbox': [40, 0, 30, 60]},
    {'file_name': 'b.png', 'bbox': [0, 0, 40, 50]},
  ]
  (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
  done = call(
    f'--workdir={workdir}',
    '--mode=predict',
    f'--input={images}',
    f'--output={tmp_path / "out"}',
    f'--boxes={tmp_path / "boxes.json"}',
  )
  assert done.returncode == 0, done.stderr
  assert '3 people in 2 images' in done.stdout
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [row['file_name'] for row in rows] == ['7.jpg', '7.jpg', 'b.png']
  with Image.open(tmp_path / 'out' / 'b.jpg') as picture:
    assert picture.size == (40, 50)
  predictor = mrpose_jax.load_predictor(workdir)
  with Image.open(images / '7.jpg') as file:
    image = np.asarray(file)
  people = predictor(image, [row['bbox'] for row in boxes[:2]])
  assert people.shape == (2, 17, 3)
  np.testing.assert_allclose(np.ravel(people[1]), rows[1]['keypoints'], atol=1e-3)


def test_import_weights_from_a_file(tmp_path):
  safetensors = pytest.importorskip('safetensors.numpy')
  model = mrpose_jax.create_model('simple_baseline', depth=18, width=4)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
  )
  variables = jax.tree.map(lambda x: np.full(x.shape, 0.1, np.float32), shapes)
  weights = mrpose_jax.export_torch_weights(variables, model)
  safetensors.save_file(weights, tmp_path / 'weights.safetensors')
  arguments = (*OVERRIDES, '--mode=import', f'--input={tmp_path}/weights.safetensors')
  done = call(*arguments, f'--workdir={tmp_path}/run', '--channel_order=rgb')
  assert done.returncode == 0, done.stderr
  predictor = mrpose_jax.load_predictor(tmp_path / 'run')
  assert predictor.config.model.channel_order == 'rgb'
  assert predictor(np.zeros((30, 20, 3), np.uint8)).shape == (1, 17, 3)
  again = call(*arguments, f'--workdir={tmp_path}/run')
  assert again.returncode == 4
  assert 'holds a run already' in again.stderr


def test_an_unreadable_image_does_not_stop_the_others(workdir, tmp_path):
  images = tmp_path / 'images'
  images.mkdir()
  (images / 'a.jpg').write_bytes(b'')
  Image.new('RGB', (40, 30)).save(images / 'b.jpg')
  done = call(
    f'--workdir={workdir}',
    '--mode=predict',
    f'--input={images}',
    f'--output={tmp_path / "out"}',
  )
  assert done.returncode == 3
  assert '1 people in 1 images' in done.stdout
  assert '1 of 2 images could not be read, the others are done: a.jpg' in done.stderr
  assert len(json.loads((tmp_path / 'out' / 'predictions.json').read_text())) == 1


def test_predictor_edges(workdir):
  step = next((workdir / 'checkpoints').iterdir())
  predictor = mrpose_jax.load_predictor(step)
  image = np.zeros((20, 30, 3), np.uint8)
  assert predictor(image).shape == (1, 17, 3)
  assert predictor(image, np.zeros((0, 4))).shape == (0, 17, 3)
  many = predictor(image, np.tile([1.0, 2, 10, 15], (9, 1)))  # more than a batch of 8
  np.testing.assert_allclose(many[8], many[0], atol=1e-4)
  with pytest.raises(ValueError, match='positive width'):
    predictor(image, [[0, 0, 0, 5]])
  with pytest.raises(ValueError, match='uint8'):
    predictor(image.astype(np.float32))


CONFIG = '--config=configs/custom.py'


def test_the_last_of_a_fields_values_counts():
  twice = ('--config.data.image_size=(256,192)', '--config.data.image_size=(64,64)')
  done = call('--mode=show', CONFIG, *twice, '--config.seed=1', '--config.seed=2')
  assert "'--config.data.image_size=(64, 64)'" in done.stdout, done.stderr
  assert '--config.seed=2\n' in done.stdout


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    ([], 2, '--workdir is missing'),
    (['--workdir=x'], 2, '--config is missing'),
    (['--workdir=x', '--config=configs/absent.py'], 2, 'absent.py'),
    (['--workdir=x', f'{CONFIG}:mrfeanet3'], 2, "did you mean 'mrfeanet2'"),
    (['--workdir=x', f'{CONFIG}:dept=18'], 2, "did you mean 'depth'"),
    (['--workdir=x', f'{CONFIG}:depth=deep'], 2, 'depth=deep: not of type int'),
    (['--workdir=x', '--config=configs/coco.py:recipe=own'], 2, 'unknown recipe'),
    (['--workdir=x', CONFIG, '--config.train.epoch=3'], 2, 'epochs'),
    (['--workdir=x', CONFIG, '--config.train.epochs=many'], 2, 'many'),
    (['--workdir=x', CONFIG, '--config.data.image_size=256'], 2, 'give (height, width)'),
    (['--workdir=x', CONFIG, '--mode=training'], 2, 'training'),
    (['--workdir=x', CONFIG, '--wrkdir=x'], 2, 'wrkdir'),
    (['--workdir=x', CONFIG, '--config.data.data_dir=absent'], 3, 'pipeline.prepare --dataset='),
    (['--workdir=absent', CONFIG, '--mode=eval'], 3, 'no prepared data'),
    (['--workdir=x', CONFIG, '--config.train.batchsize=3'], 2, "did you mean 'batch_size'"),
    (['--workdir=x', '--mode=predict'], 2, '--input is missing'),
    (['--workdir=x', '--mode=export'], 2, '--output is missing'),
    (['--workdir=x', '--mode=export', '--output=pose.pb'], 2, 'has to end in .onnx or .stablehlo'),
    (['--workdir=x', '--mode=publish'], 2, '--output is missing'),
    (['--workdir=absent', '--mode=publish', '--output=x'], 4, 'no checkpoints here'),
    (['--workdir=hf://a/b', CONFIG], 2, 'or make them a run with --mode=import --input=hf://a/b'),
    (['--workdir=s3://bucket/x', CONFIG], 2, 's3://bucket/x: s3:// cannot be used here; give a'),
    (['--workdir=x', '--config=s3://bucket/x.py'], 2, '--config=s3://bucket/x.py: s3:// cannot be'),
    (['--mode=show'], 2, '--config is missing'),
    (['--workdir=x', '--mode=predict', '--input=absent', '--output=x'], 3, 'no such file'),
    (['--workdir=absent', '--mode=predict', f'--input={ROOT}', '--output=x'], 3, 'no images'),
  ],
)
def test_wrong_input_gets_one_line(tmp_path, arguments, code, message):
  done = call(*(a.replace('=configs/', f'={ROOT}/configs/') for a in arguments), folder=tmp_path)
  assert done.returncode == code, done.stderr
  assert message in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  assert not done.stdout


def test_show_needs_no_workdir():
  done = call('--mode=show', CONFIG)
  assert done.returncode == 0, done.stderr
  assert '# Number of epochs of training.\n--config.train.epochs=170.0\n' in done.stdout


def test_a_workdir_without_checkpoints(tmp_path):
  Image.new('RGB', (8, 8)).save(tmp_path / 'a.jpg')
  with pytest.raises(errors.CheckpointError, match='no checkpoints here'):
    image_folder.predict_folder(tmp_path, tmp_path, tmp_path / 'out')


FREED = """
import resource
import numpy as np
from mrpose_jax.cpu import memory
memory.keep_freed_memory()
import jax

def numpy():
  np.ones(2**28, np.uint8)

@jax.jit
def product(x):
  return (x @ x.T).sum(0) @ x  # with 64 MB of intermediate values

x = jax.numpy.ones((4096, 8))
for call in lambda: product(x).block_until_ready(), numpy:
  for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc' or importlib.util.find_spec('libtpu') is not None,
  reason='memory stays with the process on CPU machines with glibc',
)
def test_freed_memory_stays_with_the_process():
  done = subprocess.run([sys.executable, '-c', FREED], capture_output=True, text=True, check=True)
  faults = list(map(int, done.stdout.split()))
  for mebibytes, (first, *later) in (64, faults[:3]), (256, faults[3:]):
    assert first > mebibytes * 2**20 / resource.getpagesize() / 600  # even with huge pages
    assert min(later) < first / 10  # the host may take some pages back in between


def test_importing_loads_nothing_heavy():
  code = 'import sys, mrpose_jax; print(*sys.modules)'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  heavy = {'tensorflow', 'matplotlib', 'pandas', 'torch', 'cv2'}
  assert not heavy & set(done.stdout.split())
