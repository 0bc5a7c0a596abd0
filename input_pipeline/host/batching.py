"""Batches of people, and how single people become their rows.

A patch seldom fills its canvas, the square array that the device crops from. A batch on its way to
a device therefore holds the patches without the empty parts of their canvases, cut into blocks (see
`Packed`); `transfer.py` sends it and puts the blocks onto canvases.
"""

import math
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from mrpose_jax.input_pipeline.host import image_files

ALIGNMENT = 64  # bytes; JAX on a CPU uses arrays that are aligned to it without copying them
# Height and width of a block in pixels. A TPU keeps uint8 in tiles of this size, so that it moves
# blocks as a whole.
BLOCK = (32, 128)
# A batch has at most this number of sizes, because a device compiles a program for each of them.
SIZES = 16


class PersonBatch(NamedTuple):
  """A batch of N people; all coordinates are in pixels of the person's image.

  Attributes:
    patches: uint8 [N, P, P, 3], parts of images, zero beyond their size; or, on its way to a
      device, `Packed`.
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


class Packed(NamedTuple):
  """The patches of N people without the empty parts of their canvases.

  Each patch is cut into blocks, filled up with zeros at its right and lower edge.

  Attributes:
    blocks: uint8 [B, 32, 128, 3], person by person; those of a person column by column, each from
      its top to its bottom. After the last person follow empty ones, at least one `size_step`.
    grid: int32 [N, 2], number of blocks of each person down and across; 0 for no pixels.
    canvas: side in pixels of the square array that a patch lies on.
  """

  blocks: np.ndarray
  grid: np.ndarray
  canvas: int


def size_step(num_people: int, canvas: int) -> int:
  """Number of blocks that the numbers of blocks sent for `num_people` people are multiples of."""
  return max(1, math.ceil(num_people * math.prod(grid_of((canvas, canvas))) / SIZES))


def grid_of(shape: Sequence[int]) -> tuple[int, int]:
  """Number of blocks down and across that cover an array of (height, width) pixels."""
  return math.ceil(shape[0] / BLOCK[0]), math.ceil(shape[1] / BLOCK[1])


def most_bytes(num_people: int, canvas: int) -> int:
  """Bytes of the packed patches of a batch whose patches fill their canvases."""
  num_blocks = num_people * math.prod(grid_of((canvas, canvas))) + size_step(num_people, canvas)
  return num_blocks * math.prod(BLOCK) * 3


def person_example(patch: image_files.Patch, center, size, keypoints, visible) -> PersonBatch:
  """Row of one person; its patches are the patch's pixels, uint8 [h, w, 3]."""
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
  return PersonBatch(patches, *_stack_numbers(examples))


def pack(examples: list[PersonBatch], canvas: int) -> PersonBatch:
  """Stacks single people to a batch of `Packed` patches."""
  grid = np.array([grid_of(example.patches.shape) for example in examples], np.int32)
  packed = _empty_blocks(grid, canvas)
  strips = packed.blocks.reshape(-1, BLOCK[1], 3)  # the blocks of a column lie below each other
  row = 0
  for example in examples:
    height, width = example.patches.shape[:2]
    for left in range(0, width, BLOCK[1]):
      pixels = example.patches[:, left : left + BLOCK[1]]
      strips[row : row + height, : pixels.shape[1]] = pixels
      row += BLOCK[0] * math.ceil(height / BLOCK[0])
  return PersonBatch(packed, *_stack_numbers(examples))


def concatenate(batches: Sequence[PersonBatch]) -> PersonBatch:
  """Joins batches of `Packed` patches to one, in order."""
  parts = [batch.patches for batch in batches]
  packed = _empty_blocks(np.concatenate([part.grid for part in parts]), parts[0].canvas)
  first = 0
  for part in parts:
    count = int(part.grid.prod(1).sum())
    packed.blocks[first : first + count] = part.blocks[:count]
    first += count
  return PersonBatch(packed, *(np.concatenate(column) for column in list(zip(*batches))[1:]))


def unpack(batch: PersonBatch) -> PersonBatch:
  """Puts `Packed` patches onto canvases on the host; on devices, `transfer.on_canvases` does."""
  packed = batch.patches
  patches = _zeros((len(packed.grid), packed.canvas, packed.canvas, 3))
  strips = packed.blocks.reshape(-1, BLOCK[1], 3)
  row = 0
  for canvas, (down, across) in zip(patches, packed.grid.tolist()):
    for left in range(0, across * BLOCK[1], BLOCK[1]):
      part = canvas[: down * BLOCK[0], left : left + BLOCK[1]]
      part[:] = strips[row : row + part.shape[0], : part.shape[1]]
      row += down * BLOCK[0]
  return batch._replace(patches=patches)


def _empty_blocks(grid, canvas):
  num_blocks = int(grid.prod(1).sum()) + size_step(len(grid), canvas)
  return Packed(_zeros((num_blocks, *BLOCK, 3)), grid, canvas)


def _stack_numbers(examples):
  return (np.array(column, np.float32) for column in list(zip(*examples))[1:])


def _zeros(shape):
  """uint8 zeros that are aligned, so that JAX on a CPU uses their memory without a copy."""
  size = math.prod(shape)
  memory = np.zeros(size + ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % ALIGNMENT
  return memory[start : start + size].reshape(shape)
