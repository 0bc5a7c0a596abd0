"""The Predictor: its inputs and outputs, and how often it compiles."""

import jax
import numpy as np
import pytest
from jax import sharding
from PIL import Image

import mrpose_jax
from mrpose_jax import codecs
from mrpose_jax import defaults
from mrpose_jax import errors
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import augment
from tests.helpers import tiny_run

BOXES = np.array([[5, 5, 50, 80], [60, 20, 40, 40], [100, 0, 50, 90]], np.float32)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.write(tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def predictor(workdir):
  return mrpose_jax.load_predictor(workdir)


def picture(seed=0, height=100, width=150):
  # The image is smooth, so that peaks stay in place when it is resampled differently.
  small = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_arrays_pictures_and_paths_are_one(predictor, tmp_path):
  image = picture()
  Image.fromarray(image).save(tmp_path / 'a.png')
  expected = predictor(image, BOXES)
  assert expected.shape == (3, 17, 3) and expected.dtype == np.float32
  kinds = [image, jax.numpy.asarray(image), Image.fromarray(image), tmp_path / 'a.png']
  kinds.append(str(tmp_path / 'a.png'))
  for kind in kinds:
    np.testing.assert_array_equal(predictor(kind, BOXES), expected)
  for people in predictor(kinds, [BOXES] * len(kinds)):  # these do not fit into one batch
    np.testing.assert_allclose(people, expected, atol=1e-4)
  transparent = Image.fromarray(image).convert('RGBA')
  np.testing.assert_array_equal(predictor(transparent, BOXES), expected)


def test_sixteen_bits_are_the_same_from_a_file_and_from_pillow(predictor, tmp_path):
  gray = picture()[..., 0]
  Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / 'deep.png')
  expected = predictor(np.repeat(gray[..., None], 3, -1), BOXES)
  kinds = [tmp_path / 'deep.png', (tmp_path / 'deep.png').read_bytes()]
  for kind in (*kinds, Image.open(tmp_path / 'deep.png')):
    np.testing.assert_array_equal(predictor(kind, BOXES), expected)


def test_a_photograph_is_turned_upright(predictor, tmp_path):
  image = Image.fromarray(picture())
  exif = Image.Exif()
  exif[0x0112] = 6
  lying = image.transpose(Image.Transpose.ROTATE_90)  # as a telephone stores it
  lying.save(tmp_path / 'photo.png', exif=exif)
  kinds = [tmp_path / 'photo.png', (tmp_path / 'photo.png').read_bytes()]
  for kind in (*kinds, Image.open(tmp_path / 'photo.png')):
    np.testing.assert_array_equal(predictor(kind, BOXES), predictor(image, BOXES))
    stored = predictor(kind, BOXES, exif=False)
    np.testing.assert_array_equal(stored, predictor(np.asarray(lying), BOXES))
    np.testing.assert_array_equal(
      predictor.heatmaps(kind, BOXES[0])[0], predictor.heatmaps(image, BOXES[0])[0]
    )


def test_without_a_workdir(predictor):
  model = mrpose_jax.create_model('simple_baseline', depth=18, width=4)
  variables = jax.device_get(predictor.variables)
  made = mrpose_jax.Predictor.from_variables(
    model, variables, skeletons.COCO, image_size=(64, 64), batch_size=4
  )
  assert (made.config.eval.batch_size, made.config.model.width, made.step) == (4, 4, 0)
  np.testing.assert_allclose(made(picture(), BOXES), predictor(picture(), BOXES), atol=1e-3)
  with pytest.raises(ValueError, match='16 keypoints, the network 17'):
    mrpose_jax.Predictor.from_variables(model, variables, skeletons.MPII)
  with pytest.raises(ValueError, match="channel_order 'BGR': use 'rgb' or 'bgr'"):
    mrpose_jax.Predictor.from_variables(model, variables, skeletons.COCO, channel_order='BGR')
  fields = {'codec': 'udp', 'sigma': 3.0}
  udp = mrpose_jax.Predictor.from_variables(model, variables, skeletons.COCO, **fields)
  assert predict.codec_of(udp.config) == codecs.UdpCodec((256, 192), (64, 48), 3.0)


def test_another_device_and_type(workdir, predictor):
  device = jax.devices()[2]
  made = mrpose_jax.load_predictor(workdir, dtype='bfloat16', device=device)
  assert made.config.model.dtype == 'bfloat16'
  assert {d for x in jax.tree.leaves(made.variables) for d in x.devices()} == {device}
  assert made._predict_batch(list(made._examples(picture(), BOXES))).devices() == {device}
  scores = made(picture(), BOXES)[..., 2]
  np.testing.assert_allclose(scores, predictor(picture(), BOXES)[..., 2], rtol=0.1, atol=0.05)
  with pytest.raises(errors.ConfigError, match="unknown dtype 'float16'"):
    mrpose_jax.load_predictor(workdir, dtype='float16')


def test_corners_are_the_same_boxes(predictor):
  corners = BOXES + np.concatenate([np.zeros((3, 2)), BOXES[:, :2]], 1)
  np.testing.assert_array_equal(
    predictor(picture(), corners, box_format='xyxy'), predictor(picture(), BOXES)
  )


def test_lists_keep_their_order_and_counts(predictor):
  images = [picture(1, 40, 200), picture(2, 300, 90), picture(3), picture(4, 31, 33)]
  boxes = [BOXES[:2], np.zeros((0, 4)), None, [[0, 0, 33, 31]]]
  people = predictor(images, boxes)
  assert [p.shape for p in people] == [(n, 17, 3) for n in (2, 0, 1, 1)]
  for image, image_boxes, image_people in zip(images, boxes, people):
    np.testing.assert_allclose(image_people, predictor(image, image_boxes), atol=1e-4)
  assert predictor([]) == []
  assert [p.shape for p in predictor(images)] == [(1, 17, 3)] * 4


def test_few_programs_whatever_comes(workdir):
  """Batches of at most 8 people are padded to 1, 2, 4 or 8, and patches have one size."""
  predictor = mrpose_jax.load_predictor(workdir)
  for n in (1, 2, 3, 5, 8, 9, 21):
    for height, width in ((64, 64), (50, 333)):
      boxes = np.tile([[3.0, 4, 30, 40]], (n, 1))
      assert predictor(picture(n, height, width), boxes).shape == (n, 17, 3)
  assert predictor._predict.func._cache_size() == 4


def test_settings_of_its_own(workdir, predictor):
  image = picture()
  plain = mrpose_jax.load_predictor(workdir, flip_test=False, offset='none', batch_size=2)
  assert (plain.config.eval.flip_test, plain.config.eval.offset) == (False, 'none')
  people = plain(image, BOXES)
  pixels = (people[..., :2] - (BOXES[:, :2] + BOXES[:, 2:] / 2)[:, None]) / (
    1.25 * BOXES[:, 2:].max(1)[:, None, None]
  )
  # Without the offset every keypoint lies on a pixel of the 16 x 16 heatmap.
  np.testing.assert_allclose((pixels + 0.5) * 16 % 1, 0, atol=2e-4)
  assert np.abs(people[..., 2] - predictor(image, BOXES)[..., 2]).max() > 1e-3
  with pytest.raises(ValueError, match="offset 'half': use one of quarter, dark, none"):
    mrpose_jax.load_predictor(workdir, offset='half')
  with pytest.raises(ValueError, match='batch_size 0: must be at least 1'):
    mrpose_jax.load_predictor(workdir, batch_size=0)


def test_a_run_from_before_a_field_was_there(tmp_path, predictor):
  without = (('model', 'norm_groups'), ('eval', 'offset'))
  older = mrpose_jax.load_predictor(tiny_run.write(tmp_path / 'run', without=without))
  assert older.config.eval.offset is None
  np.testing.assert_array_equal(older(picture(), BOXES), predictor(picture(), BOXES))


def test_what_cannot_be_predicted(predictor, tmp_path):
  image = picture()
  for wrong, message in (
    ((image.astype(np.float32),), r'float32 \(100, 150, 3\); it must be uint8'),
    ((image[..., 0],), 'must be uint8'),
    ((np.stack([image, image]),), 'or a list of these'),
    ((image, [1, 2, 3]), r'boxes are \(3,\); they must be \[N, 4\] x, y, width, height'),
    ((image, [[0, 0, 5, np.nan]]), 'finite, with positive width'),
    ((image, [[9, 9, 5, 20]], 'xyxy'), 'positive width'),
    ((image, BOXES, 'cxcywh'), "box_format 'cxcywh': use one of xywh, xyxy"),
    (([image, image], [BOXES]), '2 images and boxes for 1'),
  ):
    with pytest.raises(ValueError, match=message):
      predictor(*wrong)
  with pytest.raises(errors.DataError, match=r'absent\.jpg: cannot be read'):
    predictor(tmp_path / 'absent.jpg')


@pytest.fixture(scope='module')
def batch(predictor):
  """Images [4, H, W, 3], boxes [4, 2, 4] with an empty one, and the Predictor's output."""
  images = np.stack([picture(n) for n in range(4)])
  boxes = np.stack([BOXES[:2], BOXES[1:], BOXES[:2] / 2, [[0, 0, 150, 100], [0, 0, 0, 0]]])
  people = [predictor(image, b[b[:, 2] > 0]) for image, b in zip(images, boxes)]
  people[3] = np.concatenate([people[3], np.zeros((1, 17, 3), np.float32)])
  return images, boxes, np.stack(people)


def test_predict_fn_in_jit_and_vmap(predictor, batch):
  images, boxes, expected = batch
  jitted = jax.jit(predictor.predict_fn)
  np.testing.assert_allclose(jitted(predictor.variables, images, boxes), expected, atol=1e-4)

  def predict_image(image, image_boxes):
    return predictor.predict_fn(predictor.variables, image[None], image_boxes[None])[0]

  people = jax.jit(jax.vmap(predict_image))(images, boxes)
  np.testing.assert_allclose(people, expected, atol=1e-4)


def test_predict_fn_in_shard_map(predictor, batch):
  images, boxes, expected = batch
  mesh = jax.make_mesh((4,), ('data',), axis_types=(sharding.AxisType.Auto,))
  split = sharding.PartitionSpec('data')
  mapped = jax.shard_map(
    predictor.predict_fn,
    mesh=mesh,
    in_specs=(sharding.PartitionSpec(), split, split),
    out_specs=split,
  )
  variables = jax.device_put(
    predictor.variables, sharding.NamedSharding(mesh, sharding.PartitionSpec())
  )
  people = jax.jit(mapped)(variables, images, boxes)
  assert people.sharding.spec[0] == 'data'
  np.testing.assert_allclose(people, expected, atol=1e-4)


class _Colours:
  """A network whose heatmaps are the red and green of every fourth pixel of its input."""

  def apply(self, variables, inputs, train):
    std, mean = (values.reshape(1, 1, 1, 3) for values in (augment.STD, augment.MEAN))
    return (inputs * std + mean)[:, ::4, ::4, :2]


@pytest.mark.parametrize('scales', [(1.0,), (0.5,), (0.75, 0.85, 0.95), (0.85, 1.0, 1.2)])
def test_several_scales_find_the_same_points(monkeypatch, scales):
  monkeypatch.setattr(predict, 'model_of', lambda config, num_keypoints: _Colours())
  config = defaults.get_config()
  config.data.update(image_size=(256, 256), codec='dark', sigma=1.0)
  config.eval.update(scales=scales, flip_test=False)
  skeleton = skeletons.Skeleton('two', ('a', 'b'), (), ())
  points = np.array([[90.3, 108.7], [100 + 0.35 * 160 * min(max(scales), 1.0), 92.2]])
  distance = np.stack(np.meshgrid(np.arange(200), np.arange(200)), -1)[..., None, :] - points
  image = 255 * np.exp(-np.square(distance).sum(-1) / (2 * 6.0**2))
  image = np.concatenate([image, 0 * image[..., :1]], -1).round().astype(np.uint8)
  predict_fn = jax.jit(predict.make_predict_fn(config, skeleton, aspect=1.0, padding=1.0))
  [[people]] = predict_fn({}, image[None], np.array([[[20.0, 20, 160, 160]]]))
  np.testing.assert_allclose(people[:, :2], points, atol=0.7)
  np.testing.assert_allclose(people[:, 2], 1, atol=0.15)


def test_coco_rows():
  people = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
  rows = mrpose_jax.to_coco([people, people[:0], people[1:]], [4, 5, 6], category_id=3)
  assert [row['image_id'] for row in rows] == [4, 4, 6]
  assert rows[1] == rows[2] | {'image_id': 4}
  assert rows[0] == {
    'image_id': 4,
    'category_id': 3,
    'keypoints': [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    'score': 3.5,
  }
  with pytest.raises(ValueError, match='1 images and 2 image_ids'):
    mrpose_jax.to_coco(people, [1, 2])


def test_frame():
  people = np.arange(2 * 17 * 3, dtype=np.float32).reshape(2, 17, 3)
  frame = mrpose_jax.to_frame([people, people[:0], people[:1]], skeletons.COCO)
  assert list(frame.columns) == ['image', 'person', 'keypoint', 'x', 'y', 'score']
  assert len(frame) == 51
  row = frame[(frame.image == 0) & (frame.person == 1) & (frame.keypoint == 'left_eye')]
  assert row[['x', 'y', 'score']].to_numpy().tolist() == [people[1, 1].tolist()]
  assert mrpose_jax.to_frame([], skeletons.COCO).empty


@pytest.mark.filterwarnings('ignore:OpenCV')  # supervision warns that it is slower without OpenCV
def test_supervision_takes_the_people(predictor):
  people = predictor(picture(), BOXES)
  keypoints = mrpose_jax.to_supervision(people)
  np.testing.assert_array_equal(keypoints.xy, people[..., :2])
  np.testing.assert_array_equal(keypoints.keypoint_confidence, people[..., 2])
  assert len(mrpose_jax.to_supervision(people[:0])) == 0


def test_public_names():
  assert mrpose_jax.Predictor is predictors.Predictor
  assert {'Predictor', 'load_predictor', 'to_coco', 'create_model'} <= set(dir(mrpose_jax))
  with pytest.raises(AttributeError, match="no attribute 'load_predicator'"):
    mrpose_jax.load_predicator  # noqa: B018
