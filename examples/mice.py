"""Generates pictures of mice with seven keypoints in COCO's format, as an example of custom data.

  python -m examples.mice runs/mice_source

The category defines names and limbs but no sigmas, so the metrics are PCK@0.2 and EPE; annotations
have no area and no iscrowd.
"""

import json

import numpy as np
from PIL import Image
from PIL import ImageDraw

from mrpose_jax import command_line
from mrpose_jax import errors
from mrpose_jax import paths

CATEGORY = {
  'id': 1,
  'name': 'mouse',
  'keypoints': ['nose', 'earL', 'earR', 'pawL', 'pawR', 'tail_base', 'tail_tip'],
  'skeleton': [[2, 1], [1, 3], [2, 6], [3, 6], [4, 6], [5, 6], [6, 7]],
}
# Keypoints seen from above, with the nose to the right, in body lengths; y points down.
SHAPE = np.array(
  [(0.62, 0), (0.4, -0.2), (0.4, 0.2), (0.2, -0.3), (0.2, 0.3), (-0.45, 0), (-1.05, 0.12)]
)
SETS = {'train': 240, 'validation': 40}


def write(source, sets=None, seed=0):
  """Writes annotations/SET.json and images/SET/ for each set of images with one or two mice.

  Args:
    source: folder to write to.
    sets: {name of the set: number of images}; None uses `SETS`.
    seed: random seed.
  """
  source = paths.parse_local(source, written=True)
  for number, (name, count) in enumerate((sets or SETS).items()):
    r = np.random.default_rng([seed, number])
    folder = source / 'images' / name
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(count):
      picture, mice = _picture(r)
      picture.save(folder / f'{i}.png')
      images.append(
        {'id': i, 'file_name': f'{i}.png', 'width': picture.width, 'height': picture.height}
      )
      for points in mice:
        low, high = points.min(0) - 4, points.max(0) + 4
        annotations.append(
          {
            'id': len(annotations),
            'image_id': i,
            'category_id': CATEGORY['id'],
            'bbox': [*low.tolist(), *(high - low).tolist()],
            'keypoints': [v for x, y in points.tolist() for v in (x, y, 2)],
          }
        )
    (source / 'annotations').mkdir(exist_ok=True)
    content = {'images': images, 'annotations': annotations, 'categories': [CATEGORY]}
    (source / 'annotations' / f'{name}.json').write_text(json.dumps(content))


def _picture(r, width=200, height=150):
  """Draws a picture; returns it with the keypoints [7, 2] of each mouse."""
  ground = r.uniform(90, 200, 3) + r.normal(0, 12, (height, width, 1))
  picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
  pen = ImageDraw.Draw(picture)
  mice = []
  for x in (0.27, 0.73)[: r.integers(1, 3)]:
    angle, length = r.uniform(0, 2 * np.pi), r.uniform(35, 48)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    center = np.array([x * width, height / 2]) + r.uniform(-6, 6, 2)
    points = SHAPE + r.normal(0, 0.02, SHAPE.shape)
    points = (points - points.mean(0)) @ turn * length + center
    _draw(pen, points, length, r.uniform(30, 90))
    mice.append(points)
  return picture, mice


def _draw(pen, points, length, gray):
  """Draws one mouse with keypoints `points` and body length `length` in pixels."""
  nose, ear_left, ear_right, paw_left, paw_right, base, tip = points
  fur, pink = (int(gray),) * 3, (225, 150, 150)

  def disc(center, radius, colour):
    box = [*(center - radius * length), *(center + radius * length)]
    pen.ellipse(box, fill=colour)

  pen.line([*base, *tip], fill=pink, width=3)
  for paw in (paw_left, paw_right):
    disc(paw, 0.07, pink)
  front = (ear_left + ear_right) / 2
  for t in np.linspace(0, 1, 20):
    disc(base + t * (front - base), 0.1 + 0.14 * np.sin(np.pi * (0.15 + 0.7 * t)), fur)
  for t in np.linspace(0, 1, 10):
    disc(front + t * (nose - front), 0.17 - 0.13 * t, fur)
  disc(ear_left, 0.1, pink)
  disc(ear_right, 0.1, pink)
  disc(nose, 0.045, (250, 120, 130))


def main(arguments):
  if len(arguments) != 1:
    raise errors.ConfigError('name the folder to write to: python -m examples.mice FOLDER')
  write(arguments[0])


if __name__ == '__main__':
  command_line.run(main)
