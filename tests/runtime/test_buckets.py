"""Runs whose workdir is in Cloud Storage: what is damaged, interrupted, lost, or not reached."""

import concurrent.futures
import contextlib
import http.server
import json
import logging
import math
import pathlib
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import mrpose_jax
from benchmarks import kill_runs
from mrpose_jax import buckets
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import paths
from mrpose_jax import train
from mrpose_jax.inference import export
from mrpose_jax.inference import image_folder
from mrpose_jax.inference import prediction_settings
from mrpose_jax.report import comparison
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import digests
from mrpose_jax.runtime import evaluation_folders
from mrpose_jax.runtime import metric_writer
from mrpose_jax.runtime import profiling
from mrpose_jax.runtime import run_locks
from mrpose_jax.weights import importing
from mrpose_jax.weights import published
from mrpose_jax.weights import publishing
from tests import test_evaluate
from tests.helpers import emulated_buckets
from tests.helpers import tiny_people
from tests.runtime import test_checkpoint
from tests.runtime import test_metric_writer

pytestmark = emulated_buckets.needed


@pytest.fixture
def workdir():
  return emulated_buckets.new() / 'run'


def objects(folder) -> dict[str, bytes]:
  """Names and contents of all objects below a folder."""
  return {name: (folder / name).read_bytes() for name in paths.files_below(folder)}


# What is damaged or not whole.


@pytest.mark.parametrize('damage', ['flipped', 'cut', 'missing'])
def test_a_flipped_bit_a_cut_and_a_missing_object_are_seen(workdir, damage, caplog):
  """The checkpoint is moved aside, and the one before it is used."""
  test_checkpoint.save(workdir, {1: None, 2: None})
  folder = workdir / 'checkpoints' / '2'
  before = objects(folder)
  file = next(path for path in (folder / 'variables' / 'd').iterdir())
  if damage == 'missing':
    file.unlink()
  else:
    test_checkpoint.flip_a_bit(file) if damage == 'flipped' else cut(file)
  with caplog.at_level(logging.WARNING):
    assert checkpoint.Checkpoints(workdir).latest_step() == 1
    checkpoints = checkpoint.Checkpoints(workdir, create=True)
    assert checkpoints.latest_step() == 1
  assert 'checkpoints/2: not used, damaged: variables/d/' in caplog.text
  assert objects(workdir / 'damaged' / '2').keys() - {file.name} <= before.keys()
  assert paths.files_below(folder) == []
  checkpoints.save(2, test_checkpoint.state_of(2), test_checkpoint.META)
  checkpoints.close()
  restored = test_checkpoint.restore(checkpoint.Checkpoints(workdir), 2)
  np.testing.assert_array_equal(restored.params['w'], 2)


def cut(file):
  content = file.read_bytes()
  file.write_bytes(content[: len(content) // 2])


def test_every_part_of_a_save_is_no_checkpoint(workdir):
  """As a killed save leaves them: data, then digests.json, and Orbax's own mark last."""
  test_checkpoint.save(workdir, {1: None})
  whole = objects(workdir / 'checkpoints' / '1')
  last = [digests.NAME, paths.COMMIT_FILE]
  names = [*(name for name in whole if name not in last), *last]
  assert set(last) <= whole.keys()
  for count in (1, len(names) // 2, len(names) - 2, len(names) - 1):
    for name in names[:count]:
      (workdir / 'checkpoints' / '2' / name).write_bytes(whole[name])
    assert checkpoint.Checkpoints(workdir).steps() == [1], names[:count]
    checkpoints = checkpoint.Checkpoints(workdir, create=True)
    assert checkpoints.latest_step() == 1
    assert paths.files_below(workdir / 'checkpoints') == [f'1/{name}' for name in sorted(whole)]


@pytest.mark.parametrize('removed', [0, 1, 3])
def test_an_interrupted_removal_is_no_checkpoint(workdir, removed, monkeypatch):
  """Whether the connection ends before the first object, or after any later one."""
  test_checkpoint.save(workdir, {1: None, 2: None})
  folder, system = workdir / 'checkpoints' / '2', buckets.file_system()
  remove, gone = system.rm, []

  def interrupted(path, recursive=False):
    for file in [folder / name for name in objects(folder)] if recursive else [path]:
      if len(gone) == removed:
        raise ConnectionError
      remove(str(file))
      gone.append(file)

  with monkeypatch.context() as patched:
    patched.setattr(system, 'rm', interrupted)
    paths.remove_tree(folder, (digests.NAME,))
  assert len(gone) == removed
  checkpoints = checkpoint.Checkpoints(workdir)
  assert checkpoints.latest_step() == (1 if removed else 2)
  checkpoint.Checkpoints(workdir, create=True)
  assert len(checkpoints.steps()) == (1 if removed else 2)
  assert bool(paths.files_below(folder)) == (removed == 0)


def test_a_bucket_that_is_not_reached_is_no_damage(workdir, monkeypatch):
  """Otherwise a good checkpoint would be moved aside."""
  test_checkpoint.save(workdir, {1: None})
  before = objects(workdir)

  def fail(*_, **__):
    raise OSError('Forbidden: b/x/o')

  with monkeypatch.context() as patched:
    patched.setattr(paths, 'open_binary', fail)
    with pytest.raises(errors.BucketError, match=r'cannot be reached \(Forbidden: b/x/o\)'):
      checkpoint.Checkpoints(workdir, create=True).latest_step()
  assert objects(workdir) == before


@pytest.mark.parametrize('kind', ['denied', 'refused', 'late'])
def test_a_bucket_that_does_not_answer_is_not_empty(workdir, monkeypatch, kind):
  """A run that found no checkpoint there would begin again, or go on without its average."""
  import aiohttp  # inside, because it comes with gcsfs

  error = {
    'denied': OSError('Forbidden: b/x/o\nno access'),
    'refused': aiohttp.ClientConnectionError('Connection refused'),
    'late': TimeoutError(),
  }[kind]
  test_checkpoint.save(workdir, {1: 0.5})
  before = objects(workdir)
  checkpoints = checkpoint.Checkpoints(workdir)
  calls = {
    'opened': lambda: checkpoint.Checkpoints(workdir),
    'opened to save': lambda: checkpoint.Checkpoints(workdir, create=True),
    'steps': checkpoints.steps,
    'latest': checkpoints.latest_step,
    'ema': lambda: checkpoints.has_ema(1),
    'evaluated': lambda: checkpoints.evaluated(1),
    'score': lambda: checkpoints.score(1),
    'digests': lambda: checkpoints.problem(1),
    'located': lambda: checkpoint.locate(workdir),
    'held': lambda: configuration.hold_workdir(tiny_people.config(), workdir).__enter__(),
    'settings': lambda: evaluation_folders._read(workdir / 'eval' / '1'),
    'metrics': lambda: metric_writer.read(workdir / 'metrics.jsonl', math.inf),
    'report': lambda: comparison.read_runs([workdir]),
    'published': lambda: published.is_published(workdir),
    'imported': lambda: importing.import_weights(tiny_people.config(), {}, workdir),
    'listed': lambda: list(workdir.iterdir()),
    'written': lambda: (workdir / 'x').write_bytes(b'x'),
  }
  with emulated_buckets.failing(monkeypatch, error):
    for name, call in calls.items():
      with pytest.raises(errors.BucketError, match=rf'^{workdir}\S*: cannot be reached') as raised:
        call()
      assert raised.value.exit_code == 4, name
  assert objects(workdir) == before


# Locks.


def test_one_of_six_gets_a_lock(workdir):
  def acquire(_):
    with contextlib.suppress(errors.CheckpointError):
      return run_locks.acquire(workdir)

  with concurrent.futures.ThreadPoolExecutor(6) as pool:
    (lock,) = filter(None, pool.map(acquire, range(6)))
  with (
    pytest.raises(errors.CheckpointError, match=r'another run trains here \(process \d+ on'),
    configuration.hold_workdir(tiny_people.config(), workdir),
  ):
    pass
  lock.close()
  assert paths.files_below(workdir) == []
  run_locks.acquire(workdir).close()


def test_a_lock_of_another_machine_is_watched(workdir, monkeypatch, caplog):
  """While it is renewed a second run is refused; then it is taken over, and its owner notices."""
  monkeypatch.setattr(run_locks, '_is_alive', lambda process: None)
  monkeypatch.setattr(run_locks, 'STALE_SECONDS', 3.0)
  monkeypatch.setattr(run_locks, 'RENEW_SECONDS', 0.2)
  first = run_locks.acquire(workdir)
  with pytest.raises(errors.CheckpointError, match='another run trains here'):
    run_locks.acquire(workdir)
  first.check()
  first._ended.set()  # as if its machine had stopped
  first._thread.join()
  start = time.monotonic()
  with caplog.at_level(logging.INFO):
    second = run_locks.acquire(workdir)
  assert time.monotonic() - start >= 3.0
  assert 'waiting for 3 s to see whether it still runs' in caplog.text
  with pytest.raises(errors.CheckpointError, match='has taken the lock of this one'):
    first.check()
  first.close()
  second.check()
  second.close()
  assert paths.files_below(workdir) == []


def take_over(workdir):
  """Replaces the object of a lock, as a run on another machine does after 60 s."""
  (workdir / run_locks.NAME).unlink()
  return run_locks.acquire(workdir)


def test_a_lock_that_is_lost_during_a_save_leaves_no_checkpoint(workdir, monkeypatch):
  lock = run_locks.acquire(workdir)
  checkpoints = checkpoint.Checkpoints(workdir, create=True, lock=lock)
  checkpoints.save(1, test_checkpoint.state_of(1), test_checkpoint.META)
  checkpoints.wait()
  check, taken = lock.check, []

  def check_and_lose():
    check()
    taken.append(take_over(workdir))

  with monkeypatch.context() as patched:
    patched.setattr(lock, 'check', check_and_lose)
    checkpoints._move_aside = lambda step: patched.setattr(lock, 'check', check)
    checkpoints.save(2, test_checkpoint.state_of(2), test_checkpoint.META)
    with pytest.raises(errors.CheckpointError, match='has taken the lock'):
      checkpoints.wait()
  assert checkpoints.steps() == [1]
  with pytest.raises(errors.CheckpointError, match='has taken the lock'):
    checkpoints.save(3, test_checkpoint.state_of(3), test_checkpoint.META)
  with contextlib.suppress(errors.CheckpointError):
    checkpoints.close()
  lock.close()
  taken[0].check()
  taken[0].close()


def test_a_run_that_lost_its_lock_stops_before_its_next_save(workdir, monkeypatch):
  """Another run takes the workdir during the first evaluation; nothing is written any more."""
  predict_split, taken, left = evaluate.predict_split, [], []

  def interrupted(*arguments):
    predictions = predict_split(*arguments)
    while not paths.is_committed(workdir / 'checkpoints' / '3'):  # the save that runs meanwhile
      time.sleep(0.1)
    taken.append(take_over(workdir))
    left.append(objects(workdir))
    return predictions

  with monkeypatch.context() as patched:
    patched.setattr(evaluate, 'predict_split', interrupted)
    with pytest.raises(errors.CheckpointError, match='writes nothing more') as raised:
      train.train_and_evaluate(tiny_people.config(epochs=2.0), workdir)
  assert raised.value.exit_code == 4
  taken[0].check()
  taken[0].close()
  left[0].pop(run_locks.NAME)
  assert {name: len(content) for name, content in objects(workdir).items()} == {
    name: len(content) for name, content in left[0].items()
  }
  # The next start repeats the evaluation.
  assert train.train_and_evaluate(tiny_people.config(epochs=2.0), workdir).keys() >= {'AP'}
  lines = metric_writer.read(workdir / 'metrics.jsonl', math.inf)
  assert [line['step'] for line in lines if 'eval/AP' in line] == [3, 6]


def test_nothing_is_imported_into_the_workdir_of_a_run(workdir, tmp_path):
  """Not even before its first checkpoint, which alone makes a folder in a bucket."""
  config = tiny_people.config()
  weights = test_evaluate.random_weights(config, 17)
  for folder in (workdir, tmp_path / 'run'):
    with contextlib.closing(run_locks.acquire(folder)):
      with pytest.raises(errors.CheckpointError, match='another run trains here'):
        importing.import_weights(config, weights, folder)
      assert paths.files_below(folder) == [run_locks.NAME]
    importing.import_weights(config, weights, folder)
    assert checkpoint.Checkpoints(folder).latest_step() == 0


LOSSES = ['a save that fails', 'a checkpoint that cannot be read back', 'an old checkpoint']


@pytest.mark.parametrize('loss', LOSSES)
def test_a_run_without_its_lock_removes_and_moves_nothing(workdir, monkeypatch, loss):
  """Another run takes the workdir at the end of a save, and begins a save itself."""
  lock = run_locks.acquire(workdir)
  checkpoints = checkpoint.Checkpoints(workdir, create=True, lock=lock)
  for step in (1, 2, 3):
    checkpoints.save(step, test_checkpoint.state_of(step), test_checkpoint.META)
  wait, taken, left = checkpoints._orbax.wait_until_finished, [], []

  def wait_and_lose():
    wait()
    taken.append(take_over(workdir))
    (workdir / 'checkpoints' / '9' / 'part').write_bytes(b'')
    left.append(objects(workdir))
    if loss == LOSSES[0]:
      raise OSError('no space')

  with monkeypatch.context() as patched:
    patched.setattr(checkpoints._orbax, 'wait_until_finished', wait_and_lose)
    if loss == LOSSES[1]:
      patched.setattr(checkpoint, '_stored_shapes', lambda folder: {})
    with pytest.raises(errors.CheckpointError, match='has taken the lock'):
      checkpoints.wait()
  checkpoints.close()  # it waits for no save any more
  lock.close()
  assert objects(workdir) == left[0]
  taken[0].close()


def test_a_save_that_fails_removes_only_its_own_part(workdir):
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  with pytest.raises(errors.CheckpointError, match='no space'), checkpoints._writing(2):
    for step in (2, 22):
      (workdir / 'checkpoints' / str(step) / 'part').write_bytes(b'')
    raise OSError('no space')
  assert paths.files_below(workdir) == ['checkpoints/22/part']
  checkpoints.close()


# Metrics.


def test_metrics_are_published_and_cut_back(workdir, monkeypatch):
  """With one event file, and neither a lost nor a doubled line."""
  monkeypatch.setattr(metric_writer, 'PUBLISH_SECONDS', 1000)
  file = workdir / 'metrics.jsonl'
  writer = metric_writer.MetricWriter(workdir)
  writer.write(1, {'loss': 0.5})
  assert not file.exists()
  writer._publish_at = time.monotonic()
  writer.write(2, {'loss': 0.25})
  assert file.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'
  writer.write(2, {'eval/AP': 0.5})
  writer.publish()
  writer.write(3, {'loss': 0.125})  # a killed run publishes no more
  assert [line['step'] for line in metric_writer.read(file, math.inf)] == [1, 2, 2]
  again = metric_writer.MetricWriter(workdir, start_step=2, evaluated=False)
  again.write(2, {'eval/AP': 0.75})
  again.close()
  lines = metric_writer.read(file, math.inf)
  assert lines == [
    {'step': 1, 'loss': 0.5},
    {'step': 2, 'loss': 0.25},
    {'step': 2, 'eval/AP': 0.75},
  ]
  (events,) = workdir.glob(metric_writer.EVENTS)
  assert emulated_buckets.read_events(events.read_bytes()) == [
    ('loss', 1, 0.5),
    ('loss', 2, 0.25),
    ('eval/AP', 2, 0.75),
  ]
  writer.close()


def test_nothing_is_published_without_the_lock(workdir, monkeypatch):
  """Neither metrics nor the files of Weights & Biases, a trace, or an evaluation."""
  lost = []

  def check():
    if lost:
      raise errors.CheckpointError('lost')

  stub = test_metric_writer.Stub()
  monkeypatch.setitem(sys.modules, 'wandb', stub)
  monkeypatch.setattr(
    jax.profiler, 'start_trace', lambda folder: (folder / 'trace').write_bytes(b'a trace')
  )
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: None)
  writer = metric_writer.MetricWriter(workdir, 0, test_metric_writer.config(), check=check)
  writer.write(1, {'loss': 0.5})
  (wandb_run,) = stub.runs
  pathlib.Path(wandb_run.options['dir'], '1.wandb').write_bytes(b'a run')
  before = objects(workdir)
  assert before.keys() == {metric_writer.WANDB_RUN}
  lost.append(True)
  with pytest.raises(errors.CheckpointError, match='lost'):
    writer.close()
  assert wandb_run.finished
  with (
    pytest.raises(errors.CheckpointError, match='lost'),
    profiling.StepTrace(workdir, 0, 100, check) as step_trace,
    step_trace.step(3),
  ):
    pass
  with (
    pytest.raises(errors.CheckpointError, match='lost'),
    paths.staged(workdir / 'eval' / '1', check) as folder,
  ):
    (folder / 'metrics.json').write_text('{}')
  assert objects(workdir) == before


def test_weights_and_biases(workdir, monkeypatch):
  """A restart goes on with the same run; its local files are published at the end."""
  stub = test_metric_writer.Stub()
  monkeypatch.setitem(sys.modules, 'wandb', stub)
  for start in (0, 10):
    writer = metric_writer.MetricWriter(workdir, start, test_metric_writer.config())
    pathlib.Path(stub.runs[-1].options['dir'], f'{start}.wandb').write_bytes(b'a run')
    writer.close()
  first, second = (run.options for run in stub.runs)
  assert (first['id'], second['id']) == (None, 'abc123')
  assert first['name'] == 'run'
  assert (workdir / metric_writer.WANDB_RUN).read_text() == 'abc123'
  assert {'0.wandb', '10.wandb'} <= set(paths.files_below(workdir))


# A whole run.


def test_killed_in_a_bucket_it_ends_with_the_same_bits(capsys):
  """The short form of `python -m benchmarks.kill_runs --emulator --kills=20`."""
  kill_runs.run(emulated_buckets.new(), 2, 8.0, 0, '--config.model.depth=18')
  assert 'equal those of an uninterrupted run, bit for bit' in capsys.readouterr().out


# gcsfs hands objects above 1 MB to aiohttp as bytes.
@pytest.mark.filterwarnings('ignore:Sending a large body:ResourceWarning')
def test_every_mode_reads_a_run_in_a_bucket(workdir, tmp_path, capsys):
  """Trains with a trace, evaluates, predicts, exports, reports, publishes, and starts from it."""
  config = tiny_people.config(epochs=2.0, profile_steps=1, log_every=1)
  metrics = train.train_and_evaluate(config, workdir)
  assert [name for name in paths.files_below(workdir / 'profile') if name.endswith('.xplane.pb')]
  lines = metric_writer.read(workdir / 'metrics.jsonl', math.inf)
  assert [line['step'] for line in lines if 'loss' in line] == list(range(1, lines[-1]['step'] + 1))
  (events,) = workdir.glob(metric_writer.EVENTS)
  found = emulated_buckets.read_events(events.read_bytes())
  assert len(found) == sum(len(line) - 1 for line in lines)
  np.testing.assert_allclose(
    [value for name, _, value in found if name == 'loss'],
    [line['loss'] for line in lines if 'loss' in line],
    rtol=1e-6,
  )

  config.eval.flip_test = False
  evaluate.evaluate(config, workdir)
  (other,) = [path for path in (workdir / 'eval').iterdir() if 'flip_test=False' in path.name]
  assert {'predictions.json', 'pictures/sheet.jpg'} <= set(paths.files_below(other))

  images = next(path.parent for path in tiny_people.data_dir().glob('source/**/*.jpg'))
  settings = prediction_settings.Settings(boxes=None)
  image_folder.predict_folder(workdir, images, tmp_path / 'predicted', settings)
  assert json.loads((tmp_path / 'predicted' / 'predictions.json').read_text())
  with pytest.raises(errors.ConfigError, match='gcloud storage rsync -r FOLDER gs://'):
    image_folder.predict_folder(workdir, images, workdir / 'predicted', settings)

  export.export(workdir, tmp_path / 'pose.stablehlo')
  assert (tmp_path / 'pose.stablehlo').stat().st_size > 1000
  file = comparison.write([workdir], tmp_path / 'report')
  assert f'{100 * metrics["AP"]:.1f}' in file.read_text()
  publishing.publish(workdir, tmp_path / 'published')

  predictors = [
    mrpose_jax.load_predictor(source) for source in (str(workdir), tmp_path / 'published')
  ]
  image = np.random.default_rng(0).integers(0, 256, (200, 150, 3), np.uint8)
  boxes = np.array([[20, 10, 100, 180]], np.float32)
  in_bucket, published = (predictor(image, boxes) for predictor in predictors)
  assert in_bucket.shape == (1, 17, 3)
  np.testing.assert_array_equal(in_bucket, published)

  run = train.build(config, configuration.open_dataset(config), workdir)
  variables = importing.pretrained(str(workdir), run.model, config.model.channel_order)
  assert jax.tree.structure(variables['params'])


# What cannot be reached.


class Forbidden(http.server.BaseHTTPRequestHandler):
  """A bucket that this account may read, but not write."""

  def do_GET(self):
    if self.path.startswith('/storage/v1/b/readable/o?'):
      self.answer(200, {'kind': 'storage#objects', 'items': []})
    elif 'readable' in self.path:
      self.answer(404, {'error': {'code': 404, 'message': 'Not Found'}})
    else:
      self.do_POST()

  def do_POST(self):
    self.rfile.read(int(self.headers.get('Content-Length') or 0))
    message = 'somebody does not have storage access'
    self.answer(403, {'error': {'code': 403, 'message': message}})

  def answer(self, code, content):
    body = json.dumps(content).encode()
    self.send_response(code)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    pass


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('absent', 'gs://absent: there is no such bucket'),
    ('private', 'gs://private: cannot be reached (Forbidden: '),
    ('readable', '--workdir=gs://readable/run: cannot be written to ('),
  ],
)
def test_buckets_that_cannot_be_used(name, said):
  """One line and exit code 2: no such bucket, one of somebody else, and one to read only."""
  emulated_buckets.new()
  environment = kill_runs.environment()
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Forbidden) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if name != 'absent':
      environment['STORAGE_EMULATOR_HOST'] = f'http://127.0.0.1:{server.server_port}'
    done = subprocess.run(
      kill_runs.command(f'gs://{name}/run', 1.0),
      cwd=kill_runs.ROOT,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )
    server.shutdown()
  assert done.returncode == 2, done.stderr
  assert done.stderr.splitlines()[-1].startswith(f'ConfigError: {said}'), done.stderr
  assert 'Traceback' not in done.stderr


def test_without_the_package(monkeypatch):
  code = (
    'import sys\n'
    "sys.modules['gcsfs'] = None\n"
    'from mrpose_jax import command_line, paths\n'
    "command_line.run(lambda arguments: paths.parse('gs://bucket/run'))\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=kill_runs.ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert done.stderr == "ConfigError: gs:// needs a package: pip install 'mrpose_jax[gcs]'\n"
