import numpy as np
import pytest

from mrpose_jax import skeletons
from mrpose_jax import visualize

ARM = skeletons.Skeleton(
  name='arm',
  keypoints=('neck', 'left_hand', 'right_hand'),
  flip_pairs=((1, 2),),
  limbs=((0, 1), (0, 2), (1, 2)),
)
BLACK = np.zeros((60, 80, 3), np.uint8)


def one(*keypoints):
  return np.array([keypoints], float)


def test_a_sure_keypoint_has_the_color_of_its_side():
  image = visualize.draw_people(BLACK, one((20, 30, 0), (60, 30, 1), (10, 10, 1)), ARM)
  np.testing.assert_array_equal(image[30, 60], visualize.SIDE_COLORS['left'])
  np.testing.assert_array_equal(image[10, 10], visualize.SIDE_COLORS['right'])
  assert image.dtype == np.uint8 and image.shape == BLACK.shape
  assert not BLACK.any()


def test_limbs_join_the_keypoints_that_are_drawn():
  image = visualize.draw_people(BLACK, one((20, 30, 1), (60, 30, 1), (40, 5, 0.1)), ARM)
  np.testing.assert_array_equal(image[30, 40], visualize.SIDE_COLORS['left'])  # middle to left
  assert not image[:20].any()
  assert not image[40:].any()


def test_the_less_sure_is_the_fainter():
  sure, unsure = (
    visualize.draw_people(BLACK, one((20, 30, s), (60, 30, s), (0, 0, 0)), ARM).sum(dtype=int)
    for s in (0.9, 0.3)
  )
  assert 0 < unsure < sure


def test_lines_grow_with_the_person():
  def width(pixels):
    canvas = np.zeros((600, 600, 3), np.uint8)
    people = one((10, 300, 1), (10 + pixels, 300, 1), (0, 0, 0))
    return np.count_nonzero(visualize.draw_people(canvas, people, ARM)[:, 10 + pixels // 2].any(1))

  assert width(550) > 2 * width(100)


def test_a_numbered_person_has_a_color_and_a_number():
  """Limbs have the person's colour, keypoints keep that of their side, and numbers stay inside."""
  people = np.stack([((20, 30, 1), (60, 30, 1), (0, 0, 0)), ((20, 50, 1), (60, 50, 1), (0, 0, 0))])
  image = visualize.draw_people(BLACK, people, ARM, numbers=[3, 12])
  np.testing.assert_array_equal(image[30, 40], visualize.PERSON_COLORS[3])
  np.testing.assert_array_equal(image[50, 35], visualize.PERSON_COLORS[12 - 7])
  np.testing.assert_array_equal(image[30, 60], visualize.SIDE_COLORS['left'])
  plain = visualize.draw_people(BLACK, people, ARM)
  assert image[12:28].any() and not plain[12:28].any()  # the number above the first person
  again = visualize.draw_people(BLACK, people, ARM, numbers=[10, 12])
  np.testing.assert_array_equal(again[30, 40], image[30, 40])  # the colours repeat
  assert (again[:28] != image[:28]).any()
  for place in ((0, 0), (79, 59)):
    person = one((*place, 1), (0, 0, 0), (0, 0, 0))
    corner = visualize.draw_people(BLACK, person, ARM, numbers=[5])
    assert (corner != visualize.draw_people(BLACK, person, ARM)).any(-1).sum() > 50, place


def test_a_numbered_person_without_keypoints_is_not_drawn():
  people = one((20, 30, 0), (60, 30, 0), (0, 0, 0))
  np.testing.assert_array_equal(visualize.draw_people(BLACK, people, ARM, numbers=[1]), BLACK)


def test_edges_are_antialiased():
  image = visualize.draw_people(BLACK, one((5, 5, 1), (70, 50, 1), (0, 0, 0)), ARM)
  assert len(np.unique(image[..., 2])) > 20


def test_names_beside_their_keypoints():
  """A name is right of its keypoint, or moved as far as needed to end in the image."""
  image = visualize.draw_names(BLACK, [(5, 10, 1), (5, 30, 1), (79, 50, 1)], ARM)
  drawn = {
    side: np.argwhere(np.abs(image.astype(int) - color).max(-1) < 12)
    for side, color in visualize.SIDE_COLORS.items()
  }
  for side, row in (('middle', 10), ('left', 30), ('right', 50)):
    assert len(drawn[side]) > 5
    assert np.abs(drawn[side][:, 0] - row).max() < 9
  assert drawn['left'][:, 1].min() >= 10
  none = visualize.draw_names(BLACK, [(5, 10, 0), (5, 30, 0), (79, 50, 0)], ARM)
  np.testing.assert_array_equal(none, BLACK)


def test_nothing_to_draw():
  for people in (np.zeros((0, 3, 3)), [], one((5, 5, 0.2), (9, 9, 0.1), (20, 20, np.nan))):
    np.testing.assert_array_equal(visualize.draw_people(BLACK, people, ARM), BLACK)


def test_what_is_not_finite_or_outside_does_no_harm():
  people = one((np.nan, 5, 1), (40, 30, 1), (np.inf, np.inf, 1))
  alone = one((0, 0, 0), (40, 30, 1), (0, 0, 0))
  np.testing.assert_array_equal(
    visualize.draw_people(BLACK, people, ARM), visualize.draw_people(BLACK, alone, ARM)
  )
  outside = one((-500, -500, 1), (1e7, 30, 1), (40, 1e30, 1))
  assert visualize.draw_people(BLACK, outside, ARM).shape == BLACK.shape
  far = one((-50, 500, 1), (-10, 500, 1), (-10, 900, 1))
  np.testing.assert_array_equal(visualize.draw_people(BLACK, far, ARM), BLACK)


def test_a_line_that_leaves_the_image_is_cut_at_its_edge():
  image = visualize.draw_people(BLACK, one((40, 30, 1), (400, 30, 1), (0, 0, 0)), ARM)
  assert image[30, 79].any()


def test_wrong_arrays_are_refused():
  with pytest.raises(ValueError, match='uint8'):
    visualize.draw_people(BLACK / 255, np.zeros((0, 3, 3)), ARM)
  with pytest.raises(ValueError, match='people'):
    visualize.draw_people(BLACK, np.zeros((1, 17, 3)), ARM)
  with pytest.raises(ValueError, match='heatmaps'):
    visualize.heatmap_grid(BLACK, np.zeros((15, 20, 17)), ARM)
  with pytest.raises(ValueError, match='1 captions for 2 images'):
    visualize.contact_sheet([BLACK, BLACK], 2, (60, 80), ['one'])


def test_a_line_leads_from_each_keypoint_to_where_it_is_annotated():
  person = np.array([(20, 30, 1), (60, 30, 1), (40, 5, 1)], float)
  truth = np.array([(20, 50), (60, 30), (np.nan, 5)])
  plain = visualize.draw_people(BLACK, person[None], ARM)
  image = visualize.draw_errors(BLACK, person, truth, [1, 1, 1], ARM)
  assert (image[50, 20] > 250).all() and (image[42, 20] > 200).all()
  np.testing.assert_array_equal(image[:26, 26:54], plain[:26, 26:54])  # no line at the third
  unknown = visualize.draw_errors(BLACK, person, truth, [0, 0, 0], ARM)
  np.testing.assert_array_equal(unknown, plain)


def test_heatmap_grid_lights_the_peak_of_each_keypoint():
  heatmaps = np.zeros((15, 20, 3), np.float32)
  heatmaps[3, 4, 0] = 1.0  # heatmap pixel (4, 3) covers crop pixels 16..19, 12..15
  heatmaps[:, :, 1] = np.nan
  grid = visualize.heatmap_grid(BLACK, heatmaps, ARM)
  gap = 4
  first = grid[gap : gap + 60, gap : gap + 80]
  y, x = np.unravel_index(first.sum(-1, dtype=int).argmax(), (60, 80))
  assert 12 <= y <= 15 and 16 <= x <= 19
  second = grid[gap : gap + 60, 2 * gap + 80 : 2 * gap + 160]
  assert not second.any()


def test_contact_sheet_places_images_row_by_row():
  red, wide = np.full((10, 10, 3), (255, 0, 0), np.uint8), np.full((10, 40, 3), 255, np.uint8)
  sheet = visualize.contact_sheet([red, wide, red], columns=2, cell_size=(20, 20))
  assert sheet.shape == (2 * 24 + 4, 2 * 24 + 4, 3) and sheet.dtype == np.uint8
  np.testing.assert_array_equal(sheet[4:24, 4:24], np.broadcast_to(red[:1, :1], (20, 20, 3)))
  assert (sheet[14, 28:48] == 255).all()  # fitted to 20 x 5, in the middle of its cell
  assert not (sheet[8, 28:48] == 255).any()
  assert (sheet[38, 38] == sheet[0, 0]).all()  # an empty cell
  np.testing.assert_array_equal(sheet[28:48, 4:24], sheet[4:24, 4:24])


def test_captions_are_written_and_cut():
  long = 'a caption much too long for a cell of forty pixels'
  plain = visualize.contact_sheet([BLACK], 1, (30, 40), [''])
  short = visualize.contact_sheet([BLACK], 1, (30, 40), [long])
  assert short.shape == plain.shape
  assert (short != plain).any()
  np.testing.assert_array_equal(short[:, 44:], plain[:, 44:])
  np.testing.assert_array_equal(short, visualize.contact_sheet([BLACK], 1, (30, 40), [long]))


def test_empty_contact_sheet():
  assert visualize.contact_sheet([], 3, (20, 20)).shape == (4, 76, 3)
