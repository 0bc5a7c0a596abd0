"""What the device gets of N people, and how one person becomes a row of it."""

import math
from typing import Any
from typing import NamedTuple

import numpy as np

from input_pipeline.host import image_files

ALIGNMENT = 64  # bytes; of arrays that JAX on a CPU takes without copying them


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


def person_example(patch: image_files.Patch, center, size, keypoints, visible) -> PersonBatch:
  """One person; its pixels are those of the patch, which `stack` lays on a canvas."""
  return PersonBatch(patch.pixels, patch.origin, patch.zoom, center, size, keypoints, visible)


def empty(num_keypoints: int) -> PersonBatch:
  """A row that fills up a batch: no pixels, and a region that divides by nothing."""
  patch = image_files.Patch(np.zeros((0, 0, 3), np.uint8), np.zeros(2), np.ones(2))
  keypoints = np.zeros((num_keypoints, 2))
  return person_example(patch, np.zeros(2), np.ones(2), keypoints, keypoints[:, 0])


def stack(examples: list[PersonBatch], canvas: int) -> PersonBatch:
  """Single people -> a batch, their patches in the upper left corners of a canvas each."""
  patches = _zeros((len(examples), canvas, canvas, 3))
  for row, example in zip(patches, examples):
    height, width = example.patches.shape[:2]
    row[:height, :width] = example.patches
  numbers = list(zip(*examples))[1:]
  return PersonBatch(patches, *(np.array(column, np.float32) for column in numbers))


def _zeros(shape):
  """uint8 zeros where JAX on a CPU takes the memory as it is: it copies what is not aligned."""
  size = math.prod(shape)
  memory = np.zeros(size + ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % ALIGNMENT
  return memory[start : start + size].reshape(shape)
