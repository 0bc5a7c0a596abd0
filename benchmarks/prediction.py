"""Times prediction from image files and boxes to keypoints: the Predictor against PyTorch code.

As is usual, the PyTorch code uses cv2 for the crops, runs the network on a batch and its mirror
image, and decodes with NumPy, keypoint by keypoint.
"""

import json
import pathlib

import cv2
import numpy as np
import torch

from benchmarks import network
from benchmarks import turns
from mrpose_jax import defaults
from mrpose_jax import predictors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry

BATCH = 16
CROP, HEATMAP = (256, 192), (64, 48)


def run(num_turns, images: pathlib.Path, annotation_file: pathlib.Path, count=100, depth=50):
  """Times predicting all people in `count` images of a folder, with flip test."""
  paths, boxes = _people(images, annotation_file, count)
  config = defaults.get_config()
  config.model.update({'network': 'simple_baseline', 'depth': depth})
  config.eval.batch_size = BATCH
  _, variables, theirs = network.both('simple_baseline', depth, 64)
  predictor = predictors.Predictor(variables, config, skeletons.COCO, 0.75, 1.25, step=0)
  theirs.eval().to(memory_format=torch.channels_last)
  people = np.concatenate(predictor(paths, boxes, exif=False))
  expected = _pytorch(theirs, paths, boxes)
  # An untrained network's heatmaps are flat, so rounding in the crops can move the maximum.
  agree = np.abs(people[..., :2] - expected[..., :2]).max(-1) < 1
  if agree.mean() < 0.9:
    raise ValueError(
      f'only {agree.mean():.1%} of the keypoints agree, so both sides do not do the same work'
    )
  what = f'file to keypoints, {count} images, {len(people)} people, simple_baseline R{depth}'
  return [
    turns.take_turns(
      what,
      lambda: predictor(paths, boxes, exif=False),
      lambda: _pytorch(theirs, paths, boxes),
      num_turns,
      'cv2, PyTorch, NumPy',
    )
  ]


def _people(folder, annotation_file, count):
  """Returns paths and boxes [N, 4] of the first `count` images with people."""
  content = json.loads(annotation_file.read_text())
  boxes = {}
  for row in content['annotations']:
    boxes.setdefault(row['image_id'], []).append(row['bbox'])
  chosen = [image for image in content['images'] if image['id'] in boxes][:count]
  paths = [str(folder / image['file_name']) for image in chosen]
  return paths, [np.array(boxes[image['id']], np.float32) for image in chosen]


@torch.inference_mode()
def _pytorch(model, paths, boxes):
  """Predicts [N, K, 3] (x, y, score) with PyTorch."""
  people = []
  for path, image_boxes in zip(paths, boxes):
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    people += [(image, box) for box in image_boxes]
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
    keypoints += [decode(*person) for person in zip(heatmaps, *zip(*regions))]
  return np.stack(keypoints)


def _crop(image, box):
  """Returns the normalised crop [256, 192, 3] of a box, and its region (center, size)."""
  center, size = geometry.box_to_region(box, 0.75, 1.25)
  matrix = geometry.region_to_crop(center, size, CROP, 0.0, False)
  crop = cv2.warpAffine(image, np.asarray(matrix), CROP[::-1], flags=cv2.INTER_LINEAR)
  return (crop.astype(np.float32) / 255 - augment.MEAN) / augment.STD, (center, size)


def decode(heatmaps, center, size):
  """Decodes heatmaps [K, h, w] of one person to [K, 3], keypoint by keypoint."""
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
  """Top left, top right and centre, in heatmap and in image coordinates."""
  half = np.array([size[0] / 2, size[0] / 2 * height / width])
  in_image = [center - half, center + half * (1, -1), center]
  in_heatmap = [(0, 0), (width, 0), (width / 2, height / 2)]
  return np.array(in_heatmap, np.float32), np.array(in_image, np.float32)
