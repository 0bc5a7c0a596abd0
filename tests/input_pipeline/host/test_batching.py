import jax
import numpy as np
import pytest

from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import image_files


def person(height, width, canvas_position=3.0):
  pixels = np.full((height, width, 3), 7, np.uint8)
  patch = image_files.Patch(pixels, np.array([canvas_position, 4]), np.array([0.5, 0.25]))
  keypoints, visible = np.arange(4).reshape(2, 2), np.array([2, 0])
  return batching.person_example(patch, np.array([5, 6]), np.array([8, 9]), keypoints, visible)


def test_people_are_stacked_on_canvases_and_filled_up():
  found = batching.stack([person(4, 2), person(3, 6), batching.empty(2)], canvas=6)
  assert found.patches.shape == (3, 6, 6, 3) and found.patches.dtype == np.uint8
  expected = np.zeros((3, 6, 6, 3))
  expected[0, :4, :2] = expected[1, :3, :6] = 7
  np.testing.assert_array_equal(found.patches, expected)
  assert {array.dtype for array in found[1:]} == {np.dtype(np.float32)}
  np.testing.assert_array_equal(found.origin, [[3, 4], [3, 4], [0, 0]])
  np.testing.assert_array_equal(found.zoom, [[0.5, 0.25], [0.5, 0.25], [1, 1]])
  np.testing.assert_array_equal(found.center, [[5, 6], [5, 6], [0, 0]])
  np.testing.assert_array_equal(found.size, [[8, 9], [8, 9], [1, 1]])
  np.testing.assert_array_equal(found.keypoints, [[[0, 1], [2, 3]]] * 2 + [[[0, 0]] * 2])
  np.testing.assert_array_equal(found.visible, [[2, 0], [2, 0], [0, 0]])


@pytest.fixture
def people():
  """People whose patches end inside a block, at its edge, one pixel behind it, or are empty."""
  r = np.random.default_rng(0)
  sizes = ((4, 2), (32, 128), (33, 129), (200, 300), (300, 1), (64, 256))
  pixels = [r.integers(1, 256, (*size, 3), np.uint8) for size in sizes]
  rows = [person(3, 3)._replace(patches=patch, zoom=r.random(2)) for patch in pixels]
  return [*rows[:3], batching.empty(2), *rows[3:]]


def test_packed_patches_are_those_of_the_canvases(people):
  packed = batching.pack(people, 300)
  sizes = [(1, 1), (1, 1), (2, 2), (0, 0), (7, 3), (10, 1), (2, 2)]
  assert packed.patches.grid.tolist() == [list(size) for size in sizes]
  # 300 pixels are 10 x 3 blocks; at least a sixteenth of a full batch is empty.
  assert batching.size_step(7, 300) == 14  # 7 * 30 / 16 = 13.1
  assert packed.patches.blocks.shape == (41 + 14, 32, 128, 3)
  assert not packed.patches.blocks[41:].any()
  # Column by column: the block below the first one of the third person comes second.
  np.testing.assert_array_equal(packed.patches.blocks[3, 0], people[2].patches[32, :128])
  expected = batching.stack(people, 300)
  for name, found, array in zip(expected._fields, batching.unpack(packed), expected):
    np.testing.assert_array_equal(found, array, err_msg=name)


def test_packed_parts_make_the_batch(people):
  parts = [batching.pack(people[:4], 300), batching.pack(people[4:5], 300)]
  joined = batching.concatenate([*parts, batching.pack(people[5:], 300)])
  whole = batching.pack(people, 300)
  np.testing.assert_array_equal(joined.patches.blocks, whole.patches.blocks)
  np.testing.assert_array_equal(joined.patches.grid, whole.patches.grid)
  assert joined.patches.canvas == 300
  for found, expected in zip(joined[1:], whole[1:], strict=True):
    np.testing.assert_array_equal(found, expected)


def test_the_largest_batch_has_the_bytes_that_are_planned():
  full = person(300, 300)
  packed = batching.pack([full] * 7, 300)
  assert packed.patches.blocks.nbytes == batching.most_bytes(7, 300) == (7 * 30 + 14) * 12288


def test_a_cpu_takes_patches_without_a_copy():
  """Therefore a batch's memory must never be written to again, and each batch has its own."""
  for canvas in (5, 64, 100):
    first, second = (batching.stack([person(3, 3)], canvas).patches for _ in range(2))
    on_device = jax.device_put(first, jax.devices('cpu')[0])
    assert on_device.unsafe_buffer_pointer() == first.ctypes.data
    assert not np.shares_memory(first, second)
