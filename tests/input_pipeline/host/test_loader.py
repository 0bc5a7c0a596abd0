import collections
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import records
from mrpose_jax.input_pipeline.host import transfer
from tests.helpers import tiny_coco

CANVAS = 64


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return tiny_coco.write(tmp_path_factory.mktemp('source'))


@pytest.fixture(scope='module')
def dataset(source, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('data')
  prepare.prepare('coco', source, data_dir, canvas=CANVAS)
  return prepared_data.open_dataset('coco', data_dir)


def take(dataset, count, batch_size=4, seed=0, **options):
  batches = loader.train_batches(dataset, batch_size, seed, **options)
  return list(map(batching.unpack, itertools.islice(batches, count)))


def evaluate(dataset, batch_size, *arguments):
  """The batches of an evaluation, on canvases, with their rows."""
  batches = loader.evaluation_batches(dataset, batch_size, CANVAS, *arguments)
  return [(batching.unpack(batch), rows) for batch, rows in batches]


def assert_same(batches, others):
  for batch, other in zip(batches, others, strict=True):
    for name, array, expected in zip(batch._fields, batch, other):
      np.testing.assert_array_equal(array, expected, err_msg=name)


def people(batch):
  """The regions of a batch, which identify the people of the tiny data set."""
  return [tuple(row) for row in np.concatenate([batch.center, batch.size], -1).tolist()]


def test_a_training_batch(dataset, source):
  (batch,) = take(dataset, 1, batch_size=6)
  assert {name: (array.shape, array.dtype.name) for name, array in batch._asdict().items()} == {
    'patches': ((6, CANVAS, CANVAS, 3), 'uint8'),
    'origin': ((6, 2), 'float32'),
    'zoom': ((6, 2), 'float32'),
    'center': ((6, 2), 'float32'),
    'size': ((6, 2), 'float32'),
    'keypoints': ((6, 3, 2), 'float32'),
    'visible': ((6, 3), 'float32'),
  }
  path = source / 'annotations/person_keypoints_train2017.json'
  for entry in coco_json.read(path).images:
    for person in entry.people:
      center, size = geometry.box_to_region(person.box, 0.75, 1.25)
      row = people(batch).index((*center.tolist(), *size.tolist()))
      np.testing.assert_array_equal(batch.keypoints[row], person.keypoints)
      np.testing.assert_array_equal(batch.visible[row], person.visible)


def test_patches_are_zero_beyond_their_size(dataset):
  (batch,) = take(dataset, 1, batch_size=6)
  shown = np.minimum(([80, 64] - batch.origin) * batch.zoom, CANVAS)  # up to the image's end
  for patch, (width, height) in zip(batch.patches, np.ceil(shown).astype(int)):
    assert patch.any()
    assert not patch[height:].any()
    assert not patch[:, width:].any()


def test_a_later_start_reads_what_an_unbroken_run_reads(dataset):
  unbroken = take(dataset, 7)
  for start in (1, 3, 6):  # in the middle of an epoch, at its end, in a later one
    assert_same(take(dataset, 7 - start, start_step=start), unbroken[start:])


def test_every_person_is_seen_once_an_epoch(dataset):
  seen = [person for batch in take(dataset, 9) for person in people(batch)]  # 36 rows of 6 people
  epochs = [tuple(seen[i : i + 6]) for i in range(0, 36, 6)]
  assert all(len(set(epoch)) == 6 for epoch in epochs)
  assert len(set(epochs)) > 3  # each epoch is a new shuffle


def test_the_seed_decides_the_order(dataset):
  assert_same(take(dataset, 3, seed=5), take(dataset, 3, seed=5))
  orders = {tuple(map(tuple, map(people, take(dataset, 3, seed=seed)))) for seed in range(4)}
  assert len(orders) == 4


@pytest.mark.parametrize('process_count', [1, 2, 4])
@pytest.mark.parametrize('start_step', [0, 2])
def test_process_shares_follow_each_other_in_the_global_batch(dataset, process_count, start_step):
  whole = take(dataset, 3, start_step=start_step)
  shares = [
    take(dataset, 3, start_step=start_step, process_index=i, process_count=process_count)
    for i in range(process_count)
  ]
  for batch, parts in zip(whole, zip(*shares)):
    for i, part in enumerate(parts):
      rows = slice(i * len(part.patches), (i + 1) * len(part.patches))
      assert_same([part], [batching.PersonBatch(*(array[rows] for array in batch))])


def test_a_batch_that_cannot_be_shared_is_refused(dataset):
  with pytest.raises(errors.ConfigError, match='batch size 4 cannot be shared by 3 processes'):
    take(dataset, 1, process_count=3)


def test_any_number_of_workers_reads_the_same(dataset):
  expected = take(dataset, 3, start_step=1)
  for num_workers in (1, 2, 3):
    assert_same(take(dataset, 3, start_step=1, num_workers=num_workers), expected)


def test_a_killed_worker_is_reported(dataset):
  batches = loader.train_batches(dataset, 4, seed=0, num_workers=1)
  next(batches)
  (worker,) = multiprocessing.active_children()
  os.kill(worker.pid, signal.SIGKILL)
  start = time.monotonic()
  with pytest.raises(
    errors.DataError, match='died with exit code -9; -9 usually means that memory'
  ):
    for _ in range(100):  # batches that it read before are still delivered
      next(batches)
  assert time.monotonic() - start < 60


def test_a_worker_that_shared_memory_was_too_small_for(dataset):
  batches = loader.train_batches(dataset, 4, seed=0, num_workers=1)
  next(batches)
  (worker,) = multiprocessing.active_children()
  os.kill(worker.pid, signal.SIGBUS)
  with pytest.raises(errors.DataError, match=r'code -7; shared memory ran out: .*--shm-size=1m'):
    for _ in range(100):
      next(batches)


def test_too_little_shared_memory_is_refused_at_the_start(dataset, monkeypatch):
  """At most 4 batches of each worker and 5 others, of 600 people of 64 x 64 pixels, are there."""
  # Two blocks of 32 x 128 pixels hold a patch, and a sixteenth of a batch may follow.
  needed = (4 * 2 + 5) * (600 * 2 + 75) * 32 * 128 * 3  # 194.2 MiB
  usage = collections.namedtuple('usage', 'total used free')

  def start(free, num_workers):
    monkeypatch.setattr(loader.shutil, 'disk_usage', lambda path: usage(free + 100, 100, free))
    loader.train_batches(dataset, 600, seed=0, num_workers=num_workers)

  start(needed, num_workers=2)
  start(0, num_workers=0)  # threads need none
  message = (
    r'^data\.num_workers=2: .* need 195 MiB of /dev/shm, where 64 MiB are free; start the '
    r'container with --shm-size=195m, or set data\.num_workers=0 .*\(13 batches of 600 people'
  )
  with pytest.raises(errors.ConfigError, match=message):
    start(64 * 2**20, num_workers=2)
  with pytest.raises(errors.ConfigError):
    start(needed - 1, num_workers=2)


def test_batches_in_shared_memory_are_no_more_than_assumed(dataset):
  """Counts the files of batches while steps are slower than the workers."""
  num_workers = 2
  batch_bytes = 64 * CANVAS**2  # fewer than a batch of these people has, more than other files
  before = set(os.listdir('/dev/shm'))
  batches = loader.train_batches(dataset, 64, seed=0, num_workers=num_workers)
  counts = []
  for _ in itertools.islice(transfer.to_device(batches), 6):
    time.sleep(0.2)  # a step; the workers fill their queues
    sizes = [size_of(f'/dev/shm/{name}') for name in set(os.listdir('/dev/shm')) - before]
    counts.append(sum(size >= batch_bytes for size in sizes))
  batches.close()
  assert 1 < max(counts) <= 4 * num_workers + 5


def size_of(path):
  """Size of a file; 0 if it was just removed."""
  try:
    return os.path.getsize(path)
  except OSError:
    return 0


def test_no_worker_outlives_its_iterator(dataset):
  batches = loader.train_batches(dataset, 4, seed=0, num_workers=2)
  next(batches)
  workers = multiprocessing.active_children()
  assert len(workers) == 2
  batches.close()
  assert not any(worker.is_alive() for worker in workers)


READS_AND_WAITS = """
import multiprocessing, pathlib, sys, time
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data

if __name__ == '__main__':
  dataset = prepared_data.open_dataset('coco', sys.argv[1])
  batches = loader.train_batches(dataset, 4, seed=0, num_workers=2)
  next(batches), next(batches)
  print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
  time.sleep(600)
"""


def test_no_worker_outlives_a_killed_parent(dataset, tmp_path):
  script = tmp_path / 'reads_and_waits.py'
  script.write_text(READS_AND_WAITS)
  command = [sys.executable, str(script), str(dataset.folder.parents[1])]
  environment = {**os.environ, 'PYTHONPATH': str(pathlib.Path(__file__).parents[3])}
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_running, workers))
    parent.kill()
  deadline = time.monotonic() + 60
  while any(map(is_running, workers)) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not any(map(is_running, workers))


def is_running(pid):
  """Whether a process exists and is not a zombie."""
  try:
    status = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return status.rpartition(')')[2].split()[0] != 'Z'


def test_evaluation_sees_every_annotated_box_once(dataset, source):
  batches = evaluate(dataset, 4)
  assert [len(rows.person_ids) for _, rows in batches] == [4, 1]
  rows = loader.Rows(*(np.concatenate(column) for column in zip(*(rows for _, rows in batches))))
  assert sorted(rows.person_ids.tolist()) == [210, 211, 212, 230, 231]
  np.testing.assert_array_equal(rows.image_ids, rows.person_ids // 10)
  np.testing.assert_array_equal(rows.box_scores, np.ones(5))
  path = source / 'annotations/person_keypoints_val2017.json'
  for entry in coco_json.read(path).images:
    for person in entry.people:
      row = rows.person_ids.tolist().index(person.id)
      center, size = geometry.box_to_region(person.box, 0.75, 1.25)
      np.testing.assert_array_equal(rows.center[row], center)
      np.testing.assert_array_equal(rows.size[row], size)


def test_the_last_evaluation_batch_is_filled_up(dataset):
  for batch, rows in evaluate(dataset, 4):
    assert {len(array) for array in batch} == {4}
    real = len(rows.person_ids)
    np.testing.assert_array_equal(batch.center[:real], rows.center)
    np.testing.assert_array_equal(batch.size[:real], rows.size)
    assert batch.patches[:real].any((1, 2, 3)).all()
    assert not batch.patches[real:].any()
    assert (batch.size[real:] > 0).all()  # a region that can be cropped


def evaluation_of_all(dataset, batch_size, process_count, detections=None):
  """Returns the batches and rows of each process."""
  return [
    evaluate(dataset, batch_size, detections, index, process_count)
    for index in range(process_count)
  ]


@pytest.mark.parametrize('process_count', [1, 2, 3, 4])  # with 4 processes, one has no image
@pytest.mark.parametrize('detected', [False, True])
def test_processes_share_an_evaluation(dataset, detections, process_count, detected):
  detections = detections if detected else None
  batch_size = 2 * process_count
  found = evaluation_of_all(dataset, batch_size, process_count, detections)
  assert len({len(batches) for batches in found}) == 1
  people = []
  for batch, rows in itertools.chain(*found):
    assert {len(array) for array in batch} == {2}
    real = len(rows.image_ids)
    assert {len(column) for column in rows} == {real}
    np.testing.assert_array_equal(batch.center[:real], rows.center)
    assert not batch.patches[real:].any() and (batch.size[real:] > 0).all()
    people += zip(rows.image_ids.tolist(), rows.center.tolist(), rows.size.tolist())
  ((_, expected),) = loader.evaluation_batches(dataset, 8, CANVAS, detections)
  whole = zip(expected.image_ids.tolist(), expected.center.tolist(), expected.size.tolist())
  assert sorted(people) == sorted(whole)


def test_rows_of_a_process_without_an_image_have_the_types_of_others(dataset):
  _, _, _, (without,) = evaluation_of_all(dataset, 12, 4)
  ((_, expected),) = loader.evaluation_batches(dataset, 8, CANVAS)
  batch, rows = without
  assert [len(column) for column in rows] == [0] * 6
  for column, other in zip(rows, expected):
    assert column.dtype == other.dtype and column.shape[1:] == other.shape[1:]
  assert batch.patches.shape == (3, CANVAS, CANVAS, 3) and not batch.patches.any()


def test_an_evaluation_batch_that_cannot_be_shared_is_refused(dataset):
  with pytest.raises(errors.ConfigError, match='batch size 4 cannot be shared by 3 processes'):
    evaluation_of_all(dataset, 4, 3)


def test_a_second_evaluation_counts_no_people_again(dataset, monkeypatch):
  list(loader.evaluation_batches(dataset, 4, CANVAS))
  asked = []
  read = records.Records.__getitem__
  monkeypatch.setattr(
    records.Records, '__getitem__', lambda self, i: asked.append(i) or read(self, i)
  )
  list(loader.evaluation_batches(dataset, 4, CANVAS))
  assert sorted(asked) == [0, 1, 2]


def test_evaluation_patches_are_cut_from_the_image(dataset, source):
  for batch, rows in evaluate(dataset, 1):
    image = image_files.read(source / f'images/val2017/{rows.image_ids[0]}.png')
    corners = geometry.reach(rows.center[0], rows.size[0])
    patch = image_files.cut_patch(image, *corners, CANVAS)
    height, width = patch.pixels.shape[:2]
    np.testing.assert_array_equal(batch.patches[0, :height, :width], patch.pixels)
    np.testing.assert_array_equal(batch.origin[0], patch.origin)


@pytest.fixture
def detections():
  return {
    'image_ids': np.array([23, 21, 99, 22, 23], np.int64),
    'boxes': np.array([[i, 2 * i, 20, 30 + i] for i in range(5)], np.float32),
    'category_ids': np.ones(5, np.int64),
    'scores': np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32),
  }


def test_detections_are_joined_by_image(dataset, detections):
  batches = list(loader.evaluation_batches(dataset, 3, CANVAS, detections))
  assert [len(rows.image_ids) for _, rows in batches] == [3, 1]
  found = {}
  for _, rows in batches:
    assert (rows.person_ids == -1).all()
    for i, score in enumerate(rows.box_scores.tolist()):
      found[round(score, 3)] = rows.image_ids[i], *rows.center[i].tolist(), *rows.size[i].tolist()
  expected = {}
  for i in (0, 1, 3, 4):  # image 99 is not in the set
    center, size = geometry.box_to_region(detections['boxes'][i], 0.75, 1.25)
    score = round(float(detections['scores'][i]), 3)
    expected[score] = detections['image_ids'][i], *center.tolist(), *size.tolist()
  assert found == expected


def test_each_image_is_decoded_once(dataset, monkeypatch):
  decoded = []
  decode = image_files.decode
  monkeypatch.setattr(
    image_files, 'decode', lambda data, where: decoded.append(where) or decode(data, where)
  )
  assert sum(len(rows.person_ids) for _, rows in loader.evaluation_batches(dataset, 2, 64)) == 5
  assert sorted(decoded) == ['21.png', '23.png']  # image 22 has no people


def test_detections_of_other_images_are_refused(dataset, detections):
  detections['image_ids'] += 1000
  with pytest.raises(errors.DataError, match='no detection is on an image of split validation'):
    list(loader.evaluation_batches(dataset, 4, CANVAS, detections))
  nothing = {name: array[:0] for name, array in detections.items()}
  with pytest.raises(errors.DataError, match='no detection is on an image of split validation'):
    list(loader.evaluation_batches(dataset, 4, CANVAS, nothing))


def test_data_that_was_not_prepared_names_the_command(tmp_path):
  with pytest.raises(
    errors.DataError, match=r'python -m mrpose_jax.input_pipeline\.prepare --dataset=coco'
  ):
    prepared_data.open_dataset('coco', tmp_path)


def test_threads_share_a_batch(dataset):
  """Eighteen people are read nine at a time, the largest number up to 16 that divides them."""
  expected = [person for batch in take(dataset, 6, batch_size=9) for person in people(batch)]
  for num_threads in (1, 4):
    batches = take(dataset, 3, batch_size=18, num_threads=num_threads)
    assert [person for batch in batches for person in people(batch)] == expected


@pytest.mark.parametrize(
  ('element_bytes', 'batch_elements', 'expected'),
  [
    (2**20, 4, 512),  # as many as half a GiB holds
    (2**28 + 1, 1, 1),
    (2**30, 1, 1),  # one batch, although it is larger
    (2**30, 4, 4),
  ],
)
def test_people_are_read_ahead_by_memory(element_bytes, batch_elements, expected):
  options = loader._read_options(element_bytes, batch_elements, num_threads=3)
  assert options.prefetch_buffer_size == expected
  assert options.num_threads == min(3, expected)


@pytest.mark.parametrize(
  ('number', 'expected'), [(1, 1), (7, 7), (16, 16), (17, 1), (64, 16), (36, 12), (26, 13)]
)
def test_people_that_a_thread_reads_at_a_time(number, expected):
  assert loader._largest_divisor(number, 16) == expected
