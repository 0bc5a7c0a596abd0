"""Several small data sets as one: the order of their people and their keypoints."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest

from mrpose_jax import skeletons
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import mixing
from mrpose_jax.input_pipeline.host import prepared_data
from tests.helpers import tiny_coco

# The second data set has two of the robot's keypoints, in another order and with another one
# between them, and its patches are smaller.
NAMES = ['head', 'tail', 'left_hand']
POSITIONS = {'first': (0, 1, 2), 'second': (2, -1, 0)}
CANVAS = {'first': 64, 'second': 48}


def write(source, names, images):
  """Writes tiny_coco with other names of the keypoints, all of them labelled."""
  tiny_coco.write(source)
  for path in (source / 'annotations').iterdir():
    content = json.loads(path.read_text())
    content['categories'][0]['keypoints'] = names
    if 'train' in path.name:
      content['annotations'] = [row for row in content['annotations'] if row['image_id'] in images]
    for row in content['annotations']:
      x, y, width, height = row['bbox']
      row['keypoints'] = [x, y, 2, x + width, y, 1, x, y + height, 2]
    path.write_text(json.dumps(content))
  return source


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
  """Data sets of 6 and 4 people."""
  opened = {}
  for name, keypoints, images in (
    ('first', tiny_coco.CATEGORY['keypoints'], (11, 12, 13)),
    ('second', NAMES, (12, 13)),
  ):
    folder = tmp_path_factory.mktemp(name)
    prepare.prepare(
      'coco', write(folder / 'source', keypoints, images), folder, canvas=CANVAS[name]
    )
    opened[name] = prepared_data.open_dataset('coco', folder)
  return opened


def mix(parts, **weights):
  """The first data set with a mix of the named data sets."""
  members = [
    prepared_data.Member(parts[name], float(weight), POSITIONS[name])
    for name, weight in weights.items()
  ]
  return dataclasses.replace(parts['first'], mix=tuple(members))


def numbers(dataset, count, batch_size, seed=0):
  """The record numbers of the first steps: [count, batch_size]."""
  people = mixing.TrainingRecords(dataset).in_order(seed, batch_size)
  rows = [people[row] for row in range(count * batch_size)]
  return np.array(rows).reshape(count, batch_size)


def take(dataset, count, batch_size=4, seed=0, **options):
  batches = loader.train_batches(dataset, batch_size, seed, **options)
  return list(map(batching.unpack, itertools.islice(batches, count)))


def assert_same(batches, others):
  for batch, other in zip(batches, others, strict=True):
    for name, array, expected in zip(batch._fields, batch, other):
      np.testing.assert_array_equal(array, expected, err_msg=name)


def test_one_data_set_keeps_its_order(parts):
  """A run without a mix reads what it read before there were mixes; so does a mix of one."""
  expected = [[0, 4, 1, 2], [5, 3, 5, 2], [3, 0, 4, 1]]
  np.testing.assert_array_equal(numbers(parts['first'], 3, 4), expected)
  np.testing.assert_array_equal(numbers(mix(parts, first=2), 3, 4), expected)


def test_the_order_by_hand(parts):
  """Records 0 to 5 are those of the first data set, 6 to 9 those of the second.

  With weights 3 and 1, row k of the mix is the first data set's unless ceil(3 (k + 1) / 4) =
  ceil(3 k / 4), so every fourth row is the second's. The first data set continues in the order that
  it has alone, and the second in the order of seed 1; RandomState(step) shuffles each step.
  """
  first = iter(numbers(parts['first'], 10, 6).ravel())
  second = iter(6 + numbers(parts['second'], 10, 4, seed=1).ravel())
  for step, row in enumerate(numbers(mix(parts, first=3, second=1), 6, 8)):
    ordered = [next(second if k % 4 == 3 else first) for k in range(8)]
    np.testing.assert_array_equal(
      row, np.array(ordered)[np.random.RandomState(step).permutation(8)]
    )


@pytest.mark.parametrize('weights', [(3, 1), (0.3, 0.7), (1, 20)])
@pytest.mark.parametrize('batch_size', [4, 10])
def test_shares(parts, weights, batch_size):
  """Each step holds the share of the weights to within one person, and all steps together too."""
  people = numbers(mix(parts, first=weights[0], second=weights[1]), 12, batch_size)
  counts = (people < 6).sum(1)
  first, second = (int(100 * weight / min(weights)) for weight in weights)  # Grain's rounding
  share = first / (first + second)
  assert abs(share - weights[0] / sum(weights)) < 0.005
  assert (np.abs(counts - share * batch_size) < 1).all()
  assert abs(counts.sum() - share * people.size) < 1


def test_three_data_sets(parts):
  """Shares of 5, 3 and 2 in ten people, the third data set being the second once more."""
  dataset = mix(parts, first=0.5, second=0.3)
  third = dataclasses.replace(dataset.mix[1], weight=0.2)
  people = numbers(dataclasses.replace(dataset, mix=(*dataset.mix, third)), 10, 10)
  counts = np.stack([(people < 6).sum(1), ((people >= 6) & (people < 10)).sum(1)])
  assert (np.abs(counts - [[5], [3]]) < 2).all()
  np.testing.assert_array_equal(counts.sum(1), [50, 30])


def test_every_person_once_in_each_epoch_of_its_data_set(parts):
  """Of equal weights, steps of 12 people hold one epoch of the first data set each."""
  people = numbers(mix(parts, first=1, second=1), 8, 12)
  for row in people:
    assert collections.Counter(row[row < 6].tolist()) == dict.fromkeys(range(6), 1)
  second = np.concatenate([np.sort(row[row >= 6]) for row in people])
  assert collections.Counter(second.tolist()) == dict.fromkeys(range(6, 10), 12)
  for epoch in np.split(second.reshape(-1, 6), 4):  # two steps are three epochs
    assert collections.Counter(epoch.ravel().tolist()) == dict.fromkeys(range(6, 10), 3)
  orders = {tuple(row[row < 6].tolist()) for row in people}
  assert len(orders) == 8  # each epoch is a new shuffle


def test_parts_of_a_step_hold_both_data_sets(parts):
  """`train.accumulate` computes every second row together; consecutive rows share a device."""
  of_first = numbers(mix(parts, first=1, second=1), 12, 16) < 6
  np.testing.assert_array_equal(of_first.sum(1), np.full(12, 8))
  for part in (of_first[:, ::2], of_first[:, :8]):
    assert part.sum(1).min() > 0 and part.sum(1).max() < 8


def test_the_seed_decides_the_order(parts):
  dataset = mix(parts, first=3, second=1)
  orders = {tuple(numbers(dataset, 3, 8, seed).ravel()) for seed in (0, 1, 2, 2**32 - 1)}
  assert len(orders) == 4
  np.testing.assert_array_equal(numbers(dataset, 3, 8, 2), numbers(dataset, 3, 8, 2))


def test_workers_processes_and_starts_do_not_change_the_order(parts):
  dataset = mix(parts, first=3, second=1)
  whole = take(dataset, 4)
  assert_same(take(dataset, 2, start_step=2), whole[2:])
  for num_workers in (1, 2):
    assert_same(take(dataset, 4, num_workers=num_workers), whole)
  shares = [take(dataset, 4, process_index=i, process_count=2) for i in (0, 1)]
  assert_same(
    [batching.PersonBatch(*map(np.concatenate, zip(*pair))) for pair in zip(*shares)], whole
  )


def test_an_epoch_holds_all_people_of_all_data_sets(parts):
  assert len(mixing.TrainingRecords(mix(parts, first=3, second=1))) == 10
  assert len(mixing.TrainingRecords(mix(parts, second=1))) == 4
  assert len(mixing.TrainingRecords(parts['first'])) == 6


def test_keypoints_lie_in_the_order_of_the_first_skeleton(parts):
  """A missing keypoint is 0 and invisible; all else of a record is that of its data set."""
  together = mixing.TrainingRecords(mix(parts, first=1, second=1))
  alone = [*parts['first'].source('train'), *parts['second'].source('train')]
  for number, (record, expected) in enumerate(zip(together, alone, strict=True)):
    people, others = record['people'], expected['people']
    for name in ('person_id', 'box', 'area'):
      np.testing.assert_array_equal(people[name], others[name])
    x, y, width, height = people['box'][0] + np.float32([0, 0, 1, 1])  # boxes end at whole pixels
    assert people['keypoints'].dtype == np.float32 and people['visible'].dtype == np.int32
    if number < 6:  # left_hand, right_hand, head
      assert people['keypoints'].tolist() == [[[x, y], [x + width, y], [x, y + height]]]
      assert people['visible'].tolist() == [[2, 1, 2]]
    else:  # the annotated order is head, tail, left_hand
      assert people['keypoints'].tolist() == [[[x, y + height], [0, 0], [x, y]]]
      assert people['visible'].tolist() == [[2, 0, 2]]
  with pytest.raises(IndexError):
    together[10]


def test_patches_lie_on_the_largest_canvas(parts):
  """The batch equals those that the data sets have alone, whose canvases are 64 and 48."""
  dataset = mix(parts, first=1, second=1)
  rows, pixels = {}, {}
  for name in ('first', 'second'):
    batch = take(parts[name], 1, batch_size=len(parts[name].source('train')))[0]
    assert batch.patches.shape[1:3] == (CANVAS[name], CANVAS[name])
    for n, patch in enumerate(batch.patches):
      key = name, *batch.center[n].tolist(), *batch.size[n].tolist()
      rows[key] = [batch.origin[n].tolist(), batch.zoom[n].tolist()]
      pixels[key] = patch
  (batch,) = take(dataset, 1, batch_size=8)
  assert batch.patches.shape == (8, 64, 64, 3) and batch.visible.shape == (8, 3)
  people = loader.people_of_step(dataset, 8, 0, 0)
  names = {part.folder: name for name, part in parts.items()}
  assert sorted(names[folder] for folder, _ in people) == 4 * ['first'] + 4 * ['second']
  for n, (folder, _) in enumerate(people):
    key = names[folder], *batch.center[n].tolist(), *batch.size[n].tolist()
    assert rows[key] == [batch.origin[n].tolist(), batch.zoom[n].tolist()]
    side = CANVAS[names[folder]]
    np.testing.assert_array_equal(batch.patches[n, :side, :side], pixels[key])
    assert not batch.patches[n, side:].any() and not batch.patches[n, :, side:].any()


def test_people_of_a_step(parts):
  """Ids repeat between data sets, so each comes with its folder."""
  dataset = mix(parts, first=3, second=1)
  known = [
    (part.folder, int(record['people']['person_id'][0]))
    for part in parts.values()
    for record in part.source('train')
  ]
  assert len(set(known)) == 10 and len({person_id for _, person_id in known}) == 6
  for step, row in enumerate(numbers(dataset, 3, 8)):
    assert loader.people_of_step(dataset, 8, 0, step) == [known[number] for number in row]


def test_the_fingerprint_covers_all_data_sets_in_order_with_their_weights(parts):
  alone = parts['first'].fingerprint()
  found = [
    *(alone, parts['second'].fingerprint()),
    *(mix(parts, first=3, second=1).fingerprint(), mix(parts, second=1, first=3).fingerprint()),
    *(mix(parts, first=1, second=3).fingerprint(), mix(parts, second=1).fingerprint()),
  ]
  assert len(set(found)) == len(found)
  assert mix(parts, first=3, second=1).fingerprint() == found[2]


def test_positions_of_the_two_skeletons(parts):
  skeleton = parts['first'].skeleton
  for name, positions in POSITIONS.items():
    assert skeletons.match(skeleton, parts[name].skeleton) == positions
