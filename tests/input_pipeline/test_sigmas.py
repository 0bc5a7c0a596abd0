"""OKS sigmas from annotations of known noise, and what is refused."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline import sigmas

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ['nose', 'ear_left', 'tail']


def write(path, people, names=NAMES, images=None):
  """Writes a COCO file.

  Args:
    path: file to write.
    people: rows of (image, box, keypoints [3, 2], visible [3]).
    names: of the keypoints.
    images: {image: file name}; 'IMAGE.jpg' by default.
  """
  numbers = sorted({number for number, *_ in people})
  content = {
    'categories': [{'id': 1, 'name': 'mouse', 'keypoints': names}],
    'images': [
      {'id': n, 'file_name': (images or {}).get(n, f'{n}.jpg'), 'width': 2000, 'height': 2000}
      for n in numbers
    ],
    'annotations': [
      {
        'id': i,
        'image_id': number,
        'category_id': 1,
        'bbox': list(map(float, box)),
        'area': 0.5 * box[2] * box[3],
        'keypoints': np.column_stack([points, visible]).reshape(-1).tolist(),
      }
      for i, (number, box, points, visible) in enumerate(people)
    ],
  }
  path.write_text(json.dumps(content))
  return path


def annotate_twice(noise, count=2000, seed=0):
  """Two lists of rows for `write`; the second differs by `noise` [K], fractions of the scale."""
  r = np.random.default_rng(seed)
  first, second = [], []
  for n in range(count):
    width, height = r.uniform(100, 400, 2)
    box = (r.uniform(20, 500), r.uniform(20, 500), width, height)
    points = box[:2] + r.uniform(0, 1, (3, 2)) * box[2:]
    scale = np.sqrt(0.5 * width * height)
    # Two coordinates share the square of the distance.
    moved = points + r.normal(0, 1, (3, 2)) * np.array(noise)[:, None] * scale / np.sqrt(2)
    first.append((n, box, points, [2, *r.integers(0, 3, 2)]))
    second.append((n, np.array(box) + r.uniform(-3, 3, 4), moved, [2, 1, 2]))
  return first, second


def test_known_noise_of_two_annotators(tmp_path):
  noise = (0.02, 0.05, 0.1)
  first, second = annotate_twice(noise)
  swapped = [(n, box, points[[2, 0, 1]], np.array(v)[[2, 0, 1]]) for n, box, points, v in second]
  files = [
    write(tmp_path / 'a.json', first),
    # Ids of images and the order of keypoints may differ.
    write(
      tmp_path / 'b.json',
      [(n + 5000, *rest) for n, *rest in swapped],
      ['tail', 'nose', 'ear_left'],
      {n + 5000: f'{n}.jpg' for n in range(2000)},
    ),
  ]
  found = sigmas.estimate(files)
  np.testing.assert_allclose(found.sigmas, noise, rtol=0.05)
  people = np.array([np.array(visible) > 0 for *_, visible in first])
  assert found.counts.tolist() == people.sum(0).tolist()
  assert found.skeleton.keypoints == tuple(NAMES)
  assert (found.num_pairs, found.num_single) == (2000, 0)


def test_known_noise_in_a_single_file(tmp_path):
  noise = (0.03, 0.03, 0.08)
  first, second = annotate_twice(noise, seed=1)
  found = sigmas.estimate([write(tmp_path / 'twice.json', first + second)])
  np.testing.assert_allclose(found.sigmas, noise, rtol=0.05)


def test_by_hand(tmp_path):
  """Area 0.5 x 100 x 100; squared distances 25, 0 and 100 over 5000, in 12 images."""
  points = np.array([[110.0, 120], [150, 150], [120, 190]])
  box = (100, 100, 100, 100)
  moved = points + np.array([[3, 4], [0, 0], [0, 10]])
  people = [row for n in range(12) for row in ((n, box, points, [1] * 3), (n, box, moved, [2] * 3))]
  alone = (99, box, points, [2] * 3)
  found = sigmas.estimate([write(tmp_path / 'x.json', [*people, alone])])
  np.testing.assert_allclose(found.sigmas, np.sqrt([25 / 5000, 0, 100 / 5000]))
  assert (found.num_pairs, found.num_single) == (12, 1)
  assert found.counts.tolist() == [12] * 3
  with pytest.raises(errors.DataError, match='annotations of ear_left are equal everywhere'):
    sigmas.check(found, ['x.json'])


def test_the_best_overlap_comes_first(tmp_path):
  """Two people who overlap, each annotated twice: the pairs are not mixed."""
  points = np.array([[50.0, 50], [60, 60], [70, 70]])
  rows = []
  for n in range(10):
    for x in (0, 20):
      for offset in (0, 2):
        box = (20 + x + offset, 20, 100, 100)
        rows.append((n, box, np.add(points, (x + offset, 0)), [2] * 3))
  found = sigmas.estimate([write(tmp_path / 'x.json', rows)])
  assert found.num_pairs == 20
  np.testing.assert_allclose(found.sigmas, 2 / np.sqrt(5000))
  assert sigmas.estimate([tmp_path / 'x.json'], iou=0.99).num_pairs == 0


def test_three_annotators(tmp_path):
  points = np.array([[110.0, 120], [150, 150], [120, 190]])
  files = [
    write(
      tmp_path / f'{i}.json', [(n, (100, 100, 100, 100), points + 3 * i, [2] * 3) for n in (1, 2)]
    )
    for i in range(3)
  ]
  found = sigmas.estimate(files)
  assert (found.num_pairs, found.num_single) == (6, 0)
  np.testing.assert_allclose(found.sigmas, np.sqrt((18 + 18 + 72) / 3 / 5000))


def test_too_few_pairs_and_other_keypoints_are_refused(tmp_path):
  first, second = annotate_twice((0.1, 0.1, 0.1), count=12)
  first = [(*rest, [2, 2, 2 * (n < 9)]) for n, (*rest, _) in enumerate(first)]
  files = [write(tmp_path / 'a.json', first), write(tmp_path / 'b.json', second)]
  found = sigmas.estimate(files)
  assert found.counts.tolist() == [12, 12, 9]
  with pytest.raises(errors.DataError, match=r'12 objects .*, but there are tail 9$'):
    sigmas.check(found, files)
  found = sigmas.estimate(files[:1])
  assert np.isnan(found.sigmas).all() and found.num_pairs == 0
  with pytest.raises(errors.DataError, match=r'^a\.json: no object is annotated twice'):
    sigmas.check(found, ['a.json'])
  other = write(tmp_path / 'c.json', second, ['nose', 'ear_left', 'fin'])
  with pytest.raises(errors.DataError, match=r'c\.json: its keypoints are nose, ear_left, fin,'):
    sigmas.estimate([files[0], other])


def test_the_command(tmp_path):
  first, second = annotate_twice((0.02, 0.05, 0.1), count=300)
  write(tmp_path / 'a.json', first)
  write(tmp_path / 'b.json', second)

  def call(*arguments):
    command = [sys.executable, '-m', 'mrpose_jax.input_pipeline.sigmas', *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

  done = call(str(tmp_path / 'a.json'), str(tmp_path / 'b.json'))
  assert done.returncode == 0, done.stderr
  assert re.search(r'^\| nose \| \d+ \| 0\.0\d\d \| 0\.00\d \|$', done.stdout, re.MULTILINE)
  # What is printed can be pasted: into the category, and on the command line.
  category = {'name': 'mouse', 'keypoints': NAMES}
  category |= json.loads('{' + re.search(r'"sigmas": .*', done.stdout)[0] + '}')
  skeleton = skeletons.from_category(category, 'x.json')
  np.testing.assert_allclose(skeleton.sigmas, (0.02, 0.05, 0.1), rtol=0.15)
  flag = re.search(r"'--config\.data\.sigmas=(.*)'", done.stdout)[1]
  assert flag == '(' + ''.join(f'{sigma:g}, ' for sigma in skeleton.sigmas).rstrip() + ')'
  for arguments, code, message in (
    ((), 2, 'no files: use python -m mrpose_jax.input_pipeline.sigmas FILE'),
    ((str(tmp_path / 'c.json'),), 3, 'there is no such file'),
    ((str(tmp_path / 'a.json'),), 3, 'no object is annotated twice'),
  ):
    done = call(*arguments)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
