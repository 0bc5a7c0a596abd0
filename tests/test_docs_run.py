"""Runs every command and every block of Python in the pages, in order, in a folder of small files.

`SAID_OTHERWISE` replaces the names of files, for example /data by a folder in that folder. Flags
added to a command make its networks and epochs small. `ELSEWHERE` lists the commands that other
tests run, or that need something that no test has.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import mrpose_jax
from examples import mice
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
from mrpose_jax.weights import torch_files
from tests import test_docs
from tests.helpers import foreign_files
from tests.inference import test_detectors
from tests.inference import test_video
from tests.input_pipeline import test_sigmas

# Data preparation comes first, and commands that need a workdir come after the training.
PAGES = (
  *('data.md', 'training.md', 'README.md', 'evaluation.md', 'metrics.md', 'deployment.md'),
  'cloud.md',
)
ELSEWHERE = {
  'srun': 'Slurm: its variables in test_processes.py',
  '--coordinator': 'two processes: test_processes.py',
  '--mode=plan': 'minutes, and a compiler for TPUs: test_plan.py',
  '--input=0': 'a camera: test_streams.py',
  '--input=rtsp': 'a stream: test_streams.py',
  'benchmarks.kill_runs': 'hours: five kills in test_reliability.py',
  'gs://': 'a bucket: test_paths.py, runtime/test_data_copies.py',
  'train.wandb': 'Weights & Biases is not installed: test_metric_writer.py',
}
SAID_OTHERWISE = {
  '/data/': 'data/',
  'resnet50.pth': 'resnet.safetensors',  # torch is not installed
  'resnet152.pth': 'resnet.safetensors',
  '.pth.tar': '.safetensors',
  'FOLDER': 'photos',
  'OUT': 'out',
  '--config=...': '--config=configs/quickstart.py',
}
TINY = '--config.model.depth=18 --config.model.width=4'
SHORT = '--config.train.batch_size=8 --config.train.epochs=1 --config.train.evaluate_every=1'
SMALL_INPUT = '--config.eval.batch_size=8 --config.eval.canvas=160'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A reader's folder: the checkout, data sets below data/, weights, photographs, a video."""
  folder = tmp_path_factory.mktemp('reader')
  for name in ('main.py', 'mrpose_jax', 'input_pipeline', 'configs', 'examples', 'benchmarks'):
    (folder / name).symlink_to(test_docs.ROOT / name)
  sizes = {'train2017': 8, 'val2017': 4}
  for image_set, count in sizes.items():
    synthetic_people.write_coco(folder / 'data/coco', image_set, count, seed=0, processes=1)
  (folder / 'data/coco_mini').symlink_to('coco')
  _write_test_set(folder / 'data/coco')
  mice.write(folder / 'data/mine', {**sizes, 'train': 8, 'validation': 4})
  _write_mpii(folder / 'data/mpii')
  foreign_files.yolo(folder / 'data/yolo_mice')
  places = np.random.default_rng(0).uniform(20, 70, (10, 1, 4, 2))
  names = ('snout', 'leftear', 'rightear', 'tailbase')
  people = {f'img{i}.png': points for i, points in enumerate(places)}
  foreign_files.deeplabcut(folder / 'data/openfield', people, names, Task='openfield')
  mice.write(folder / 'data/ap10k', {'train': 8, 'val': 4})
  drawn = folder / 'runs/data/synthetic_people_images'
  for split in ('train', 'validation'):  # already drawn, so that the commands draw none
    synthetic_people.write_coco(drawn, split, 8, seed=1, processes=1)
  _write_weights(folder)
  (folder / 'photos').mkdir()
  Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(folder / 'photos/7.jpg')
  shutil.copy(folder / 'photos/7.jpg', folder / 'photo.jpg')
  boxes = [{'file_name': '7.jpg', 'bbox': [5, 5, 30, 50]}]
  (folder / 'boxes.json').write_text(json.dumps(boxes))
  outputs = test_detectors.detections((8, 8, 24, 40, 0.6)), np.zeros((1, 1), np.int64)
  test_detectors.write(folder / 'yolox.onnx', *outputs)
  test_video.write_video(folder / 'walk.mp4')
  annotations = test_sigmas.annotate_twice((0.02, 0.05, 0.1), count=60)
  for name, people in zip(('anna.json', 'ben.json'), annotations):
    test_sigmas.write(folder / name, people)
  return folder


def _write_test_set(source):
  """Writes a test-dev split, which has images without people, and detections, boxes with scores."""
  content = json.loads((source / 'annotations/person_keypoints_val2017.json').read_text())
  found = [
    {'image_id': a['image_id'], 'category_id': 1, 'bbox': a['bbox'], 'score': 0.9}
    for a in content['annotations']
  ]
  for name in ('detections.json', 'COCO_val2017_detections_AP_H_56_person.json'):
    (source / name).write_text(json.dumps(found))
  (source / 'images/test2017').symlink_to('val2017')
  info = {'images': content['images'], 'categories': [{'id': 1, 'name': 'person'}]}
  (source / 'annotations/image_info_test-dev2017.json').write_text(json.dumps(info))


def _write_mpii(source):
  (source / 'images').mkdir(parents=True)
  (source / 'annot').mkdir()
  Image.new('RGB', (120, 100), 'navy').save(source / 'images/a.jpg')
  joints = np.random.default_rng(0).uniform(20, 80, (16, 2)).tolist()
  person = {'image': 'a.jpg', 'center': [55, 50], 'scale': 0.4}
  labelled = person | {'joints': joints, 'joints_vis': [1] * 16}
  for name, people in (('train', 8 * [labelled]), ('valid', 4 * [labelled]), ('test', [person])):
    (source / 'annot' / f'{name}.json').write_text(json.dumps(people))


def _write_weights(folder):
  from safetensors import numpy as safetensors

  model = mrpose_jax.create_model('mrfeanet2', depth=18, num_keypoints=17, width=4)
  variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
  weights = torch_files.export_torch_weights(variables, model)
  safetensors.save_file(weights, folder / 'pose_mrfeanet2_50_256x192.safetensors')
  encoder = {k: v for k, v in weights.items() if k.startswith(('conv1.', 'bn1.', 'layer'))}
  safetensors.save_file(encoder, folder / 'resnet.safetensors')


def smaller(command):
  """The command in the form that this test runs."""
  for page, here in SAID_OTHERWISE.items():
    command = command.replace(page, here)
  if 'mode=import' in command:
    return f'{command} {TINY}'
  if 'main.py' not in command or '--config' not in command or 'mode=show' in command:
    return command
  size = '(64,64)' if 'configs/mpii' in command else '(128,96)'
  return (
    f'{command} --config.model.network=simple_baseline {TINY} {SHORT} {SMALL_INPUT} '
    f"'--config.data.image_size={size}'"
  )


def read(page):
  folder = test_docs.ROOT if page == 'README.md' else test_docs.ROOT / 'docs'
  return (folder / page).read_text(encoding='utf-8')


def commands(page):
  """The commands of a page that this test runs, each once, and those that other tests run.

  A program's name in running text, without flags, is not a command.
  """
  found = [c for c in test_docs.commands_of(read(page)) if f'`{c}`' not in read(page) or '--' in c]
  found = [' '.join(command.split()) for command in dict.fromkeys(found)]
  here = [c for c in found if not any(name in c for name in ELSEWHERE)]
  return here, [c for c in found if c not in here]


@pytest.fixture(scope='module')
def results(folder):
  """(page, command, process) of every command, in order."""
  python = pathlib.Path(sys.executable).parent
  environment = os.environ | {
    'PATH': f'{python}{os.pathsep}{os.environ["PATH"]}',
    'XLA_FLAGS': '',  # one device
  }
  done = {}
  for page in PAGES:
    for command in commands(page)[0]:
      small = smaller(command)
      if small not in done:
        process = subprocess.run(
          ['bash', '-c', small],
          cwd=folder,
          env=environment,
          capture_output=True,
          text=True,
          check=False,
        )
        done[small] = page, command, process
  return list(done.values())


def test_every_command(folder, results):
  for page, command, process in results:
    told = f'{page}: {command}\n{process.stdout}\n{process.stderr}'
    assert process.returncode == 0, told
    assert 'Traceback' not in process.stderr, told
  assert len(results) > 25
  for left in ('runs/mice_report/report.html', 'out/walk.mp4', 'out/predictions.json'):
    assert (folder / left).exists(), left


def test_what_is_left_to_other_tests():
  """Each name in ELSEWHERE occurs in a command of the pages."""
  elsewhere = [command for page in PAGES for command in commands(page)[1]]
  for name in ELSEWHERE:
    assert any(name in command for command in elsewhere), name


@pytest.mark.filterwarnings('ignore:OpenCV')  # supervision warns that it is slower without it
@pytest.mark.parametrize('page', PAGES)
def test_every_block_of_python(folder, results, page, monkeypatch):
  """Runs the blocks with the variables that the page assumes."""
  monkeypatch.chdir(folder)
  image = np.full((60, 80, 3), 90, np.uint8)
  boxes = np.array([[5, 5, 30, 50], [40, 0, 30, 60]], np.float32)
  names = {
    'jax': jax,
    'image': image,
    'boxes': boxes,
    'corners': np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
    'other_boxes': boxes[:1],
    'pil_image': Image.fromarray(image),
    'image_id': 7,
  }
  for block in re.findall(r'^```python\n(.*?)^```$', read(page), re.DOTALL | re.MULTILINE):
    of_batches = 'images, boxes' in block
    names |= {'images': image[None], 'boxes': boxes[None] if of_batches else boxes}
    small = block.replace('.pth.tar', '.safetensors').replace('depth=50', 'depth=18, width=4')
    exec(compile(small, page, 'exec'), names)
    shape = (1, 2, 17, 3) if of_batches else (2, 17, 3)
    if 'people = ' in block and 'several' not in block:
      assert names['people'].shape == shape, block
