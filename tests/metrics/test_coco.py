import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.metrics import coco
from tests.helpers import shared_data

# Two keypoints with (2 sigma)^2 = 0.5, so that OKS is a mean of exp(-d^2 / area) over them.
SIGMAS = (0.5**0.5 / 2, 0.5**0.5 / 2)


def predict(image_ids, keypoints, box_scores, area=100.0):
  n = len(image_ids)
  return {
    'image_ids': np.array(image_ids, int),
    'keypoints': np.array(keypoints, np.float32),
    'center': np.zeros((n, 2)),
    'size': np.full((n, 2), 10.0),
    'area': np.full(n, area),
    'box_scores': np.array(box_scores, float),
  }


def person(x, scores=(1.0, 1.0)):
  """Two keypoints at (x, 0)."""
  return [[x, 0, scores[0]], [x, 0, scores[1]]]


def random_predictions(seed, n, images):
  """People in clusters, so that many are duplicates; scores on a coarse grid, so that many tie."""
  random = np.random.default_rng(seed)
  image_ids = random.integers(0, images, n)
  poses = random.uniform(0, 300, (3, 1, 2)) + random.uniform(-40, 40, (3, 17, 2))
  jitter = random.normal(size=(n, 17, 2)) * random.choice([0.5, 4.0, 20.0], (n, 1, 1))
  points = poses[random.integers(0, 3, n)] + jitter
  scores = random.integers(0, 5, (n, 17, 1)) / 4
  predictions = predict(image_ids, np.concatenate([points, scores], -1), random.integers(1, 4, n))
  return predictions | {'area': random.uniform(2e3, 2e4, n)}


def kept_by_plain_loops(predictions, score_threshold, oks_threshold, sigmas):
  """The rule in plain loops: the remaining rows, and every row's score."""
  keypoints, area = predictions['keypoints'].astype(float), predictions['area']
  scores = []
  for points, box_score in zip(keypoints, predictions['box_scores'], strict=True):
    above = [s for s in points[:, 2] if s > score_threshold]
    scores.append(box_score * (sum(above) / len(above) if above else 0))
  kept = []
  for image in set(predictions['image_ids'].tolist()):
    rows = [i for i in range(len(area)) if predictions['image_ids'][i] == image]
    rows.sort(key=lambda i: -scores[i])
    while rows:
      best, *rows = rows
      kept.append(best)
      stay = []
      for row in rows:
        similarity = 0.0
        for k, sigma in enumerate(sigmas):
          squared = np.sum((keypoints[best, k, :2] - keypoints[row, k, :2]) ** 2)
          squared /= (2 * sigma) ** 2 * (area[best] + area[row]) / 2 * 2
          similarity += np.exp(-squared) / len(sigmas)
        if similarity <= oks_threshold:
          stay.append(row)
      rows = stay
  return sorted(kept), scores


def test_score_is_box_score_times_mean_of_confident_keypoints():
  people = [person(0, (0.9, 0.5)), person(50, (0.9, 0.2)), person(90, (0.1, 0.2))]
  predictions = predict([7, 7, 7], people, [0.5, 0.5, 0.5])
  # 0.2 in float32 is a little above 0.2, so the threshold here stays clear of it.
  kept = coco.rescore_and_nms(predictions, score_threshold=0.25, sigmas=SIGMAS)
  # 0.5 x (0.9 + 0.5) / 2 = 0.35; 0.5 x 0.9 = 0.45; nothing above the threshold = 0.
  np.testing.assert_allclose(kept['scores'], [0.35, 0.45, 0.0], rtol=1e-6)


def test_duplicates_of_better_people_go():
  # OKS by hand: exp(-d^2 / 100). d = 3: exp(-0.09) = 0.914; d = 6: exp(-0.36) = 0.698.
  predictions = predict([1, 1, 1], [person(6), person(3), person(0)], [0.7, 0.8, 0.9])
  kept = coco.rescore_and_nms(predictions, sigmas=SIGMAS)
  # 0 removes 3; 6 is near 3 as well, but 3 is gone and cannot remove it.
  np.testing.assert_array_equal(kept['keypoints'][:, 0, 0], [6, 0])
  assert set(kept) == {*predictions, 'scores'}
  assert all(len(column) == 2 for column in kept.values())


def test_the_oks_threshold_is_strict():
  same = predict([1, 1], [person(0), person(0)], [0.9, 0.8])  # an OKS of exactly 1
  assert len(coco.rescore_and_nms(same, oks_threshold=1.0, sigmas=SIGMAS)['scores']) == 2
  assert len(coco.rescore_and_nms(same, oks_threshold=0.99, sigmas=SIGMAS)['scores']) == 1


def test_oks_takes_the_mean_of_the_two_areas():
  # d = 3: areas 100 and 50 -> exp(-9 / 75) = 0.887 <= 0.9, both stay; 100 and 100 -> 0.914.
  predictions = predict([1, 1], [person(0), person(3)], [0.9, 0.8])
  predictions['area'] = np.array([100.0, 50.0])
  assert len(coco.rescore_and_nms(predictions, sigmas=SIGMAS)['scores']) == 2


def test_zero_area_is_no_duplicate_of_anything_but_itself():
  predictions = predict([1, 1, 1], [person(0), person(0), person(1)], [0.9, 0.8, 0.7], area=0.0)
  kept = coco.rescore_and_nms(predictions, sigmas=SIGMAS)
  np.testing.assert_array_equal(kept['keypoints'][:, 0, 0], [0, 1])


def test_people_of_other_images_do_not_matter():
  predictions = predict([5, 3, 5], [person(0), person(0), person(0)], [0.5, 0.4, 0.6])
  kept = coco.rescore_and_nms(predictions, sigmas=SIGMAS)
  np.testing.assert_array_equal(kept['image_ids'], [3, 5])


def test_of_equal_people_the_first_stays():
  predictions = predict([1] * 4, [person(x) for x in (2, 1, 0, 1)], [0.5] * 4)
  kept = coco.rescore_and_nms(predictions, sigmas=SIGMAS)
  np.testing.assert_array_equal(kept['keypoints'][:, 0, 0], [2])


@pytest.mark.parametrize('images', [1, 4, 60])
@pytest.mark.parametrize('oks_threshold', [0.3, 0.9])
def test_same_as_plain_loops(images, oks_threshold):
  predictions = random_predictions(images, 120, images)
  kept = coco.rescore_and_nms(predictions, 0.3, oks_threshold)
  rows, scores = kept_by_plain_loops(predictions, 0.3, oks_threshold, skeletons.COCO.sigmas)
  assert oks_threshold == 0.9 or len(rows) < 120  # something was suppressed
  np.testing.assert_allclose(kept['scores'], np.array(scores)[rows], rtol=1e-12)
  for name, column in predictions.items():
    np.testing.assert_array_equal(kept[name], column[rows])


def test_nobody():
  predictions = predict([], np.zeros((0, 17, 3)), [])
  kept = coco.rescore_and_nms(predictions)
  assert kept['scores'].shape == (0,)
  assert kept['keypoints'].shape == (0, 17, 3)
  assert coco.results(kept) == []


@pytest.mark.parametrize(
  ('column', 'index', 'value'),
  [
    ('keypoints', (1, 0, 2), np.nan),
    ('keypoints', (1, 0, 0), np.inf),
    ('box_scores', 1, np.nan),
    ('area', 1, np.nan),
    ('area', 1, -1.0),
  ],
)
def test_numbers_that_are_none_name_their_row(column, index, value):
  predictions = predict([31, 32, 33], [person(x) for x in (0, 50, 90)], [0.5] * 3)
  predictions[column][index] = value
  with pytest.raises(errors.DataError, match=r'1 of 3 rows \(rows 1; images 32\)'):
    coco.rescore_and_nms(predictions, sigmas=SIGMAS)


def test_shapes_that_do_not_go_together():
  predictions = predict([1], [person(0)], [0.5])
  with pytest.raises(ValueError, match='17 OKS sigmas'):
    coco.rescore_and_nms(predictions)
  with pytest.raises(ValueError, match='one row per person'):
    coco.rescore_and_nms(predictions | {'area': np.ones(2)}, sigmas=SIGMAS)


def test_results_file(tmp_path):
  kept = coco.rescore_and_nms(
    predict([4, 2], [person(1.5), person(80, (0.5, 0.5))], [0.5, 0.25]), sigmas=SIGMAS
  )
  path = tmp_path / 'eval' / 'predictions.json'
  coco.write_results(kept, path)
  expected = [
    {'image_id': 4, 'category_id': 1, 'keypoints': [1.5, 0, 1, 1.5, 0, 1], 'score': 0.5},
    {'image_id': 2, 'category_id': 1, 'keypoints': [80, 0, 0.5, 80, 0, 0.5], 'score': 0.125},
  ]
  assert json.loads(path.read_text()) == expected == coco.results(kept)
  assert [file.name for file in path.parent.iterdir()] == ['predictions.json']


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / 'predictions.json'
  path.write_text('old')
  kept = coco.rescore_and_nms(predict([1], [person(0)], [0.5]), sigmas=SIGMAS)
  with pytest.raises(ValueError, match='JSON'):
    coco.write_results(kept | {'scores': np.array([np.nan])}, path)
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def annotations(tmp_path):
  """(path, dataset) of two images with a medium-sized person (annotation 0) in the first."""
  dataset = {
    'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': 90, 'height': 90} for i in (1, 2)],
    'categories': [{'id': 3, 'name': 'person', 'keypoints': ['head', 'foot']}],
    'annotations': [
      {
        'id': 0,
        'image_id': 1,
        'category_id': 3,
        'keypoints': [10, 0, 2, 10, 0, 2],
        'num_keypoints': 2,
        'area': 2500.0,
        'bbox': [0, 0, 50, 50],
        'iscrowd': 0,
      }
    ],
  }
  path = tmp_path / 'annotations.json'
  path.write_text(json.dumps(dataset))
  return path, dataset


def evaluate_people(path, image_ids, xs, box_scores):
  predictions = predict(image_ids, [person(x) for x in xs], box_scores)
  return coco.evaluate(coco.rescore_and_nms(predictions, sigmas=SIGMAS), path, SIGMAS)


def test_perfect_prediction(annotations, capsys):
  # Also: an annotation id of 0, which COCOeval itself would count as not found.
  metrics = evaluate_people(annotations[0], [1], [10], [0.9])
  nobody_large = {'APL': -1, 'ARL': -1}
  assert metrics == pytest.approx(dict.fromkeys(coco.METRICS, 1.0) | nobody_large)
  assert capsys.readouterr().out == ''


def test_metrics_by_hand(annotations):
  # The person is 18 pixels off: OKS = exp(-18^2 / 2500) = 0.878, right at the 8 thresholds
  # 0.5, 0.55, .., 0.85 of 10. A false person in image 2 with a higher score halves the precision.
  metrics = evaluate_people(annotations[0], [1, 2], [28, 10], [0.5, 0.9])
  assert metrics['AR'] == pytest.approx(0.8)
  assert metrics['AR50'] == pytest.approx(1.0)
  assert metrics['AP'] == pytest.approx(0.8 * 0.5)
  assert metrics['AP75'] == pytest.approx(0.5)


def test_what_data_of_ones_own_may_leave_out(annotations):
  """By default the area is the box's, here 2500 as before, and nobody is a crowd."""
  path, dataset = annotations
  before = evaluate_people(path, [1, 2], [28, 10], [0.5, 0.9])
  for key in ('num_keypoints', 'area', 'iscrowd'):
    del dataset['annotations'][0][key]
  path.write_text(json.dumps(dataset))
  assert evaluate_people(path, [1, 2], [28, 10], [0.5, 0.9]) == before
  # As in COCO, a prediction for a person without keypoints is neither correct nor false.
  dataset['annotations'].append({'id': 1, 'image_id': 2, 'category_id': 3, 'bbox': [0, 0, 9, 9]})
  path.write_text(json.dumps(dataset))
  metrics = evaluate_people(path, [1, 2], [28, 10], [0.5, 0.9])
  assert metrics['AP'] == pytest.approx(0.8)


def test_nothing_predicted(annotations):
  kept = coco.rescore_and_nms(predict([], np.zeros((0, 2, 3)), []), sigmas=SIGMAS)
  assert coco.evaluate(kept, annotations[0], SIGMAS) == dict.fromkeys(coco.METRICS, 0.0)


def test_image_that_is_not_in_the_file(annotations):
  with pytest.raises(errors.DataError, match='no image 9 '):
    evaluate_people(annotations[0], [1, 9], [10, 10], [0.5, 0.9])


def without(dataset, key):
  del dataset['annotations'][0][key]
  return dataset


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda d: '[{"image_id": 1}]', 'not a COCO annotation file'),
    (lambda d: '{"images": [', 'not a readable JSON file'),
    (lambda d: json.dumps(d | {'categories': [{'id': 3, 'name': 'x'}]}), 'lists no keypoints'),
    (
      lambda d: json.dumps(
        d | {'categories': [{'id': 3, 'name': 'x', 'keypoints': ['head']}], 'annotations': []}
      ),
      'annotates 1 keypoints per person, but the predictions have 2',
    ),
    (lambda d: json.dumps({'images': d['images']}), 'has no annotations to evaluate with'),
    (lambda d: json.dumps(without(d, 'bbox')), 'lacks id, image_id, category_id or bbox'),
  ],
)
def test_files_that_are_no_keypoint_annotations(annotations, change, message):
  path, dataset = annotations
  path.write_text(change(dataset))
  with pytest.raises(errors.DataError, match=message) as raised:
    evaluate_people(path, [1], [10], [0.5])
  assert str(raised.value).startswith(str(path))
  assert '\n' not in str(raised.value)


def test_missing_annotation_file(tmp_path):
  with pytest.raises(errors.DataError, match='there is no such file'):
    evaluate_people(tmp_path / 'none.json', [1], [10], [0.5])


def test_byte_order_mark_and_other_keypoints(annotations):
  path, dataset = annotations
  path.write_text(json.dumps(dataset), encoding='utf-8-sig')
  assert evaluate_people(path, [1], [10], [0.9])['AP'] == pytest.approx(1)
  kept = coco.rescore_and_nms(predict([1], [person(10)], [0.9]), sigmas=SIGMAS)
  assert coco.evaluate(kept, path, SIGMAS, ('head', 'foot'))['AP'] == pytest.approx(1)
  with pytest.raises(errors.DataError, match='keypoints head, foot, but the predictions are foot,'):
    coco.evaluate(kept, path, SIGMAS, ('foot', 'head'))


def test_more_people_in_an_image_than_cocos_protocol_counts(annotations, caplog):
  path, dataset = annotations
  row = dataset['annotations'][0]
  dataset['annotations'] = [
    row | {'id': i, 'keypoints': [1000 * i, 0, 2] * 2, 'image_id': 1} for i in range(30)
  ]
  path.write_text(json.dumps(dataset))
  metrics = evaluate_people(path, [1] * 30, [1000 * i for i in range(30)], [0.9] * 30)
  assert [metrics[name] for name in ('AP', 'AR', 'ARM')] == pytest.approx([1, 1, 1])
  assert 'has 30 people, so the 30 best predictions of each image count' in caplog.text
  caplog.clear()
  dataset['annotations'] = dataset['annotations'][:20]
  path.write_text(json.dumps(dataset))
  evaluate_people(path, [1] * 20, [1000 * i for i in range(20)], [0.9] * 20)
  assert not caplog.text


def test_people_left_out_are_neither_correct_nor_false(annotations):
  """A labelled person whose box has no area is found by a detector; nobody expects it."""
  path, dataset = annotations
  row = dataset['annotations'][0] | {'id': 1, 'image_id': 2, 'bbox': [10, 0, 0, 0]}
  dataset['annotations'].append(row)
  path.write_text(json.dumps(dataset))
  for image_ids, xs in (([1], [10]), ([1, 2], [10, 10])):
    metrics = evaluate_people(path, image_ids, xs, [0.5, 0.9][: len(xs)])
    assert [metrics['AP'], metrics['AR']] == pytest.approx([1, 1])


def test_golden():
  expected = json.loads(shared_data.golden('coco_eval.json').read_text())
  with np.load(shared_data.golden('coco_eval.npz')) as arrays:
    golden = dict(arrays)
  names = ('image_ids', 'keypoints', 'center', 'area', 'box_scores')
  predictions = {name: golden[name] for name in names} | {'size': 200 * golden['scale']}
  kept = coco.rescore_and_nms(predictions)
  assert len(kept['scores']) == expected['num_kept']
  np.testing.assert_allclose(np.sort(kept['scores']), np.sort(golden['kept_scores']), atol=1e-6)
  folder = shared_data.data('coco_mini') / 'annotations'
  metrics = coco.evaluate(kept, folder / f'person_keypoints_{expected["split"]}.json')
  assert list(metrics.values()) == pytest.approx(list(expected['metrics'].values()), abs=1e-9)


LISTS = """
import sys
import numpy as np
from mrpose_jax import command_line
from mrpose_jax.metrics import coco

def command(arguments):
  kept = {'scores': np.zeros(0), 'image_ids': np.zeros(0, int)}
  print(coco.evaluate(kept, arguments[0], (0.1,))['AP'], open(arguments[0], 'rb').read().decode())

command_line.run(command)
"""


@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
def test_utf8_whatever_the_locale_is(tmp_path, mark):
  category = {'id': 1, 'name': '\u4eba', 'keypoints': ['\u9f3b']}
  image = {'id': 1, 'file_name': '\u65e5.png', 'width': 9, 'height': 9}
  dataset = {'images': [image], 'annotations': [], 'categories': [category]}
  content = json.dumps(dataset, ensure_ascii=False).encode()
  (tmp_path / 'annotations.json').write_bytes(mark + content)
  locale = {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
  done = subprocess.run(
    [sys.executable, '-c', LISTS, str(tmp_path / 'annotations.json')],
    env=os.environ | locale,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == b'0.0 ' + mark + content + b'\n'
