"""Times evaluation after the network for 100,000 people, against loops over people and keypoints.

This covers decoding heatmaps to image coordinates, rescoring, OKS NMS and writing the result file.
pycocotools' part is the same for both and left out. The loops run on fewer people and their time is
multiplied, as it is linear in people and images.
"""

import json
import pathlib
import tempfile

import jax
import numpy as np

from benchmarks import prediction
from benchmarks import turns
from mrpose_jax import defaults
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.metrics import coco

BATCH, IN_IMAGE = 100, 4  # people
VARIANCE = (2 * np.array(skeletons.COCO.sigmas)) ** 2


def run(num_turns, people=100_000, fewer=2_000) -> list[turns.Comparison]:
  """Times our evaluation of `people` people and the loops over `fewer`, scaled to `people`."""
  codec = predict.codec_of(defaults.get_config())
  heatmaps = _heatmaps(codec)

  @jax.jit
  def to_people(heatmaps, center, size):
    points, scores = codec.decode(heatmaps)
    points = geometry.heatmap_to_image(points, center, size, codec.heatmap_size)
    return jax.numpy.concatenate([points, scores[..., None]], -1)

  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'results.json'

    def ours(people):
      rows = _rows(people)
      parts = [
        to_people(heatmaps, rows['center'][i : i + BATCH], rows['size'][i : i + BATCH])
        for i in range(0, people, BATCH)
      ]
      rows['keypoints'] = np.concatenate([np.asarray(part) for part in parts])
      kept = coco.rescore_and_nms(rows)
      coco.write_results(kept, file)
      return kept

    def theirs(people):
      return _loops(np.asarray(heatmaps), _rows(people), file)

    kept, expected = ours(fewer), theirs(fewer)
    scores = np.sort([row['score'] for row in expected])
    np.testing.assert_allclose(np.sort(kept['scores']), scores, rtol=1e-5)
    what = f'after the network, {people} people'
    reference = f'Python loops, {fewer} people times {people // fewer}'
    comparison = turns.take_turns(
      what, lambda: ours(people), lambda: theirs(fewer), num_turns, reference
    )
    scaled = [people // fewer * seconds for seconds in comparison.theirs]
    return [comparison._replace(theirs=scaled)]


def _rows(people):
  """Random regions and box scores of `people` people."""
  r = np.random.default_rng(0)
  size = np.repeat(r.uniform(40, 300, (people, 1)), 2, 1).astype(np.float32) * [0.75, 1]
  return {
    'image_ids': np.arange(people) // IN_IMAGE,
    'center': r.uniform(0, 640, (people, 2)).astype(np.float32),
    'size': size.astype(np.float32),
    'area': size.prod(-1),
    'box_scores': r.uniform(0.2, 1, people),
  }


def _heatmaps(codec):
  """Heatmaps of one batch with random keypoints and noise."""
  r = np.random.default_rng(1)
  keypoints = r.uniform(0, codec.image_size[::-1], (BATCH, 17, 2))
  heatmaps, _ = codec.encode(keypoints, np.ones((BATCH, 17)))
  return heatmaps + 0.02 * r.random(heatmaps.shape, np.float32)


def _loops(heatmaps, rows, file):
  """The same evaluation with Python loops; writes and returns the rows of the result file."""
  heatmaps = heatmaps.transpose(0, 3, 1, 2)
  images = {}
  for i, image_id in enumerate(rows['image_ids'].tolist()):
    keypoints = prediction.decode(heatmaps[i % BATCH], rows['center'][i], rows['size'][i])
    total = number = 0
    for k in range(17):
      if keypoints[k, 2] > 0.2:
        total += keypoints[k, 2]
        number += 1
    score = rows['box_scores'][i] * (total / number if number else 0)
    person = {'keypoints': keypoints, 'score': float(score), 'area': rows['area'][i]}
    images.setdefault(image_id, []).append(person)
  kept = []
  for image_id, people in images.items():
    remaining = sorted(people, key=lambda person: -person['score'])
    while remaining:
      best = remaining.pop(0)
      remaining = [person for person in remaining if _oks(best, person) <= 0.9]
      row = [0.0] * 51
      for k in range(17):
        for i in range(3):
          row[3 * k + i] = float(best['keypoints'][k, i])
      kept.append(
        {'image_id': image_id, 'category_id': 1, 'keypoints': row, 'score': best['score']}
      )
  with open(file, 'w') as stream:  # indented and sorted, as in the released code
    json.dump(kept, stream, sort_keys=True, indent=4)
  return kept


def _oks(a, b):
  """Object keypoint similarity of two people."""
  dx = a['keypoints'][:, 0] - b['keypoints'][:, 0]
  dy = a['keypoints'][:, 1] - b['keypoints'][:, 1]
  error = (dx**2 + dy**2) / VARIANCE / ((a['area'] + b['area']) / 2 + np.spacing(1)) / 2
  return np.sum(np.exp(-error)) / len(error)
