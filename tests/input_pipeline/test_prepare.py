import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from mrpose_jax import errors
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import prepared_data
from tests.helpers import tiny_coco

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, '-m', 'mrpose_jax.input_pipeline.prepare']


@pytest.fixture
def source(tmp_path):
  return tiny_coco.write(tmp_path / 'source')


@pytest.fixture
def data_dir(tmp_path):
  return tmp_path / 'data'


def files_of(folder):
  return {
    path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


def test_report_and_second_run(source, data_dir):
  report = prepare.prepare('coco', source, data_dir)
  assert 'train: 6 people in 3 images' in report
  assert 'validation: 5 people in 3 images' in report
  before = files_of(data_dir)
  assert 'prepared before and stays' in prepare.prepare('coco', source, data_dir)
  assert files_of(data_dir) == before


def test_other_settings_are_refused_until_overwritten(source, data_dir):
  prepare.prepare('coco', source, data_dir, validation='')
  before = files_of(data_dir)
  for changed in ({'canvas': 32}, {'scale': 0.3}, {'train': 'val2017'}):
    with pytest.raises(errors.DataError, match='was prepared with other settings'):
      prepare.prepare('coco', source, data_dir, **{'validation': ''} | changed)
  with pytest.raises(errors.DataError, match='was prepared with other settings'):
    prepare.prepare('coco', source, data_dir)  # now with the validation split
  assert files_of(data_dir) == before
  prepare.prepare('coco', source, data_dir, validation='', canvas=32, overwrite=True)
  assert prepared_data.open_dataset('coco', data_dir).crops['canvas'] == 32
  assert not list(data_dir.glob('*replacement*'))


def test_a_share_of_the_training_images_is_held_out(source, data_dir, tmp_path):
  report = prepare.prepare('coco', source, data_dir, validation='0.4')
  assert 'in 1 images\nvalidation: ' in report  # 2 of 3 images: shares are rounded up
  assert 'stays as it is' in prepare.prepare('coco', source, data_dir, validation='0.4')
  with pytest.raises(errors.DataError, match='was prepared with other settings'):
    prepare.prepare('coco', source, data_dir, validation='0.5')
  dataset = prepared_data.open_dataset('coco', data_dir)
  validation = set(dataset.people_of_images)
  train = {int(record['image_id']) for record in dataset.source('train')}
  assert (len(validation), train | validation, train & validation) == (2, {11, 12, 13}, set())
  assert {image for image in dataset.image_ids.values()} == validation
  path = source / 'annotations/person_keypoints_train2017.json'
  content = json.loads(path.read_text())
  content['images'].reverse()
  path.write_text(json.dumps(content))
  prepare.prepare('coco', source, tmp_path / 'other', validation='0.4')
  other = prepared_data.open_dataset('coco', tmp_path / 'other')
  assert set(other.people_of_images) == validation
  for dataset_name, train_set in (('coco', ''), ('mpii', 'train')):
    with pytest.raises(errors.ConfigError, match=r'--validation=0\.4: is a share of the images'):
      prepare.prepare(dataset_name, source, data_dir, train=train_set, validation='0.4')


def test_what_two_splits_of_one_file_assume_is_told_once(source, data_dir, caplog):
  path = source / 'annotations/person_keypoints_train2017.json'
  content = json.loads(path.read_text())
  content['categories'][0]['name'] = 'worker'
  path.write_text(json.dumps(content))
  prepare.prepare('coco', source, data_dir, validation='0.4')
  assert caplog.text.count("'worker' gives no OKS sigmas") == 1


def test_overwriting_with_bad_data_keeps_what_was_there(source, data_dir):
  prepare.prepare('coco', source, data_dir)
  before = files_of(data_dir)
  (source / 'images/val2017/21.png').unlink()
  with pytest.raises(
    errors.DataError, match=r'1 of 6 images cannot be used: .*21\.png: cannot be read'
  ):
    prepare.prepare('coco', source, data_dir, overwrite=True)
  assert files_of(data_dir) == before


def test_a_replacement_killed_between_its_renames_gives_back_what_was_there(source, data_dir):
  prepare.prepare('coco', source, data_dir)
  before = files_of(data_dir / 'coco')
  (data_dir / 'coco.replacement').mkdir()
  (data_dir / 'coco').rename(data_dir / 'coco.replacement/old')
  (source / 'images/val2017/21.png').unlink()
  with pytest.raises(errors.DataError, match='cannot be used'):
    prepare.prepare('coco', source, data_dir, overwrite=True)
  assert files_of(data_dir / 'coco') == before


def test_one_split_alone(source, data_dir):
  prepare.prepare('coco', source, data_dir, train='')
  dataset = prepared_data.open_dataset('coco', data_dir)
  assert len(dataset.source('validation')) == 3
  with pytest.raises(errors.DataError, match=r"has no split 'train'; .*--train=NAME_OF_THE_SET"):
    dataset.source('train')
  with pytest.raises(errors.ConfigError, match='nothing to prepare'):
    prepare.prepare('coco', source, data_dir, train='', validation='')


def test_all_unusable_images_are_told_together(source, data_dir):
  train, validation = (source / 'images' / name for name in ('train2017', 'val2017'))
  (train / '11.png').unlink()
  (train / '12.png').write_bytes(b'')
  (train / '13.png').write_text('404: Not Found')
  (validation / '21.png').write_bytes((validation / '21.png').read_bytes()[:100])
  Image.new('RGB', (64, 80)).save(validation / '22.png')
  Image.new('L', (80, 65)).save(validation / '23.png')
  for processes in (1, 2):
    with pytest.raises(errors.DataError) as raised:
      prepare.prepare('coco', source, data_dir, processes=processes)
    message = str(raised.value)
    assert message.startswith('6 of 6 images cannot be used: ')
    assert message.endswith(' and 1 more')
    for part in (
      '11.png: cannot be read (No such file',
      '12.png: not a readable image (the file is empty)',
      '13.png: not a readable image (not of a known image format)',
      '21.png: not a readable image (',
      '22.png: 64x80 pixels, but 80x64 in the annotation file',
    ):
      assert part in message
    assert not list(data_dir.glob('[!.]*'))


def test_problems_of_both_annotation_files_are_told(source, data_dir):
  for name in ('train2017', 'val2017'):
    (source / f'annotations/person_keypoints_{name}.json').write_text('[')
  with pytest.raises(errors.DataError, match=r'train2017\.json: .*val2017\.json: not a readable'):
    prepare.prepare('coco', source, data_dir)


def test_changed_annotations_are_not_taken_for_the_prepared_ones(source, data_dir):
  prepare.prepare('coco', source, data_dir)
  path = source / 'annotations/person_keypoints_train2017.json'
  path.write_text(path.read_text().replace('"area": 1271.0', '"area": 1270.0'))
  with pytest.raises(errors.DataError, match='from other annotations or by an older'):
    prepare.prepare('coco', source, data_dir)


def test_what_an_older_version_prepared_is_not_taken_for_complete(source, data_dir):
  prepare.prepare('coco', source, data_dir)
  path = data_dir / 'coco/1.0.0/metadata.json'
  metadata = json.loads(path.read_text())
  assert sorted(metadata.pop('images_sha256')) == ['train', 'validation']
  path.write_text(json.dumps(metadata))
  with pytest.raises(errors.DataError, match='by an older version; replace it with --overwrite'):
    prepare.prepare('coco', source, data_dir)


def test_the_number_of_processes_does_not_change_the_result(source, data_dir):
  for processes in (1, 2):
    prepare.prepare('coco', source, data_dir / str(processes), processes=processes)
  one, two = (files_of(data_dir / str(processes)) for processes in (1, 2))
  assert len(one) > 6
  assert one == two


def test_a_missing_set_names_what_is_there(source, data_dir):
  with pytest.raises(errors.DataError) as raised:
    prepare.prepare('coco', source, data_dir, validation='val2014')
  assert 'person_keypoints_val2014.json: there is no such file' in str(raised.value)
  assert 'found: person_keypoints_train2017.json, person_keypoints_val' in str(raised.value)
  assert "--validation=''" in str(raised.value)
  with pytest.raises(errors.DataError, match='nowhere: there is no such folder'):
    prepare.prepare('coco', source / 'nowhere', data_dir)


@pytest.mark.parametrize('interrupt', [KeyboardInterrupt, OSError])
def test_an_interrupted_preparation_leaves_nothing_whole(source, data_dir, monkeypatch, interrupt):
  done = []

  def encode(pixels, quality):
    done.append(pixels)
    if len(done) == 4:
      raise interrupt('in the middle')
    return image_to_jpeg(pixels, quality)

  image_to_jpeg = image_files.encode_jpeg
  with monkeypatch.context() as patch:
    patch.setattr(image_files, 'encode_jpeg', encode)
    with pytest.raises(interrupt):
      prepare.prepare('coco', source, data_dir)
  assert len(done) == 4
  with pytest.raises(errors.DataError, match='no prepared data; run: python -m'):
    prepared_data.open_dataset('coco', data_dir)
  prepare.prepare('coco', source, data_dir)
  assert len(prepared_data.open_dataset('coco', data_dir).source('train')) == 6


def test_a_killed_preparation_leaves_no_data_and_no_processes(source, data_dir):
  image = source / 'images/val2017/23.png'
  content = image.read_bytes()
  image.unlink()
  os.mkfifo(image)  # a process waits forever for its content
  options = ['--dataset=coco', '--processes=2', f'--source={source}', f'--data_dir={data_dir}']
  run = subprocess.Popen([*COMMAND, *options], cwd=ROOT)
  try:
    wait_for(lambda: list(data_dir.glob('coco/*incomplete*/coco-train.array_record*')))
    wait_for(lambda: len(children(run.pid)) >= 2)
    others = children(run.pid)
  finally:
    run.kill()
    run.wait()
  wait_for(lambda: not any(map(is_running, others)))
  with pytest.raises(errors.DataError, match='no prepared data'):
    prepared_data.open_dataset('coco', data_dir)

  image.unlink()
  image.write_bytes(content)
  prepare.prepare('coco', source, data_dir)
  assert len(prepared_data.open_dataset('coco', data_dir).source('validation')) == 3
  assert [path.name for path in data_dir.glob('[!.]*')] == ['coco']
  assert [path.name for path in (data_dir / 'coco').iterdir()] == ['1.0.0']


def test_a_killed_process_of_a_preparation_ends_it_with_one_line(source, data_dir):
  image = source / 'images/val2017/23.png'
  content = image.read_bytes()
  image.unlink()
  os.mkfifo(image)  # a process waits forever for its content
  options = ['--dataset=coco', '--processes=2', f'--source={source}', f'--data_dir={data_dir}']
  with subprocess.Popen([*COMMAND, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
    try:
      wait_for(lambda: list(data_dir.glob('coco/*incomplete*/coco-train.array_record*')))
      wait_for(lambda: readers(run.pid))
      others = readers(run.pid)
      os.kill(others[0], signal.SIGKILL)
      _, told = run.communicate(timeout=60)
    finally:
      run.kill()
  assert run.returncode == 3
  # Warnings about the inferred flip pairs and the missing OKS sigmas precede it.
  *notes, last = told.splitlines()
  assert last.startswith('DataError: a process was killed')
  assert len(notes) == 4 and all('flip pairs' in n or 'no OKS sigmas' in n for n in notes)
  wait_for(lambda: not any(map(is_running, others)))
  assert not list(data_dir.glob('[!.]*'))

  image.unlink()
  image.write_bytes(content)
  prepare.prepare('coco', source, data_dir)
  assert len(prepared_data.open_dataset('coco', data_dir).source('validation')) == 3


def readers(pid):
  """The processes that read images; the other child tracks shared resources."""
  return [child for child in children(pid) if 'spawn_main' in _read(f'/proc/{child}/cmdline')]


def wait_for(condition, seconds=120):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


def children(pid):
  return [int(child) for child in _read(f'/proc/{pid}/task/{pid}/children').split()]


def is_running(pid):
  state = _read(f'/proc/{pid}/stat').rpartition(')')[2].split()
  return bool(state) and state[0] != 'Z'


def _read(path):
  try:
    return pathlib.Path(path).read_text()
  except OSError:
    return ''


def test_a_broken_image_stops_the_preparation(source, data_dir):
  path = source / 'images/val2017/22.png'
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(errors.DataError, match=r'22\.png: not a readable image'):
    prepare.prepare('coco', source, data_dir)


def turn(path, **size):
  """Stores the image as a telephone would: with an EXIF orientation, and lying if `expand`."""
  exif = Image.Exif()
  exif[0x0112] = 6
  with Image.open(path) as image:
    turned = image.rotate(90, **size)
  turned.save(path, exif=exif)


def test_exif_orientations_are_ignored_and_counted(source, data_dir, caplog):
  turn(source / 'images/val2017/22.png')
  prepare.prepare('coco', source, data_dir)
  assert 'person_keypoints_val2017.json: 1 images have an EXIF orientation, which' in caplog.text
  turn(source / 'images/val2017/23.png', expand=True)
  with pytest.raises(errors.DataError, match=r'file \(its EXIF orientation is ignored'):
    prepare.prepare('coco', source, data_dir, overwrite=True)


def test_only_prepared_data_are_replaced(source, data_dir):
  data_dir.mkdir()
  moved = source.rename(data_dir / 'coco')
  prepare.prepare('coco', moved, data_dir)
  before = files_of(moved)
  with pytest.raises(errors.ConfigError, match='holds annotations, which is no prepared data'):
    prepare.prepare('coco', moved, data_dir, overwrite=True)
  assert files_of(moved) == before


prepare.define_flags()


def test_importing_the_commands_modules_defines_no_flag():
  """A user's own program may have flags of these names."""
  code = (
    'import mrpose_jax.train, mrpose_jax.predictors\n'
    'import mrpose_jax.input_pipeline.prepare, mrpose_jax.input_pipeline.browse\n'
    'from absl import flags\n'
    "assert not {'source', 'dataset', 'config', 'output', 'num'} & set(flags.FLAGS)"
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def run_main(*arguments):
  with flagsaver.flagsaver():
    flags.FLAGS(['prepare', *arguments])
    prepare.main([])


def test_the_command_reports_and_refuses(source, data_dir, capsys):
  run_main('--dataset=coco', f'--source={source}', f'--data_dir={data_dir}')
  assert 'train: 6 people' in capsys.readouterr().out
  with pytest.raises(errors.DataError, match='no such folder'):
    run_main('--dataset=coco', f'--data_dir={data_dir}', f'--source={source}/nowhere')
  with pytest.raises(errors.ConfigError, match='nothing to prepare'):
    run_main(
      *('--dataset=coco', f'--data_dir={data_dir}', f'--source={source}', '--train='),
      '--validation=',
    )
  assert not capsys.readouterr().out


def test_command_line_refuses_a_wrong_flag(tmp_path):
  done = subprocess.run(
    [*COMMAND, '--dataset=cocoa', f'--data_dir={tmp_path}'],
    cwd=ROOT,
    env=os.environ | {'PYTHONWARNINGS': 'error'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2, done.stderr
  assert 'cocoa' in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_metadata_say_what_was_prepared(source, data_dir):
  prepare.prepare('coco', source, data_dir, canvas=48, scale=0.3)
  metadata = json.loads((data_dir / 'coco/1.0.0/metadata.json').read_text())
  crops = {'aspect': 0.75, 'padding': 1.25, 'scale': 0.3, 'canvas': 48}
  assert metadata['crops'] == crops | {'shift': 0.0, 'half_body': False}
  assert metadata['skeleton']['keypoints'] == tiny_coco.CATEGORY['keypoints']
  dataset = prepared_data.open_dataset('coco', data_dir)
  assert dataset.skeleton.flip_pairs == ((0, 1),)
  for split, name in (('train', 'train2017'), ('validation', 'val2017')):
    assert dataset.image_set(split) == name
    original = json.loads((source / f'annotations/person_keypoints_{name}.json').read_text())
    copy = json.loads(dataset.annotation_file(split).read_text())
    for row, other in zip(copy['annotations'], original['annotations'], strict=True):
      assert all(row[key] == value for key, value in other.items())
