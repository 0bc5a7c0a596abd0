"""Identities over frames: people who walk, cross, disappear, and come back."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from mrpose_jax.inference import detectors
from mrpose_jax.inference import tracking
from tests.helpers import shared_data


def walk(rate, seconds=4.0, hidden=(0.0, 0.0)):
  """Yields time, boxes and owners: 0 walks right, 1 left behind it, 2 stands; noise of a pixel.

  The boxes come in any order. Person 1 is not found between the two times of `hidden`.
  """
  r = np.random.default_rng(0)
  for t in np.arange(0, seconds, 1 / rate):
    boxes = np.array([[10 + 60 * t, 20, 40, 90], [240 - 60 * t, 25, 40, 85], [300, 20, 50, 100]])
    owners = [n for n in r.permutation(3) if n != 1 or not hidden[0] <= t < hidden[1]]
    yield t, boxes[owners] + r.normal(0, 1, (len(owners), 4)), owners


@pytest.mark.parametrize('rate', [5, 25, 60])
@pytest.mark.parametrize('hidden', [(0, 0), (1.6, 2.2)])
def test_people_who_cross_keep_their_numbers(rate, hidden):
  """0 and 1 meet after 1.9 s. In `hidden`, 1 is not found; else their boxes become almost equal.

  While they cover each other nearly completely, no number is expected.
  """
  tracker, numbers = tracking.Tracker(), {0: set(), 1: set(), 2: set()}
  for t, boxes, owners in walk(rate, hidden=hidden):
    for owner, number in zip(owners, tracker(boxes, t), strict=True):
      if abs(t - 1.9) > 0.2:
        numbers[owner].add(number)
  assert sorted(n for found in numbers.values() for n in found) == [1, 2, 3]


def test_numbers_start_at_one_in_the_order_of_the_boxes():
  tracker = tracking.Tracker()
  assert tracker([[0, 0, 10, 10], [50, 0, 10, 10]], 0) == [1, 2]
  assert tracker([[51, 0, 10, 10], [90, 0, 10, 10], [1, 0, 10, 10]], 0.1) == [2, 3, 1]
  assert tracker(np.zeros((0, 4), np.float32), 0.2) == []
  assert tracker([[1, 0, 10, 10]], 0.3) == [1]


@pytest.mark.parametrize(('gap', 'number'), [(0.9, 1), (1.1, 3)])
def test_who_is_away_too_long_is_somebody_else(gap, number):
  tracker = tracking.Tracker()
  tracker([[0, 0, 10, 10]], 5)
  assert tracker([[80, 0, 10, 10]], 5 + gap) == [2]
  assert tracker([[0, 0, 10, 10]], 5 + gap) == [number]
  assert len(tracker._tracks) == 2  # those who are lost do not stay in memory


def test_a_pause_of_all_frames_does_not_count():
  tracker = tracking.Tracker()
  assert [tracker([[6 * i, 0, 10, 10]], i / 10) for i in range(3)] == [[1]] * 3
  assert tracker([[40, 0, 10, 10]], 9) == [2]  # it was expected at 12 + 60
  tracker = tracking.Tracker()
  tracker([[0, 0, 10, 10]], 0)
  assert tracker([[1, 0, 10, 10]], 9) == [1]


def test_a_box_elsewhere_is_somebody_else():
  """Intersections over union of 0.25 and 0.14, around the limit of 0.2."""
  for shift, number in ((6, 1), (7.5, 2)):
    tracker = tracking.Tracker()
    tracker([[0, 0, 10, 10]], 0)
    assert tracker([[shift, 0, 10, 10]], 0) == [number]


def test_the_assignment_is_the_best_one_for_all():
  """Box a overlaps both people, and more with the one that box b needs."""
  tracker = tracking.Tracker()
  tracker([[0, 0, 10, 10], [8, 0, 10, 10]], 0)
  assert tracker([[5, 0, 10, 10], [12, 0, 10, 10]], 0.1) == [1, 2]


@pytest.mark.parametrize('name', ['000000000192.jpg', '000000000536.jpg'])
def test_a_camera_that_pans_over_a_photograph(name):
  """A real detector finds three people in every place of a window that moves over a photograph."""
  file = shared_data.data('detectors') / 'ssdlite_mobilenetv2_person.onnx'
  detect, tracker = detectors.load_detector(str(file)), tracking.Tracker()
  folder = shared_data.data('coco_small')
  with Image.open(folder / 'images' / 'train' / name) as image:
    photograph = np.asarray(image.convert('RGB'))
  truth = json.loads((folder / 'annotations' / 'person_keypoints_train.json').read_text())
  (image_id,) = (row['id'] for row in truth['images'] if row['file_name'] == name)
  people = [row['bbox'] for row in truth['annotations'] if row['image_id'] == image_id]
  size = np.multiply(photograph.shape[:2], 0.8).astype(int)
  found, total = set(), 0
  for i in range(20):
    y, x = ((np.subtract(photograph.shape[:2], size)) * (0.5 + 0.5 * np.sin(i / 4), i / 19)).astype(
      int
    )
    boxes, _ = detect(photograph[y : y + size[0], x : x + size[1]])
    numbers = tracker(boxes, i / 20)
    total += len(boxes)
    whole = boxes + np.float32([x, y, 0, 0])  # in the photograph
    overlap = mask.iou(whole.astype(np.float64), np.array(people, np.float64), [0] * len(people))
    found |= set(zip(numbers, np.argmax(overlap, 1).tolist()))
  assert total == 60
  assert len(found) == 3 and len({owner for _, owner in found}) == 3, found
