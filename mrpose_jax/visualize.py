"""Draws people over images, heatmaps over crops, and contact sheets.

Images are uint8 [H, W, 3] RGB, for input and output. Nothing is random, and no input is changed.
"""

import math

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

# Okabe and Ito's palette: distinct with any of the common colour vision deficiencies.
SIDE_COLORS = {'left': (86, 180, 233), 'right': (213, 94, 0), 'middle': (240, 228, 66)}
PERSON_COLORS = (
  *((230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (240, 228, 66), (213, 94, 0)),
  (0, 114, 178),
)
_OUTLINE = (25, 25, 25)
_ANNOTATED = (255, 255, 255)

# A heatmap's colours from 0 to 1, steadily from dark to light, so that they also work in grey.
_HEAT_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_HEAT_COLORS = ((64, 40, 190), (150, 40, 130), (215, 70, 70), (249, 142, 9), (252, 255, 164))

_GAP = 4  # pixels between the cells of a sheet
_FONT_SIZE = 11
_CAPTION_HEIGHT = 16
_BACKGROUND = (32, 32, 32)
_TEXT = (235, 235, 235)


def draw_people(image, people, skeleton, score_threshold=0.2, numbers=None):
  """Draws limbs as lines and keypoints as dots, coloured by the person's own left and right.

  The width of lines is proportional to the person's size. Keypoints with a lower score are smaller
  and more transparent, and people with higher scores are drawn on top.

  Args:
    image: uint8 [H, W, 3].
    people: [N, K, 3] x, y in pixels and score in 0..1. Keypoints that are not finite or not above
      `score_threshold` are not drawn; drawing is clipped at the edge of the image.
    skeleton: names and limbs of the K keypoints.
    score_threshold: 0..1.
    numbers: the identities of the N people, such as those of a tracker. Limbs then have the colour
      of the person instead of the side, and the number stands above each person.

  Returns:
    A new uint8 [H, W, 3].
  """
  _check_image(image)
  people = np.asarray(people, np.float64)
  if len(people) and people.shape[1:] != (skeleton.num_keypoints, 3):
    raise ValueError(f'people {people.shape} are not [N, {skeleton.num_keypoints}, 3]')
  people = people.reshape(-1, skeleton.num_keypoints, 3)
  drawn = np.isfinite(people).all(axis=2) & (people[..., 2] > score_threshold)  # [N, K]
  canvas = image.astype(np.float32)
  certainty = np.where(drawn, people[..., 2], 0).sum(axis=1)
  for n in np.argsort(certainty, kind='stable'):
    if drawn[n].any():
      color = None if numbers is None else PERSON_COLORS[numbers[n] % len(PERSON_COLORS)]
      scores = np.clip(people[n, :, 2], 0, 1)
      _draw_person(canvas, people[n, :, :2], scores, drawn[n], skeleton, color)
  picture = _to_uint8(canvas)
  if numbers is None:
    return picture
  labels = [(people[n, drawn[n], :2], numbers[n]) for n in range(len(people)) if drawn[n].any()]
  return _draw_numbers(picture, labels)


def _draw_numbers(image, labels):
  """Writes numbers above people; `labels` are pairs of keypoints [M, 2] and a number."""
  picture = Image.fromarray(image)
  draw = ImageDraw.Draw(picture)
  for points, number in labels:
    size = float(np.clip(0.15 * np.ptp(points, axis=0).max(), 12, 48))
    x, y = points[:, 0].mean(), points[:, 1].min() - 0.4 * size
    # A label that would leave the image is moved inside.
    x = np.clip(x, 0.5 * size, max(0.5 * size, picture.width - 0.5 * size))
    y = np.clip(y, 1.2 * size, max(1.2 * size, picture.height - 1))
    draw.text(
      *((x, y), str(number), PERSON_COLORS[number % len(PERSON_COLORS)]),
      **{'font': ImageFont.load_default(size), 'anchor': 'md'},
      **{'stroke_width': size / 10, 'stroke_fill': _OUTLINE},
    )
  return np.array(picture)


def draw_names(image, person, skeleton):
  """Writes the name of each keypoint beside it, in the colour of its side.

  Args:
    image: uint8 [H, W, 3].
    person: [K, 3] x, y in pixels; keypoints whose third value is 0 have no name.
    skeleton: names of the K keypoints.

  Returns:
    A new uint8 [H, W, 3].
  """
  picture = Image.fromarray(image)
  writer = ImageDraw.Draw(picture)
  font = ImageFont.load_default(_FONT_SIZE)
  for k, (x, y, labelled) in enumerate(np.asarray(person, np.float64)):
    if labelled:
      name, color = skeleton.keypoints[k], SIDE_COLORS[skeleton.side(k)]
      x = np.clip(x + 5, 0, max(0, image.shape[1] - font.getlength(name) - 2))
      y = np.clip(y - _FONT_SIZE / 2, 0, image.shape[0] - _FONT_SIZE - 3)
      writer.text((x, y), name, color, font, stroke_width=2, stroke_fill=_OUTLINE)
  return np.array(picture)


def draw_errors(image, person, truth, visible, skeleton):
  """Draws one person, and a white line from each keypoint to a white dot at its annotation.

  Args:
    image: uint8 [H, W, 3].
    person: [K, 3] predicted x, y in pixels and score.
    truth: [K, 2] annotated x, y.
    visible: [K], above 0 where annotated.
    skeleton: names and limbs of the K keypoints.

  Returns:
    A new uint8 [H, W, 3].
  """
  canvas = draw_people(image, person[None], skeleton, score_threshold=0).astype(np.float32)
  person, truth = np.asarray(person, np.float64), np.asarray(truth, np.float64)
  drawn = (np.asarray(visible) > 0) & np.isfinite(person).all(-1) & np.isfinite(truth).all(-1)
  for radius, color in ((1.6, _OUTLINE), (0.6, _ANNOTATED)):
    for k in np.flatnonzero(drawn):
      _draw_capsule(canvas, truth[k], person[k, :2], radius=radius, color=color, opacity=0.9)
      _draw_capsule(canvas, truth[k], truth[k], radius=radius + 1.8, color=color, opacity=1)
  return _to_uint8(canvas)


def _draw_person(canvas, points, scores, drawn, skeleton, color=None):
  radius = _line_radius(points[drawn])
  opacity = 0.3 + 0.7 * np.where(drawn, scores, 0)
  sides = [skeleton.side(k) for k in range(skeleton.num_keypoints)]
  limbs = [(a, b) for a, b in skeleton.limbs if drawn[a] and drawn[b]]
  # All outlines are drawn before all lines, so that crossing limbs stay connected.
  for a, b in limbs:
    _draw_capsule(
      canvas,
      points[a],
      points[b],
      radius=1.6 * radius,
      color=_OUTLINE,
      opacity=0.5 * min(opacity[a], opacity[b]),
    )
  for a, b in limbs:
    _draw_capsule(
      canvas,
      points[a],
      points[b],
      radius=radius,
      color=color or SIDE_COLORS[_limb_side(sides[a], sides[b])],
      opacity=min(opacity[a], opacity[b]),
    )
  for k in np.flatnonzero(drawn):
    size = radius * (1.2 + 0.8 * scores[k])
    rim = size + max(0.8, 0.4 * radius)
    for reach, fill in ((rim, _OUTLINE), (size, SIDE_COLORS[sides[k]])):
      _draw_capsule(canvas, points[k], points[k], radius=reach, color=fill, opacity=opacity[k])


def _line_radius(points):
  """Half a limb's width in pixels for a person with these [M, 2] keypoints."""
  extent = np.ptp(points, axis=0).max()
  return float(np.clip(0.01 * extent, 0.8, 8))


def _limb_side(a, b):
  """Side of a limb from the sides of its ends; 'middle' if they differ, as between the hips."""
  if 'middle' in (a, b):
    return b if a == 'middle' else a
  return a if a == b else 'middle'


def _draw_capsule(canvas, start, end, *, radius, color, opacity):
  """Blends a line with round ends, or a dot if both ends are equal, into float [H, W, 3] in place.

  It is antialiased: a pixel's coverage grows linearly with the distance of its centre from the
  outline, over a band one pixel wide.
  """
  height, width = canvas.shape[:2]
  reach = radius + 1
  low = np.clip(np.floor(np.minimum(start, end) - reach), 0, (width, height)).astype(int)
  high = np.clip(np.ceil(np.maximum(start, end) + reach) + 1, 0, (width, height)).astype(int)
  if (low >= high).any():
    return
  x = np.arange(low[0], high[0])[None, :] - start[0]
  y = np.arange(low[1], high[1])[:, None] - start[1]
  along = end - start
  # Position 0..1 along the line of the point nearest to each pixel.
  nearest = np.clip((x * along[0] + y * along[1]) / max(along @ along, 1e-12), 0, 1)
  distance = np.hypot(x - nearest * along[0], y - nearest * along[1])
  coverage = opacity * np.clip(radius + 0.5 - distance, 0, 1)[..., None].astype(np.float32)
  patch = canvas[low[1] : high[1], low[0] : high[0]]
  patch += coverage * (np.asarray(color, np.float32) - patch)


def heatmap_grid(image, heatmaps, skeleton):
  """Draws each keypoint's heatmap over a grey copy of the crop, with its name and peak value.

  Colours have an absolute scale from 0 to 1, the peak of a training target, so that low confidence
  is visible.

  Args:
    image: uint8 [H, W, 3], the network's crop before normalisation.
    heatmaps: float [h, w, K] of that crop, in any resolution.
    skeleton: names of the K keypoints.

  Returns:
    uint8 image of the roughly square grid, with the crops in their own size.
  """
  _check_image(image)
  heatmaps = np.nan_to_num(np.asarray(heatmaps, np.float32))
  if heatmaps.ndim != 3 or heatmaps.shape[2] != skeleton.num_keypoints:
    raise ValueError(f'heatmaps {heatmaps.shape} are not [h, w, {skeleton.num_keypoints}]')
  height, width = image.shape[:2]
  cells, captions = [], []
  for k, name in enumerate(skeleton.keypoints):
    cells.append(heat_over(image, heatmaps[..., k]))
    captions.append(f'{name.replace("_", " ")} {heatmaps[..., k].max(initial=0):.2f}')
  columns = math.ceil(math.sqrt(len(cells) * (height + _CAPTION_HEIGHT) / width))
  return contact_sheet(cells, columns, (height, width), captions)


def heat_over(image, heat):
  """Draws one heatmap over a grey copy of its crop.

  Args:
    image: uint8 [H, W, 3].
    heat: float [h, w], clipped to 0..1; the centres of its first pixel and of the crop's coincide,
      as in the codec.

  Returns:
    uint8 [H, W, 3].
  """
  height, width = image.shape[:2]
  grey = 0.6 * np.asarray(Image.fromarray(image).convert('L'), np.float32)[..., None]
  # Pillow counts from the corners of pixels: x + 1/2 of the crop is heat (x + 1/2) w/W + shift.
  zoom_x, zoom_y = heat.shape[1] / width, heat.shape[0] / height
  shift_x, shift_y = 0.5 - 0.5 * zoom_x, 0.5 - 0.5 * zoom_y
  heat = np.pad(np.asarray(heat, np.float32), ((0, 1), (0, 1)), mode='edge')
  matrix = (zoom_x, 0, shift_x, 0, zoom_y, shift_y)
  stretched = Image.fromarray(heat).transform(
    (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
  )
  heat = np.clip(np.asarray(stretched), 0, 1)
  color = np.stack([np.interp(heat, _HEAT_STOPS, c) for c in zip(*_HEAT_COLORS)], axis=-1)
  # The square root makes the flanks of a peak visible.
  return _to_uint8(grey + np.sqrt(heat)[..., None] * (color - grey))


def contact_sheet(images, columns, cell_size, captions=None):
  """Places images side by side, row by row, each resized to fit its cell.

  Args:
    images: uint8 [H, W, 3] arrays of any sizes.
    columns: number of cells per row.
    cell_size: (height, width) of a cell in pixels, without its caption.
    captions: one line of text per image, cut to the width of the cell; or None.

  Returns:
    The sheet as a uint8 image.
  """
  if captions is not None and len(captions) != len(images):
    raise ValueError(f'{len(captions)} captions for {len(images)} images')
  height, width = cell_size
  caption_height = 0 if captions is None else _CAPTION_HEIGHT
  rows = math.ceil(len(images) / columns)
  step_x, step_y = width + _GAP, height + caption_height + _GAP
  sheet = Image.new('RGB', (columns * step_x + _GAP, rows * step_y + _GAP), _BACKGROUND)
  draw = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(_FONT_SIZE)
  for i, image in enumerate(images):
    _check_image(image)
    left, top = _GAP + i % columns * step_x, _GAP + i // columns * step_y
    zoom = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom)))
    fitted = Image.fromarray(image)
    if size != fitted.size:
      fitted = fitted.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(fitted, (left + (width - size[0]) // 2, top + (height - size[1]) // 2))
    if captions is not None:
      draw.text((left + 1, top + height + 1), _cut(captions[i], font, width - 2), _TEXT, font)
  return np.array(sheet)


def _cut(text, font, width):
  """The text, cut and ended by two dots if it is wider than `width` pixels."""
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + '..') > width:
    text = text[:-1]
  return text + '..'


def _check_image(image):
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(f'expected a uint8 image [H, W, 3], not {image.dtype} {image.shape}')


def _to_uint8(image):
  return np.clip(np.rint(image), 0, 255).astype(np.uint8)
