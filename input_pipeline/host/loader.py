"""Loads prepared records as batches for the devices.

The host only reads, decodes and batches. The people of a step depend on (seed, step) alone (see
mixing.py), so a run that is resumed at step n reads the same batches as an uninterrupted run, with
any number of workers.
"""

import collections
import dataclasses
import itertools
import math
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from mrpose_jax import errors
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import cores
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import mixing
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import records

# More threads than cores, or than Python's lock lets run at once, only slow each other down.
MOST_THREADS = 8
# Threads read people ahead until these bytes of patches could be full; at least one batch.
READ_AHEAD_BYTES = 2**29
# A thread reads this number of people at a time, so that several threads share a batch.
_PEOPLE_AT_A_TIME = 16
# A worker process decodes in one thread and reads no further ahead than its queue of one batch.
_READ_IN_WORKER = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
# Batches that are in shared memory at the same time, at most. For each worker: the one that it
# writes, one in its queue, and two that Grain has received ahead of their turn. In the main
# process: three in `transfer.to_device`, the one of the current step, and one that is being freed.
_SHARED_BATCHES_OF_A_WORKER = 4
_SHARED_BATCHES = 5
_SHARED_MEMORY = pathlib.Path('/dev/shm')


class Rows(NamedTuple):
  """The part of an evaluation batch that the host keeps, one row per person.

  Attributes:
    image_ids: [M] int64.
    person_ids: [M] int64; -1 for a detection.
    box_scores: [M] float32; 1 for an annotated box.
    center, size: [M, 2] float32 centres and sizes of the regions, in image pixels.
    category_ids: [M] int64, those of the annotations or detections.
  """

  image_ids: np.ndarray
  person_ids: np.ndarray
  box_scores: np.ndarray
  center: np.ndarray
  size: np.ndarray
  category_ids: np.ndarray


def train_batches(
  dataset: prepared_data.Dataset,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  num_workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int | None = None,
) -> Iterator[batching.PersonBatch]:
  """Yields this process's part of every global batch from `start_step` on, without end.

  Their patches are `batching.Packed`; `transfer.to_device` or `batching.unpack` follows.

  Each epoch is a new shuffle of all people. The last batch of an epoch is completed from the next
  epoch, so every person is read once per epoch. In a mix, this holds for each of its data sets.

  Args:
    dataset: from `open_dataset`, with or without a mix.
    batch_size: global batch size. Each process yields its share of consecutive rows; the shares of
      all processes, concatenated, are the batch that a single process would yield.
    seed: seed of the shuffle.
    start_step: step of the first batch.
    num_workers: number of processes that decode, each in one thread; 0 decodes in threads of this
      process.
    process_index, process_count: as in jax.distributed.
    num_threads: number of threads that decode without workers; by default one for each core, at
      most MOST_THREADS.

  Raises:
    ConfigError: a batch size that is not a multiple of process_count, or too little shared memory
      for the batches of worker processes.
    DataError: records that cannot be read, on opening or later, or a worker that was killed.
  """
  share = _share(batch_size, process_count)
  source = mixing.TrainingRecords(dataset)
  people = source.in_order(seed, batch_size)
  crops = dataset.crops | {'canvas': dataset.training_canvas}
  # In a worker an element is this process's part of a batch, in threads a part of that part.
  count = share if num_workers else _largest_divisor(share, _PEOPLE_AT_A_TIME)
  parts = share // count
  elements = grain.MapDataset.range(start_step * parts, sys.maxsize)
  first_row = process_index * share
  elements = elements.map(_TrainPart(source, people, crops, batch_size, first_row, parts, count))
  shared_bytes = 0
  if num_workers:
    batches = elements.to_iter_dataset(_READ_IN_WORKER)
    shared_bytes = _check_shared_memory(share, int(crops['canvas']), num_workers)
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
    options = grain.MultiprocessingOptions(num_workers=num_workers)
    batches = batches.mp_prefetch(options, worker_init_fn=_end_with_parent)
  else:
    part_bytes = batching.most_bytes(count, int(crops['canvas']))
    batches = elements.to_iter_dataset(_read_options(part_bytes, parts, num_threads))
    batches = batches.batch(parts, batch_fn=batching.concatenate)
  return _report_dead_workers(iter(batches), shared_bytes)


def people_of_step(
  dataset: prepared_data.Dataset, batch_size: int, seed: int, step: int
) -> list[tuple[pathlib.Path, int]]:
  """Folder of the data set and id of each person in step `step` (from 0) of `train_batches`.

  The people are those of all processes, in the order of the rows of the global batch.
  """
  source = mixing.TrainingRecords(dataset)
  people = source.in_order(seed, batch_size)
  numbers = [people[row] for row in range(step * batch_size, (step + 1) * batch_size)]
  return [
    (source.folder_of(number), int(source[number]['people']['person_id'][0])) for number in numbers
  ]


def evaluation_batches(
  dataset: prepared_data.Dataset,
  batch_size: int,
  canvas: int,
  detections: dict[str, np.ndarray] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  scale: float = 1.0,
) -> Iterator[tuple[batching.PersonBatch, Rows]]:
  """Yields every person of split 'validation' once; batches are filled up with empty patches.

  The patches are `batching.Packed`; `transfer.to_device` or `batching.unpack` follows.

  Each image is decoded once, however many boxes it has. Each process reads every process_count-th
  image, starting at process_index. All processes yield the same number of batches, which is that of
  the process with the most people.

  Args:
    dataset: from `open_dataset`.
    batch_size: global batch size; each process yields its share.
    canvas: side of the patches in pixels; a region that covers more image pixels is averaged down.
    detections: from `detection_files.read`; by default the annotated boxes are used.
    process_index, process_count: as in jax.distributed.
    scale: largest factor on the regions' size that is cropped, see `eval.scales`.

  Yields:
    A batch of this process's share of people, and the Rows of its real people, which come first.
    A batch may have none.

  Raises:
    ConfigError: a batch size that is not a multiple of process_count.
    DataError: no person is annotated, no detection belongs to any of the images, or records cannot
      be read.
  """
  share = _share(batch_size, process_count)
  source = dataset.source('validation')
  by_image = collections.defaultdict(list)
  if detections is None:
    counts = dataset.people_of_images.values()
  else:
    for row, image_id in enumerate(detections['image_ids'].tolist()):
      by_image[image_id].append(row)
    counts = [len(by_image[image_id]) for image_id in dataset.people_of_images]
  if not sum(counts):
    problem = 'no person is annotated in'
    if detections is not None:
      problem = 'no detection is on an image of'
    raise errors.DataError(f'{dataset.folder}: {problem} split validation')
  shares = [sum(list(counts)[i::process_count]) for i in range(process_count)]

  def add_boxes(record):
    if detections is None:
      people = record['people']
      box = np.asarray(people['box'], np.float32).reshape(-1, 4)
      ids = np.asarray(people['person_id'], np.int64)
      return record, box, ids, np.ones(len(box), np.float32), dataset.categories_of(ids)
    rows = np.array(by_image[int(record['image_id'])], np.int64)
    box, scores = detections['boxes'][rows], detections['scores'][rows]
    categories = detections['category_ids'][rows]
    return record, box, np.full(len(rows), -1, np.int64), scores, categories

  patches = grain.MapDataset.source(source)[process_index::process_count]
  patches = patches.map(add_boxes).map(_EvaluationPatches(dataset, canvas, scale))
  people_of_image = max(1, round(max(shares) * process_count / len(dataset.people_of_images)))
  image_bytes = batching.most_bytes(people_of_image, canvas)
  patches = patches.to_iter_dataset(_read_options(image_bytes, math.ceil(share / people_of_image)))
  pairs = itertools.chain.from_iterable(patches)
  filler = batching.pack([batching.empty(dataset.skeleton.num_keypoints)], canvas)
  for _ in range(math.ceil(max(shares) / share)):
    people = list(itertools.islice(pairs, share))
    examples = [example for example, _ in people] + [filler] * (share - len(people))
    yield batching.concatenate(examples), _stack_rows([row for _, row in people])


@dataclasses.dataclass(frozen=True)
class _TrainPart:
  """Maps the number of an element to a PersonBatch of `count` rows of a global batch.

  Element n is part n % parts of this process's rows of step n // parts; `first_row` is the first of
  these rows.
  """

  source: mixing.TrainingRecords
  people: grain.MapDataset  # record numbers (one person each), in training order
  crops: dict[str, float]
  batch_size: int
  first_row: int
  parts: int
  count: int

  def __call__(self, element: int) -> batching.PersonBatch:
    step, part = divmod(element, self.parts)
    first = step * self.batch_size + self.first_row + part * self.count
    numbers = [self.people[i] for i in range(first, first + self.count)]
    rows = [self.source[number] for number in numbers]
    box = np.concatenate([record['people']['box'] for record in rows])
    center, size = geometry.box_to_region(box, self.crops['aspect'], self.crops['padding'])
    examples = [
      batching.person_example(
        image_files.Patch(_person_pixels(record, folder), record['origin'], record['zoom']),
        center[i],
        size[i],
        record['people']['keypoints'][0],
        record['people']['visible'][0],
      )
      for i, (record, folder) in enumerate(zip(rows, map(self.source.folder_of, numbers)))
    ]
    return batching.pack(examples, int(self.crops['canvas']))


def _person_pixels(record, folder):
  person_id = record['people']['person_id'][0]
  where = f'person {person_id} of {_text(record["file_name"])} in {folder}'
  return records.decode_image(record, where)


@dataclasses.dataclass(frozen=True)
class _EvaluationPatches:
  """Maps the record of one image and its boxes to a list of one (PersonBatch, Rows) per box."""

  dataset: prepared_data.Dataset
  canvas: int
  scale: float

  def __call__(self, record_and_boxes):
    record, box, person_ids, scores, categories = record_and_boxes
    if not len(box):
      return []
    crops = self.dataset.crops
    image = records.decode_image(record, _text(record['file_name']))
    center, size = geometry.box_to_region(box, crops['aspect'], crops['padding'])
    low, high = geometry.reach(center, size * self.scale)
    unknown = np.zeros((self.dataset.skeleton.num_keypoints, 2), np.float32)
    examples = []
    for i in range(len(box)):
      patch = image_files.cut_patch(image, low[i], high[i], self.canvas)
      example = batching.person_example(patch, center[i], size[i], unknown, unknown[:, 0])
      row = Rows(record['image_id'], person_ids[i], scores[i], center[i], size[i], categories[i])
      examples.append((batching.pack([example], self.canvas), row))
    return examples


def _stack_rows(rows: list[Rows]) -> Rows:
  """Stacks the Rows of single people; types and shapes are right even if there are none."""
  ids, person_ids, scores, center, size, categories = (
    zip(*rows) if rows else [()] * len(Rows._fields)
  )
  return Rows(
    np.array(ids, np.int64),
    np.array(person_ids, np.int64),
    np.array(scores, np.float32),
    np.array(center, np.float32).reshape(-1, 2),
    np.array(size, np.float32).reshape(-1, 2),
    np.array(categories, np.int64),
  )


def _share(batch_size, process_count):
  """Number of people that each process yields per batch; raises ConfigError."""
  if batch_size % process_count:
    raise errors.ConfigError(
      f'batch size {batch_size} cannot be shared by {process_count} processes'
    )
  return batch_size // process_count


def _largest_divisor(number, limit):
  """The largest divisor of a number that is not above the limit."""
  return next(n for n in range(min(number, limit), 0, -1) if number % n == 0)


def _read_options(element_bytes, batch_elements, num_threads=None) -> grain.ReadOptions:
  """Options that read READ_AHEAD_BYTES ahead, and at least the elements of one batch."""
  ahead = max(batch_elements, READ_AHEAD_BYTES // element_bytes)
  num_threads = num_threads or min(MOST_THREADS, cores.available())
  return grain.ReadOptions(num_threads=min(num_threads, ahead), prefetch_buffer_size=ahead)


def _end_with_parent(worker_index, worker_count):
  """Makes a worker process end when its parent ends, even if the parent was killed."""
  del worker_index, worker_count

  def wait():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def shared_memory_bytes(count: int, canvas: int, num_workers: int) -> int:
  """Most bytes of shared memory that worker processes need for batches of `count` people."""
  return _shared_batches(num_workers) * batching.most_bytes(count, canvas)


def _shared_batches(num_workers):
  return _SHARED_BATCHES_OF_A_WORKER * num_workers + _SHARED_BATCHES


def _check_shared_memory(count, canvas, num_workers) -> int:
  """Returns the bytes of shared memory that batches of `count` people need; raises ConfigError."""
  needed = shared_memory_bytes(count, canvas, num_workers)
  if _SHARED_MEMORY.exists() and shutil.disk_usage(_SHARED_MEMORY).free < needed:
    batches = f'{_shared_batches(num_workers)} batches of {count} people'
    raise errors.ConfigError(
      f'data.num_workers={num_workers}: {_shared_memory_advice(needed)} ({batches} on a canvas of '
      f'{canvas} pixels)'
    )
  return needed


def _shared_memory_advice(needed):
  free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.exists() else 0
  return (
    f'worker processes send batches through shared memory and need {math.ceil(needed / 2**20)} MiB '
    f'of {_SHARED_MEMORY}, where {free // 2**20} MiB are free; start the container with '
    f'--shm-size={math.ceil(needed / 2**20)}m, or set data.num_workers=0 to decode in threads'
  )


def _report_dead_workers(batches, shared_bytes):
  """Yields the batches; a worker's death raises DataError, and no worker outlives the iterator."""
  try:
    yield from batches
  except RuntimeError as error:
    if 'Worker process was terminated' not in str(error):
      raise
    code = re.search(r'exit code (-?\d+)', str(error))
    code = int(code[1]) if code else 'unknown'
    if code == -signal.SIGBUS:
      advice = f'shared memory ran out: {_shared_memory_advice(shared_bytes)}'
    else:
      advice = (
        '-9 usually means that memory ran out; start again, perhaps with fewer data.num_workers'
      )
    raise errors.DataError(
      f'a process that decodes images died with exit code {code}; {advice}'
    ) from error
  finally:
    batches.close()


def _text(value):
  return value.decode() if isinstance(value, bytes) else str(value)
