"""Throughput of the host in people per second: this project's loader against a plain cv2 loader.

Both supply the same augmented training on two cores, in batches of 32. Ours reads prepared patches
and leaves augmentation and heatmaps to the accelerator. The plain loader works like most pose
estimation code: two processes read whole images, and warp, normalise and draw heatmaps person by
person. The two take turns, so that other load on the machine affects both.
"""

import contextlib
import itertools
import math
import multiprocessing
import pathlib
import statistics
import time

import cv2
import jax
import numpy as np

from benchmarks import turns
from mrpose_jax import defaults
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.datasets import coco
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import transfer

BATCH = 32
CROP, HEATMAP, SIGMA = (256, 192), (64, 48), 2  # (height, width); heatmap pixels
MEAN = 255 * np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = 255 * np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]

BATCHES = 40  # per turn
BOXES_OF_IMAGE = 21


def run(num_turns, scratch: pathlib.Path, coco_folder=None, image_set='train2017') -> dict:
  """Measures both loaders on synthetic people and, if a folder is given, on a COCO data set."""
  sources = {'synthetic_people': (scratch / 'synthetic_people_images', 'train')}
  prepare.prepare('synthetic_people', None, scratch)
  if coco_folder:
    prepare.prepare('coco', coco_folder, scratch, train=image_set, validation=image_set)
    sources['coco'] = pathlib.Path(coco_folder), image_set
  results = {}
  for name, (source, split_name) in sources.items():
    dataset = prepared_data.open_dataset(name, scratch)
    split = coco.find_split(source, split_name)
    results[name] = compare(dataset, split, num_turns)
    results[name] |= {'stages': stages(dataset), 'scale': scale(dataset)}
    results[name] |= {'evaluation': evaluation_speed(dataset)}
  return results


def compare(dataset, split, num_turns) -> dict:
  """Measures people per second of both loaders in each turn."""
  people = [
    (str(split.image_folder / entry.file_name), person)
    for entry in coco_json.read(split.annotation_file).images
    for person in entry.people
  ]
  ours, plain = [], []
  with multiprocessing.get_context('spawn').Pool(2, _start_plain, (people,)) as pool:
    for i in range(num_turns):
      ours.append(speed(loader.train_batches(dataset, BATCH, seed=i)))
      tasks = [(i, step) for step in range(BATCHES + 1)]
      plain.append(speed(map(jax.device_put, pool.imap(_plain_batch, tasks))))
  ratios = [a / b for a, b in zip(ours, plain)]
  return {'people': len(people), 'ours': ours, 'plain': plain, 'ratio': ratios}


def speed(batches) -> float:
  """People per second up to the device, measured after the first batch."""
  with contextlib.closing(transfer.to_device(batches)) as on_device:
    jax.block_until_ready(next(on_device))
    start = time.perf_counter()
    for batch in itertools.islice(on_device, BATCHES):
      jax.block_until_ready(batch)
    return BATCHES * BATCH / (time.perf_counter() - start)


def scale(dataset) -> dict[str, float]:
  """People per second with 1, 2 and 4 threads, and with 1 and 2 worker processes."""
  options = [(f'{n} threads', {'num_threads': n}) for n in (1, 2, 4)]
  options += [(f'{n} workers', {'num_workers': n}) for n in (1, 2)]
  return {
    name: speed(loader.train_batches(dataset, BATCH, seed=0, **option)) for name, option in options
  }


def evaluation_speed(dataset) -> dict[str, float]:
  """Boxes per second of processor time that evaluation reads, decodes, cuts and packs.

  Each image has 21 boxes near its people, as the 5,000 images of COCO's validation set have with
  the 104,125 boxes of the detector that the paper uses.
  """
  r = np.random.default_rng(0)
  rows = np.concatenate(
    [
      r.choice(np.flatnonzero(dataset.people.image_ids == image_id), BOXES_OF_IMAGE)
      for image_id in np.unique(dataset.people.image_ids)
    ]
  )
  boxes = dataset.people.boxes[rows]
  corner = boxes[:, :2] + r.normal(0, 0.1, (len(rows), 2)) * boxes[:, 2:]
  side = boxes[:, 2:] * r.uniform(0.8, 1.2, (len(rows), 1))
  detections = {
    'image_ids': dataset.people.image_ids[rows],
    'boxes': np.concatenate([corner, side], 1).astype(np.float32),
    'category_ids': np.ones(len(rows), np.int64),
    'scores': np.ones(len(rows), np.float32),
  }
  start = time.process_time()
  batches = loader.evaluation_batches(dataset, BATCH, defaults.get_config().eval.canvas, detections)
  blocks = sum(int(batch.patches.grid.prod(1).sum()) for batch, _ in batches)
  seconds = time.process_time() - start
  return {
    'boxes per second of processor time': len(rows) / seconds,
    'bytes per box': 3 * math.prod(batching.BLOCK) * blocks / len(rows),
  }


def stages(dataset) -> dict[str, float]:
  """People per second on one core, for each stage separately.

  On a CPU the transfer is what puts the patches onto canvases.
  """
  source = dataset.source('train')
  indices = np.random.default_rng(0).permutation(len(source))[:256].tolist()
  records = [source[i] for i in indices]
  canvas = int(dataset.crops['canvas'])
  decoded = [image_files.decode(record['image'], 'record') for record in records]

  def assemble():
    for i in range(0, len(records), BATCH):
      batch = records[i : i + BATCH]
      box = np.concatenate([record['people']['box'] for record in batch])
      center, size = geometry.box_to_region(box, 0.75, 1.25)
      examples = [
        batching.person_example(
          image_files.Patch(decoded[i + n], record['origin'], record['zoom']),
          center[n],
          size[n],
          record['people']['keypoints'][0],
          record['people']['visible'][0],
        )
        for n, record in enumerate(batch)
      ]
      people = batching.pack(examples, canvas)
    return people

  people = assemble()

  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])

  def put():
    for _ in range(0, len(records), BATCH):
      jax.block_until_ready(transfer.unpack(transfer.put(people, place), place))

  work = {
    'read': lambda: [source[i] for i in indices],
    'decode': lambda: [image_files.decode(record['image'], 'record') for record in records],
    'batch': assemble,
    'transfer': put,
  }
  return {name: len(records) / _seconds(function) for name, function in work.items()}


def _seconds(function, times=5):
  """Median duration of several calls, in seconds."""
  seconds = []
  for _ in range(times):
    start = time.perf_counter()
    function()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


# The plain loader.


def _start_plain(people):
  global _people
  _people = people
  cv2.setNumThreads(1)  # each process uses one core


def _plain_batch(task):
  rng = np.random.default_rng(task)
  chosen = rng.integers(len(_people), size=BATCH)
  inputs, heatmaps, weights = zip(*(_plain_person(*_people[i], rng) for i in chosen))
  return np.stack(inputs), np.stack(heatmaps), np.stack(weights)


def _plain_person(path, person, rng):
  """Returns input [3, 256, 192], heatmaps [K, 64, 48] and weights [K] of one person."""
  image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
  center, size = geometry.box_to_region(person.box, aspect=0.75, padding=1.25)
  size = size * (1 + rng.uniform(-0.4, 0.4))
  rotation, flip = rng.uniform(-30, 30), rng.random() < 0.5
  matrix = geometry.region_to_crop(center, size, CROP, rotation, flip)
  crop = cv2.warpAffine(image, matrix, CROP[::-1], flags=cv2.INTER_LINEAR)
  inputs = np.ascontiguousarray(crop.transpose(2, 0, 1), np.float32)
  inputs -= MEAN
  inputs /= STD
  keypoints = geometry.transform(matrix, person.keypoints)
  order = [0, *(i + (1 if i % 2 else -1) for i in range(1, 17))] if flip else slice(None)
  heatmaps, weights = _plain_heatmaps(keypoints[order], person.visible[order])
  return inputs, heatmaps, weights


def _plain_heatmaps(keypoints, visible):
  """Gaussians out to 3 sigma, pasted at whole pixels, as in the released code."""
  height, width = HEATMAP
  reach = 3 * SIGMA
  axis = np.arange(2 * reach + 1, dtype=np.float32) - reach
  gaussian = np.exp(-(np.square(axis) + np.square(axis)[:, None]) / (2 * SIGMA**2))
  heatmaps = np.zeros((len(keypoints), height, width), np.float32)
  weights = (visible > 0).astype(np.float32)
  for k, (x, y) in enumerate((keypoints / 4 + 0.5).astype(int).tolist()):
    left, top, right, bottom = x - reach, y - reach, x + reach + 1, y + reach + 1
    if left >= width or top >= height or right <= 0 or bottom <= 0:
      weights[k] = 0
    elif weights[k]:
      rows = slice(max(top, 0), min(bottom, height))
      columns = slice(max(left, 0), min(right, width))
      heatmaps[k, rows, columns] = gaussian[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
      ]
  return heatmaps, weights


def report(results) -> str:
  """Returns the results of `run` as Markdown tables."""
  lines = [
    f'| people/s, {BATCHES} batches of {BATCH} | our loader | plain cv2, 2 processes | ratio |',
    '|---|---|---|---|',
  ]
  for name, result in results.items():
    columns = [turns.spread(result['ours'], '.0f'), turns.spread(result['plain'], '.0f')]
    lines.append(f'| {name} | {" | ".join(columns)} | {turns.spread(result["ratio"], ".1f")} |')
  lines += ['', '| people/s per core | read | decode | batch | transfer |', '|---|---|---|---|---|']
  for name, result in results.items():
    columns = ' | '.join(f'{value:.0f}' for value in result['stages'].values())
    lines.append(f'| {name} | {columns} |')
  for table in ('scale', 'evaluation'):
    names = next(iter(results.values()))[table]
    kind = 'people/s' if table == 'scale' else 'evaluation'
    lines += ['', f'| {kind} | {" | ".join(names)} |', '|---' * (1 + len(names)) + '|']
    for name, result in results.items():
      columns = ' | '.join(f'{value:.0f}' for value in result[table].values())
      lines.append(f'| {name} | {columns} |')
  return '\n'.join(lines)
