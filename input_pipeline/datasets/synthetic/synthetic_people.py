"""A data set of drawn people in the COCO keypoint format, generated from a seed.

It replaces COCO where COCO is not available. Its pictures show one to four people (see `figures`)
among furniture and clutter, who cover each other and leave the frame, with exact keypoints and
COCO's visibility flags. The same seed gives the same files on every run, with any number of
processes.
"""

import json
import os
import pathlib
import sys
import zlib

import numpy as np
import tqdm
from PIL import Image
from PIL import ImageFilter

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.datasets import workers
from mrpose_jax.input_pipeline.datasets.synthetic import figures
from mrpose_jax.input_pipeline.datasets.synthetic import painting

# Each split has a block of this many image ids. All blocks lie below 2**31, so that ids fit into
# int32 arrays.
IDS_PER_SPLIT = 1_000_000
MAX_PEOPLE = 4
MAX_IMAGES = IDS_PER_SPLIT // MAX_PEOPLE


def render_scene(seed: int) -> tuple[np.ndarray, list[dict]]:
  """Draws one picture.

  Args:
    seed: any non-negative integer; it determines everything in the picture.

  Returns:
    image: uint8 [H, W, 3] RGB.
    people: for each person
      keypoints: float [17, 2], (x, y) in pixels, pixel centres at integers; true positions even
        where hidden or outside the frame.
      visible: int [17]. 2 visible; 1 hidden by a limb, a person or an object; 0 outside the frame.
        Eyes and nose of a face turned well away from the viewer are 0 too, because annotators
        leave them out.
      box: [x, y, width, height] in pixels, tight around the person's own pixels in the frame,
        including those hidden by others.
      area: number of these pixels.
      mask: bool [H, W], the person's pixels that nothing hides.
  """
  rng = np.random.default_rng(seed)
  long, short = rng.integers(256, 385), rng.integers(208, 289)
  width, height = (long, min(short, long)) if rng.random() < 0.6 else (min(short, long), long)
  angle = np.radians(rng.uniform(-150, -30))
  light = np.array([np.cos(angle), np.sin(angle)])
  canvas = painting.Canvas(_backdrop(rng, width, height), light)
  _clutter(rng, canvas)

  placed = _place_people(rng, width, height)
  masks = []
  for person, (body, origin, scale) in enumerate(placed):
    if body.pose.sits:
      _draw_seat(rng, canvas, origin, scale)
    masks.append(body.draw(canvas, origin, scale, person))
  if rng.random() < 0.22:
    _cover_something(rng, canvas, placed)

  people = []
  for person, ((body, origin, scale), mask) in enumerate(zip(placed, masks, strict=True)):
    keypoints = np.stack([body.pose.joints[name][:2] for name in skeletons.COCO.keypoints])
    keypoints = keypoints * scale + origin
    visible = body.flags(canvas.ids, keypoints, person)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not visible.any() or not len(rows):
      continue
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    people.append({
      'keypoints': keypoints,
      'visible': visible,
      'box': box,
      'area': int(mask.sum()),
      'mask': (canvas.ids - 1) // len(figures.PARTS) == person,
    })  # fmt: skip
  return _photograph(rng, canvas.rgb), people


def _colour(rng) -> np.ndarray:
  """A muted colour, so that a background competes less with the clothes."""
  grey = rng.uniform(70, 225)
  return np.clip(grey + rng.normal(0, 20, 3), 8, 247)


def _texture(rng, width, height, cells) -> np.ndarray:
  """Smooth noise, float32 [H, W] in about -1..1; `cells` is the number of bumps across."""
  coarse = rng.standard_normal((cells, cells), np.float32)
  return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _backdrop(rng, width, height) -> np.ndarray:
  """A wall or a sky above a floor, float32 [3, H, W]."""
  down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
  across = np.linspace(0, 1, width, dtype=np.float32)[None, :]
  wall, wall_end, floor, floor_end = (np.float32(_colour(rng))[:, None, None] for _ in range(4))
  wall_end, floor_end = 0.6 * wall + 0.4 * wall_end, 0.6 * floor + 0.4 * floor_end
  slant = np.float32(rng.uniform(-0.05, 0.05)) if rng.random() < 0.3 else np.float32(0)
  horizon = np.float32(rng.uniform(0.4, 0.72))
  rgb = wall + (wall_end - wall) * (down if rng.random() < 0.5 else across)
  ground = floor + (floor_end - floor) * down
  if rng.random() < 0.25:
    # Boards or tiles, which look larger towards the viewer.
    depth = 0.06 / np.maximum(down - horizon + 0.06, 1e-3)
    lines = np.cos((across - 0.5) * depth * 120) * np.cos(np.minimum(depth, 1) * 40)
    ground = ground * (1 + 0.07 * np.sign(lines))
  rgb = np.where(down + slant * (across - 0.5) > horizon, ground, rgb)
  if rng.random() < 0.25:
    waves = np.cos(across * rng.uniform(40, 160) + down * rng.uniform(0, 60))
    rgb = rgb + np.float32(rng.uniform(3, 12)) * waves
  for cells, strength in ((5, 14), (40, 5)):
    rough = np.float32(rng.uniform(0, strength))
    rgb = rgb + rough * _texture(rng, width, height, cells)
  return rgb


def _block(x0, y0, x1, y1, radius=1.5) -> np.ndarray:
  """Outline of a rectangle with rounded corners, in pixels."""
  corners = [(x, y, radius) for x in (x0, x1) for y in (y0, y1)]
  return painting.outline(np.array(corners, np.float32))


def _clutter(rng, canvas):
  """Paints frames, cupboards, tables, balls, sticks and bushes behind the people."""
  height, width = canvas.ids.shape
  for _ in range(rng.integers(1, 8)):
    kind = rng.choice(['frame', 'cupboard', 'table', 'ball', 'stick', 'bush'])
    colour = _colour(rng)
    x, y = rng.uniform(0, width), rng.uniform(0.05, 0.9) * height
    w, h = rng.uniform(0.08, 0.3, 2) * width
    if kind == 'frame':
      y *= 0.5
      canvas.paint([_block(x, y, x + w, y + h)], colour, soft=3)
      canvas.paint([_block(x + 4, y + 4, x + w - 4, y + h - 4)], _colour(rng))
    elif kind == 'cupboard':
      top, bottom = rng.uniform(0.2, 0.6) * height, rng.uniform(0.7, 0.95) * height
      canvas.paint([_block(x, top, x + w, bottom)], colour, soft=5)
      for shelf in np.arange(top + 10, bottom - 12, rng.uniform(18, 40)):
        canvas.paint([_block(x + 5, shelf, x + w - 5, shelf + 9)], colour * 0.75)
    elif kind == 'table':
      y = rng.uniform(0.55, 0.85) * height
      legs = [_block(x + s * w, y, x + s * w + 4, y + 0.8 * h) for s in (0.05, 0.92)]
      canvas.paint([_block(x, y, x + w, y + 7), *legs], colour, soft=3)
    elif kind == 'ball':
      radius = rng.uniform(4, 22)
      canvas.paint([painting.outline(np.array([[x, y, radius]]))], colour, soft=radius)
    elif kind == 'stick':
      # As thick as a limb, and sometimes in the colour of skin.
      if rng.random() < 0.5:
        colour = np.array(figures.SKINS[rng.integers(len(figures.SKINS))]) * rng.uniform(0.7, 1)
      end = rng.normal((x, y), 0.13 * width)
      r0, r1 = rng.uniform(2, 8, 2)
      canvas.paint([painting.outline(np.array([[x, y, r0], [*end, r1]]))], colour, soft=r0)
    else:
      leaves = np.array([0.55, 1, 0.5]) * rng.uniform(70, 170)
      spots = rng.normal((x, y), 0.05 * width, (9, 2))
      bush = [painting.outline(np.array([[*spot, rng.uniform(5, 14)]])) for spot in spots]
      canvas.paint(bush, leaves, soft=7)


def _place_people(rng, width, height) -> list[tuple]:
  """Returns figures with their origin (x, y) and scale in pixels, the farther ones first."""
  placed, boxes = [], []
  num_people = rng.choice(MAX_PEOPLE, p=[0.25, 0.32, 0.26, 0.17]) + 1
  for _ in range(num_people):
    body = figures.Figure(rng)
    low, high = body.bounds()
    # A box that overlaps an earlier one too much is drawn again, up to 10 times in all.
    for _ in range(10):
      leaves_frame = rng.random() < 0.16
      if leaves_frame:
        scale = height * rng.uniform(0.7, 1.6)
      else:
        max_scale = min(0.97 * height / (high - low)[1], 0.97 * width / (high - low)[0])
        scale = max_scale * rng.uniform(0.42, 1) ** (1 if num_people < 3 else 1.4)
        scale = max(scale, min(62 / (high - low)[1], max_scale))
      size = (high - low) * scale
      if leaves_frame:
        # Head and shoulders stay in the frame; the legs or one side may leave it.
        left = rng.uniform(-0.25 * size[0], max(width - 0.75 * size[0], -0.2 * size[0]))
        top = rng.uniform(-0.06, 0.25) * height
      else:
        left = rng.uniform(0, width - size[0])
        # Feet stand on the floor, which begins well above the bottom of the picture.
        top = max(height * rng.uniform(0.74, 0.99) - size[1], 0.01 * height)
      box = np.array([left, top, left + size[0], top + size[1]])
      visible = np.clip(box, 0, (width, height, width, height))
      if all(_overlap(visible, other) < 0.35 for other in boxes):
        boxes.append(visible)
        placed.append((body, (left, top) - low * scale, scale, box[3]))
        break
  placed.sort(key=lambda item: item[3])
  return [item[:3] for item in placed]


def _overlap(a, b) -> float:
  """Intersection of two boxes (x0, y0, x1, y1) as a fraction of the smaller one."""
  sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
  smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
  return np.prod(sides) / max(smaller, 1)


def _draw_seat(rng, canvas, origin, scale):
  x, y = origin
  half, top = rng.uniform(0.1, 0.17) * scale, y + 0.055 * scale
  seat = _block(x - half, top, x + half, top + 0.04 * scale, 0.015 * scale)
  legs = [
    _block(x + s * half, top, x + s * half * 1.05, y + 0.27 * scale, 0.012 * scale) for s in (-1, 1)
  ]
  box = [_block(x - half, top, x + half, y + 0.27 * scale, 0.015 * scale)]
  canvas.paint([seat, *legs] if rng.random() < 0.5 else box, _colour(rng), soft=0.04 * scale)


def _cover_something(rng, canvas, placed):
  """Paints one object in front of a person: a low table, a post or a box."""
  _, origin, scale = placed[rng.integers(len(placed))]
  x, y = origin + rng.normal(0, 0.1, 2) * scale
  kind = rng.choice(['table', 'post', 'box'])
  if kind == 'table':
    shape = _block(x - 0.3 * scale, y + 0.12 * scale, x + 0.3 * scale, y + 0.2 * scale)
  elif kind == 'post':
    x += rng.choice([-1, 1]) * rng.uniform(0.06, 0.15) * scale
    shape = _block(x, -5, x + 0.05 * scale, canvas.ids.shape[0] + 5)
  else:
    shape = _block(x - 0.14 * scale, y + 0.22 * scale, x + 0.1 * scale, y + 0.52 * scale)
  canvas.paint([shape], _colour(rng), soft=0.03 * scale)


def _photograph(rng, rgb) -> np.ndarray:
  """Adds uneven light, a colour cast, blur and noise; float32 [3, H, W] -> uint8 [H, W, 3]."""
  _, height, width = rgb.shape
  contrast = rng.uniform(0.85, 1.1)
  gain = rng.uniform(0.85, 1.2) * (1 + rng.normal(0, 0.03, (3, 1, 1)))
  shade = 1 + np.float32(rng.uniform(0, 0.12)) * _texture(rng, width, height, 3)
  noise = np.float32(rng.uniform(0, 7)) * rng.standard_normal((height, width), np.float32)
  soften = rng.uniform(0.3, 0.9) if rng.random() < 0.3 else 0.0
  rgb = ((rgb - 128) * np.float32(contrast) + 128) * (np.float32(gain) * shade)
  if soften:
    # The lens blurs the light before the sensor adds noise.
    rgb = np.stack(
      [
        np.asarray(Image.fromarray(plane.astype(np.uint8)).filter(ImageFilter.GaussianBlur(soften)))
        for plane in np.clip(rgb, 0, 255)
      ]
    )
  return np.clip(rgb + noise, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()


def image_id(split: str, index: int) -> int:
  """Id of a split's image, unique across splits unless the CRCs of two names agree mod 2147."""
  return zlib.crc32(split.encode()) % 2147 * IDS_PER_SPLIT + index + 1


def scene_seed(split: str, seed: int, index: int) -> int:
  """Seed of a split's image: splits share no scene, however many images each has."""
  sequence = np.random.SeedSequence([seed, zlib.crc32(split.encode()), index])
  return int(sequence.generate_state(1, np.uint64)[0])


def _write_scene(task) -> tuple[dict, list[dict]]:
  """Writes one picture; returns its COCO image record and its annotations, still without ids."""
  images, split, seed, index = task
  pixels, people = render_scene(scene_seed(split, seed, index))
  name = f'{image_id(split, index):012d}.jpg'
  Image.fromarray(pixels).save(pathlib.Path(images) / name, quality=90)
  height, width, _ = pixels.shape
  image = {
    'id': image_id(split, index),
    'file_name': name,
    'width': width,
    'height': height,
    'license': 1,
  }
  annotations = []
  for person in people:
    x, y, w, h = person['box']
    labelled = person['visible'] > 0
    triplets = np.column_stack([person['keypoints'].round(2), person['visible']])
    annotations.append({
      'image_id': image['id'],
      'category_id': 1,
      'iscrowd': 0,
      'bbox': [x, y, w, h],
      'area': person['area'],
      'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
      'num_keypoints': int(labelled.sum()),
      'keypoints': (triplets * labelled[:, None]).ravel().tolist(),
    })  # fmt: skip
  return image, annotations


def write_coco(folder, split: str, num_images: int, seed: int, processes: int = 2) -> None:
  """Writes images/{split}/*.jpg and annotations/person_keypoints_{split}.json under `folder`.

  Scene seeds come from (seed, split's name, index), so splits are disjoint and a longer split
  begins with the pictures of a shorter one.

  Args:
    folder: root of the data set; created if missing.
    split: name of the split, such as 'train2017'.
    num_images: number of pictures, 1 to MAX_IMAGES.
    seed: non-negative seed of the whole data set.
    processes: number of drawing processes; does not change the result.

  Raises:
    DataError: an impossible number of images.
  """
  if not 0 < num_images <= MAX_IMAGES:
    raise errors.DataError(
      f'synthetic people, split {split!r}: {num_images} images requested; '
      f'choose between 1 and {MAX_IMAGES}'
    )
  folder = pathlib.Path(folder)
  images = folder / 'images' / split
  images.mkdir(parents=True, exist_ok=True)
  (folder / 'annotations').mkdir(exist_ok=True)

  tasks = [(str(images), split, seed, index) for index in range(num_images)]
  show = {'total': num_images, 'desc': f'drawing {split}', 'disable': not sys.stderr.isatty()}
  written = list(tqdm.tqdm(workers.in_order(_write_scene, tasks, processes), **show))

  annotations = [annotation for _, people in written for annotation in people]
  for number, annotation in enumerate(annotations):
    annotation['id'] = image_id(split, number)
  dataset = {
    'info': {'description': f'mrpose_jax synthetic people, {split}, seed {seed}', 'version': '1.0'},
    'licenses': [{'id': 1, 'name': 'Generated by mrpose_jax', 'url': ''}],
    'images': [image for image, _ in written],
    'annotations': annotations,
    'categories': [{
      'supercategory': 'person',
      'id': 1,
      'name': 'person',
      'keypoints': list(skeletons.COCO.keypoints),
      'skeleton': [[a + 1, b + 1] for a, b in skeletons.COCO.limbs],
    }],
  }  # fmt: skip
  path = folder / 'annotations' / f'person_keypoints_{split}.json'
  # Renamed when complete, because its existence means that the split was drawn.
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(dataset))
  os.replace(partial, path)
