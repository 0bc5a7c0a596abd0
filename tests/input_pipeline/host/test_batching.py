import jax
import numpy as np

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


def test_a_cpu_takes_patches_without_a_copy():
  """Therefore a batch's memory must never be written to again, and each batch has its own."""
  for canvas in (5, 64, 100):
    first, second = (batching.stack([person(3, 3)], canvas).patches for _ in range(2))
    on_device = jax.device_put(first, jax.devices('cpu')[0])
    assert on_device.unsafe_buffer_pointer() == first.ctypes.data
    assert not np.shares_memory(first, second)
