"""The batch of people that the device receives, and how single people become its rows."""

import math
from typing import Any
from typing import NamedTuple

import numpy as np

from mrpose_jax.input_pipeline.host import image_files

ALIGNMENT = 64  # bytes; JAX on a CPU uses arrays that are aligned to it without copying them


class PersonBatch(NamedTuple):
  """A batch of N people for the device; all coordinates are in pixels of the person's image.

  Attributes:
    patches: uint8 [N, P, P, 3], parts of images, zero beyond their size.
    origin: [N, 2] xy of the patch's first pixel in the image.
    zoom: [N, 2] patch pixels per image pixel.
    center: [N, 2] xy centre of the region to crop.
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
  """Row of one person; its pixels are those of the patch, which `stack` copies onto a canvas."""
  return PersonBatch(patch.pixels, patch.origin, patch.zoom, center, size, keypoints, visible)


def empty(num_keypoints: int) -> PersonBatch:
  """Row that fills up a batch: no pixels, and a region of size 1, to avoid division by zero."""
  patch = image_files.Patch(np.zeros((0, 0, 3), np.uint8), np.zeros(2), np.ones(2))
  keypoints = np.zeros((num_keypoints, 2))
  return person_example(patch, np.zeros(2), np.ones(2), keypoints, keypoints[:, 0])


def stack(examples: list[PersonBatch], canvas: int) -> PersonBatch:
  """Stacks single people to a batch; each patch lies in the upper left corner of its canvas."""
  patches = _zeros((len(examples), canvas, canvas, 3))
  for row, example in zip(patches, examples):
    height, width = example.patches.shape[:2]
    row[:height, :width] = example.patches
  numbers = list(zip(*examples))[1:]
  return PersonBatch(patches, *(np.array(column, np.float32) for column in numbers))


def _zeros(shape):
  """uint8 zeros that are aligned, so that JAX on a CPU uses their memory without a copy."""
  size = math.prod(shape)
  memory = np.zeros(size + ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % ALIGNMENT
  return memory[start : start + size].reshape(shape)
