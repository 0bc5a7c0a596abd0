"""What the device gets of N people, and how one person becomes a row of it."""

from typing import Any
from typing import NamedTuple

import numpy as np

from input_pipeline import images


class PersonBatch(NamedTuple):
  """N people as the device gets them; all coordinates in pixels of the person's image.

  Attributes:
    patches: uint8 [N, P, P, 3], parts of images, zero beyond their size.
    origin: [N, 2] xy of a patch's first pixel in the image.
    zoom: [N, 2] patch pixels per image pixel.
    center: [N, 2] xy of the region to crop.
    size: [N, 2] width, height of the region.
    keypoints: [N, K, 2] xy.
    visible: [N, K], above 0 where labelled.
  """

  patches: Any
  origin: Any
  zoom: Any
  center: Any
  size: Any
  keypoints: Any
  visible: Any


def stack(examples: list[PersonBatch]) -> PersonBatch:
  """Single people -> a batch."""
  return PersonBatch(*(np.stack(column) for column in zip(*examples)))


def person_example(patch: images.Patch, center, size, keypoints, visible, canvas) -> PersonBatch:
  """One person, the patch laid on the canvas."""
  pixels = np.zeros((canvas, canvas, 3), np.uint8)
  height, width = patch.pixels.shape[:2]
  pixels[:height, :width] = patch.pixels
  return PersonBatch(
    pixels,
    np.asarray(patch.origin, np.float32),
    np.asarray(patch.zoom, np.float32),
    np.asarray(center, np.float32),
    np.asarray(size, np.float32),
    np.asarray(keypoints, np.float32),
    np.asarray(visible, np.float32),
  )


def empty_like(example: PersonBatch) -> PersonBatch:
  """A row that fills up a batch: no pixels, and a region that divides by nothing."""
  return example._replace(patches=np.zeros_like(example.patches), size=np.ones_like(example.size))
