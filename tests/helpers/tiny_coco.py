"""A COCO folder of six small images, with a skeleton of three keypoints."""

import json

import numpy as np
from PIL import Image

CATEGORY = {'id': 1, 'name': 'robot', 'keypoints': ['left_hand', 'right_hand', 'head']}
# Boxes of the people by image id; images are 80 pixels wide and 64 high.
BOXES = {
  'train2017': {
    11: [(5, 6, 31, 41), (30, 2, 21, 61)],
    12: [(0, 0, 80, 64)],
    13: [(40, 30, 36, 31), (8, 20, 21, 31), (60, 5, 11, 21)],
  },
  'val2017': {
    21: [(5, 6, 31, 41), (30, 2, 21, 61), (50, 10, 25, 35)],
    22: [],
    23: [(10, 12, 41, 46), (2, 3, 34, 45)],
  },
}


def write(source):
  """Writes both sets into `source`; person i of image 12 has id 120 + i."""
  (source / 'annotations').mkdir(parents=True)
  for image_set, boxes in BOXES.items():
    folder = source / 'images' / image_set
    folder.mkdir(parents=True)
    content = {'images': [], 'annotations': [], 'categories': [CATEGORY]}
    for number, found in boxes.items():
      pixels = np.random.default_rng(number).integers(0, 256, (64, 80, 3), np.uint8)
      name = f'{number}.png'
      Image.fromarray(pixels).save(folder / name)
      content['images'].append({'id': number, 'file_name': name, 'width': 80, 'height': 64})
      content['annotations'] += [_person(number, i, box) for i, box in enumerate(found)]
    file = source / 'annotations' / f'person_keypoints_{image_set}.json'
    file.write_text(json.dumps(content))
  return source


def _person(image, i, box):
  x, y, width, height = box
  keypoints = [x, y, 2, x + width / 2, y + height / 2, 1, 0, 0, 0]
  return {
    'id': 10 * image + i,
    'image_id': image,
    'category_id': 1,
    'iscrowd': 0,
    'bbox': list(box),
    'area': float(width * height),
    'keypoints': keypoints,
  }
