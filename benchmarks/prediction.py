"""From image files and boxes to keypoints: the Predictor beside the usual PyTorch way.

That way is cv2 for the crops, the network for a batch and for its mirror image, and NumPy for each
keypoint of each person.
"""

import json
import pathlib

import cv2
import numpy as np
import torch

from benchmarks import network
from benchmarks import turns
from input_pipeline.device import augment
from input_pipeline.device import geometry
from mrpose_jax import defaults
from mrpose_jax import predictors
from mrpose_jax import skeletons

BATCH = 16
CROP, HEATMAP = (256, 192), (64, 48)


def run(num_turns, images: pathlib.Path, annotation_file: pathlib.Path, count=100, depth=50):
  """Keypoints of all people in `count` images of a folder, flip test on."""
  paths, boxes = _people(images, annotation_file, count)
  config = defaults.get_config()
  config.model.update({'network': 'simple_baseline', 'depth': depth})
  config.eval.batch_size = BATCH
  _, variables, theirs = network.both('simple_baseline', depth, 64)
  predictor = predictors.Predictor(variables, config, skeletons.COCO, 0.75, 1.25, step=0)
  theirs.eval().to(memory_format=torch.channels_last)
  found = np.concatenate(predictor(paths, boxes))
  expected = _pytorch(theirs, paths, boxes)
  # An untrained network's peaks are flat: another pixel may win by the crops' rounding.
  same = np.abs(found[..., :2] - expected[..., :2]).max(-1) < 1
  if same.mean() < 0.9:
    raise ValueError(f'only {same.mean():.1%} of the keypoints agree; not the same work')
  what = f'file to keypoints, {count} images, {len(found)} people, simple_baseline R{depth}'
  return [
    turns.take_turns(
      what,
      lambda: predictor(paths, boxes),
      lambda: _pytorch(theirs, paths, boxes),
      num_turns,
      'cv2, PyTorch, NumPy',
    )
  ]


def _people(folder, annotation_file, count):
  content = json.loads(annotation_file.read_text())
  boxes = {}
  for row in content['annotations']:
    boxes.setdefault(row['image_id'], []).append(row['bbox'])
  chosen = [image for image in content['images'] if image['id'] in boxes][:count]
  paths = [str(folder / image['file_name']) for image in chosen]
  return paths, [np.array(boxes[image['id']], np.float32) for image in chosen]


@torch.inference_mode()
def _pytorch(model, paths, boxes):
  """[N, K, 3] x, y, score."""
  people = []
  for path, found in zip(paths, boxes):
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    people += [(image, box) for box in found]
  keypoints = []
  for start in range(0, len(people), BATCH):
    crops, regions = zip(*(_crop(*person) for person in people[start : start + BATCH]))
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    heatmaps = model(x).numpy()
    order = skeletons.flip_order(skeletons.COCO.flip_pairs, 17)
    mirrored = model(x.flip(3)).numpy()[:, order, :, ::-1].copy()
    mirrored[..., 1:] = mirrored[..., :-1].copy()
    heatmaps = 0.5 * (heatmaps + mirrored)
    keypoints += [decode(*one) for one in zip(heatmaps, *zip(*regions))]
  return np.stack(keypoints)


def _crop(image, box):
  center, size = geometry.box_to_region(box, 0.75, 1.25)
  matrix = geometry.region_to_crop(center, size, CROP, 0.0, False)
  crop = cv2.warpAffine(image, np.asarray(matrix), CROP[::-1], flags=cv2.INTER_LINEAR)
  return (crop.astype(np.float32) / 255 - augment.MEAN) / augment.STD, (center, size)


def decode(heatmaps, center, size):
  """Heatmaps [K, h, w] of one person -> [K, 3], keypoint by keypoint."""
  height, width = heatmaps.shape[1:]
  matrix = cv2.getAffineTransform(*_three_points(center, size, width, height))
  keypoints = np.zeros((len(heatmaps), 3), np.float32)
  for k, heatmap in enumerate(heatmaps):
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    score = heatmap[y, x]
    point = np.array([x, y], np.float32) if score > 0 else np.zeros(2, np.float32)
    if 1 < x < width - 1 and 1 < y < height - 1 and score > 0:
      slope = [heatmap[y, x + 1] - heatmap[y, x - 1], heatmap[y + 1, x] - heatmap[y - 1, x]]
      point += 0.25 * np.sign(np.array(slope))
    keypoints[k, :2] = np.dot(matrix, np.array([point[0], point[1], 1.0]))
    keypoints[k, 2] = score
  return keypoints


def _three_points(center, size, width, height):
  """Corner, top right and middle: in the heatmap, and in the image."""
  half = np.array([size[0] / 2, size[0] / 2 * height / width])
  there = [center - half, center + half * (1, -1), center]
  here = [(0, 0), (width, 0), (width / 2, height / 2)]
  return np.array(here, np.float32), np.array(there, np.float32)
