"""Detectors, tested with ONNX files that return constants chosen by each test."""

import json
import logging
import sys
import types

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx import numpy_helper
from PIL import Image
from pycocotools import mask

from mrpose_jax import errors
from mrpose_jax.inference import detectors
from mrpose_jax.inference import image_folder
from mrpose_jax.inference import onnx_detectors
from mrpose_jax.inference import prediction_settings
from tests.helpers import shared_data
from tests.helpers import tiny_run

IMAGE = np.full((60, 80, 3), 200, np.uint8)  # scaled by 0.8 to fit into 64 x 64


def write(path, *outputs, shape=(1, 3, 64, 64), dtype=np.float32, names=None, classes=None):
  """Writes an ONNX file with constant outputs; it uses the image only as its mean times zero.

  Args:
    outputs: arrays.
    shape, dtype: of the input image.
    names: names of the outputs.
    classes: text of the class names in the metadata, as Ultralytics writes it.
  """
  kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
  image = helper.make_tensor_value_info('image', kind, shape)
  nodes = [
    helper.make_node('Cast', ['image'], ['pixels'], to=onnx.TensorProto.FLOAT),
    helper.make_node('ReduceMean', ['pixels'], ['mean'], keepdims=0),
    helper.make_node('Mul', ['mean', 'zero'], ['nothing']),
  ]
  values = [numpy_helper.from_array(np.zeros((), np.float32), 'zero')]
  infos = []
  for i, output in enumerate(outputs):
    output = np.asarray(output)
    name = names[i] if names else f'output{i}'
    values.append(numpy_helper.from_array(output, f'value{i}'))
    if output.dtype == np.float32:
      nodes.append(helper.make_node('Add', [f'value{i}', 'nothing'], [name]))
    else:
      nodes.append(helper.make_node('Identity', [f'value{i}'], [name]))
    kind = helper.np_dtype_to_tensor_dtype(output.dtype)
    infos.append(helper.make_tensor_value_info(name, kind, output.shape))
  graph = helper.make_graph(nodes, 'detector', [image], infos, values)
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
  if classes:
    helper.set_model_props(model, {'names': classes})
  onnx.save(model, path)
  return str(path)


def detections(*rows):
  return np.array([rows], np.float32)


@pytest.fixture
def suppressed(tmp_path):
  """A detector of four people and a dog; one person is a duplicate and one scores too low."""
  rows = detections(
    (8, 8, 24, 40, 0.6),
    (9, 8, 24, 41, 0.9),
    (40, 0, 60, 40, 0.8),
    (2, 2, 9, 9, 0.2),
    (0, 0, 9, 9, 1),
  )
  return write(tmp_path / 'yolox.onnx', rows, np.array([[0, 0, 0, 0, 16]], np.int64))


def test_boxes_in_pixels_of_the_image(suppressed):
  boxes, scores = detectors.load_detector(suppressed)(IMAGE)
  assert boxes.dtype == scores.dtype == np.float32
  np.testing.assert_allclose(boxes, [[11.25, 10, 18.75, 41.25], [50, 0, 25, 50]], atol=1e-5)
  np.testing.assert_allclose(scores, [0.9, 0.8])


def test_nobody(tmp_path):
  file = write(tmp_path / 'a.onnx', detections((0, 0, 9, 9, 0.1)), np.array([[0]], np.int64))
  boxes, scores = detectors.load_detector(file)(IMAGE)
  assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_yolox_that_decodes_itself(tmp_path):
  rows = np.zeros((1, 84, 85), np.float32)  # 8x8 + 4x4 + 2x2 cells cover 64 x 64 pixels
  rows[0, :, 2:4] = 3
  rows[0, 20, :6] = 20, 28, 24, 40, 0.9, 0.5
  boxes, scores = detectors.load_detector(write(tmp_path / 'decoded.onnx', rows))(IMAGE)
  np.testing.assert_allclose(boxes, [[10, 10, 30, 50]], atol=1e-5)
  np.testing.assert_allclose(scores, [0.45])


def test_yolox_without_its_own_suppression(tmp_path):
  """Cell (x 2, y 1) of the grid with stride 16 predicts centre (2.5, 1.5) and size 2 x 1 cells."""
  rows = np.zeros((1, 64 + 16 + 4, 7), np.float32)
  rows[0, 64 + 4 + 2] = [0.5, 0.5, np.log(2), np.log(1), 0.9, 0.5, 0.1]
  rows[0, 0] = [0, 0, 1, 1, 0.9, 0.1, 0.9]  # another class
  boxes, scores = detectors.load_detector(write(tmp_path / 'a.onnx', rows))(IMAGE)
  np.testing.assert_allclose(boxes, [[24 / 0.8, 16 / 0.8, 32 / 0.8, 16 / 0.8]], rtol=1e-5)
  np.testing.assert_allclose(scores, [0.45])


@pytest.fixture
def seen(monkeypatch):
  """List of the arrays that the networks are given after their files are recognised."""
  arrays, run = [], onnx_detectors.OnnxDetector._run
  monkeypatch.setattr(
    onnx_detectors.OnnxDetector, '_run', lambda self, x: arrays.append(x) or run(self, x)
  )
  return arrays


@pytest.mark.parametrize(
  ('prefix', 'first', 'last', 'gray'),
  [('', 10, 250, (114, 114, 114)), ('rtmdet:', -1.6301, 2.1634, (0.1825, -0.0398, -0.1657))],
)
def test_what_yolox_and_rtmdet_see(suppressed, seen, prefix, first, last, gray):
  """Blue is the first channel, the image lies at the top left, and the rest is gray."""
  detector = detectors.load_detector(prefix + suppressed)
  detector(np.full((60, 80, 3), (250, 0, 10), np.uint8))
  pixels = seen[-1]
  assert pixels.shape == (64, 64, 3) and pixels.dtype == np.float32
  np.testing.assert_allclose(pixels[47, 63, ::2], [first, last], atol=1e-3)
  np.testing.assert_allclose(pixels[48, 0], gray, atol=1e-3)


CELLS = 64 + 16 + 4  # of the grids with strides 8, 16 and 32 over 64 x 64 pixels
EXPECTED = [[11.25, 10, 18.75, 41.25], [50, 0, 25, 50]]  # of the rows below, divided by 0.8


@pytest.mark.parametrize('dtype', [np.float32, np.float16])
def test_yolov8_and_11(tmp_path, seen, caplog, dtype):
  """Rows are centre, size and class scores, not sorted and not suppressed; pixels are 0..1 RGB."""
  rows = np.zeros((1, 4 + 3, CELLS), np.float32)
  rows[0, :, 5] = [50, 20, 20, 40, 0.8, 0.1, 0]
  rows[0, :, 40] = [16.5, 24.5, 15, 33, 0.9, 0, 0]
  rows[0, :, 41] = [16, 24, 16, 32, 0.6, 0, 0]  # a duplicate
  rows[0, :, 60] = [30, 30, 8, 8, 0.1, 0.9, 0]  # another class
  file = write(tmp_path / 'yolo11n.onnx', rows.astype(dtype), dtype=dtype)
  with caplog.at_level(logging.INFO, 'mrpose_jax'):
    boxes, scores = detectors.load_detector(file)(np.full((60, 80, 3), (250, 0, 10), np.uint8))
  assert 'yolo11n.onnx: YOLOv8 or 11 (Ultralytics); input 64x64; people are class 0' in caplog.text
  np.testing.assert_allclose(boxes, EXPECTED, atol=0.01)
  np.testing.assert_allclose(scores, [0.9, 0.8], atol=1e-3)
  assert seen[-1].dtype == dtype
  np.testing.assert_allclose(seen[-1][0, 0], np.array([250, 0, 10]) / 255, atol=1e-3)
  np.testing.assert_allclose(seen[-1][63, 63], 114 / 255, atol=1e-3)


def test_end_to_end_yolo(tmp_path):
  rows = detections(
    (40, 0, 60, 40, 0.8, 0), (9, 8, 24, 41, 0.9, 0), (0, 0, 9, 9, 1, 16), (0, 0, 0, 0, 0, 0)
  )
  detector = detectors.load_detector(write(tmp_path / 'a.onnx', rows))
  assert detector.kind.name.startswith('end-to-end YOLO')
  boxes, scores = detector(IMAGE)
  np.testing.assert_allclose(boxes, EXPECTED, atol=1e-5)
  np.testing.assert_allclose(scores, [0.9, 0.8])


def test_one_class_yolox_is_no_end_to_end_yolo(tmp_path):
  detector = detectors.load_detector(
    write(tmp_path / 'a.onnx', np.zeros((1, CELLS, 6), np.float32))
  )
  assert detector.kind.name == 'YOLOX'


@pytest.mark.parametrize(
  ('classes', 'number', 'box'),
  [
    ("{0: 'Bus', 1: 'Person'}", 1, [11.25, 10, 18.75, 41.25]),
    ("{0: 'mouse', 1: 'rat'}", 0, [50, 0, 25, 50]),
    ('not a table of names', 0, [50, 0, 25, 50]),
  ],
)
def test_the_class_of_people_is_in_the_metadata(tmp_path, caplog, classes, number, box):
  rows = detections((40, 0, 60, 40, 0.8, 0), (9, 8, 24, 41, 0.9, 1))
  file = write(tmp_path / 'a.onnx', rows, classes=classes)
  with caplog.at_level(logging.INFO, 'mrpose_jax'):
    boxes, _ = detectors.load_detector(file)(IMAGE)
  np.testing.assert_allclose(boxes, [box], atol=1e-5)
  assert f'people are class {number}' in caplog.text


TENSORFLOW = ('detection_boxes:0', 'detection_classes:0', 'num_detections:0', 'detection_scores:0')


@pytest.mark.parametrize('size', [(None, None), (30, 20)])
def test_tensorflow(tmp_path, seen, size):
  """uint8 images in their own size or stretched; corners are top, left, bottom, right in 0..1."""
  boxes = np.array([[[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1], [0.5, 0.5, 0.9, 1], [0, 0, 0.1, 0.1]]])
  found = boxes.astype(np.float32), np.float32([[1, 3, 1, 1]]), np.float32([4])
  scores = np.float32([[0.5, 0.9, 0.7, 0.1]])
  file = write(
    *(tmp_path / 'ssd.onnx', *found, scores),
    **{'shape': (1, *size, 3), 'dtype': np.uint8, 'names': TENSORFLOW},
  )
  image = np.full((60, 80, 3), (250, 0, 10), np.uint8)
  boxes, scores = detectors.load_detector(file)(image)
  np.testing.assert_allclose(boxes, [[40, 30, 40, 24], [16, 6, 32, 24]], atol=1e-4)
  np.testing.assert_allclose(scores, [0.7, 0.5])
  assert seen[-1].shape == (*(size if size[0] else (60, 80)), 3) and seen[-1].dtype == np.uint8
  assert (seen[-1] == (250, 0, 10)).all()


@pytest.mark.parametrize('shape', [(3, None, None), (1, 3, 30, 40)])
def test_torchvision(tmp_path, seen, shape):
  """Arrays without a batch and names, in the order boxes, classes (integers), scores."""
  fraction = 0.5 if shape[-1] else 1  # the image is stretched to 30 x 40
  boxes = np.float32([[10, 20, 30, 50], [5, 5, 60, 50]]) * np.float32(fraction)
  found = boxes, np.array([1, 62], np.int64), np.float32([0.9, 0.8])
  file = write(tmp_path / 'rcnn.onnx', *found, shape=shape, names=('812', '813', '814'))
  boxes, scores = detectors.load_detector(file)(np.full((60, 80, 3), (250, 0, 10), np.uint8))
  np.testing.assert_allclose(boxes, [[10, 20, 20, 30]])
  np.testing.assert_allclose(scores, [0.9])
  np.testing.assert_allclose(seen[-1][0, 0], np.array([250, 0, 10]) / 255, atol=1e-6)


def test_nobody_in_a_file_with_suppression(tmp_path):
  found = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
  file = write(tmp_path / 'a.onnx', *found, names=('boxes', 'labels', 'scores'))
  boxes, scores = detectors.load_detector(file)(IMAGE)
  assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_classes_that_count_from_zero(tmp_path):
  found = np.float32([[1, 2, 30, 40]]), np.array([0], np.int64), np.float32([0.9])
  names = ('boxes', 'labels', 'scores')
  detector = detectors.load_detector(write(tmp_path / 'a.onnx', *found, names=names))
  with pytest.raises(errors.CheckpointError, match=r'finds class 0, but people should be class 1'):
    detector(IMAGE)
  file = write(tmp_path / 'b.onnx', *found, names=names, classes="{0: 'person'}")
  np.testing.assert_allclose(detectors.load_detector(file)(IMAGE)[1], [0.9])


def people_found(detect, folder, annotations):
  """(found, all) large people, with an intersection over union above 0.5, and numbers of boxes.

  Returns:
    Number of large people (COCO: area above 96 x 96) that a box fits, of large people, of boxes
    that fit a person of any size, and of boxes.
  """
  content = json.loads(annotations.read_text())
  counts = np.zeros(4, int)
  for row in content['images']:
    with Image.open(folder / row['file_name']) as image:
      boxes, _ = detect(np.asarray(image.convert('RGB')))
    people = [a for a in content['annotations'] if a['image_id'] == row['id']]
    truth = np.array([a['bbox'] for a in people], np.float64).reshape(-1, 4)
    large = np.array([a['area'] > 96**2 and not a['iscrowd'] for a in people], bool)
    overlap = mask.iou(truth, boxes.astype(np.float64), [0] * len(boxes))
    fits = np.asarray(overlap).reshape(len(truth), len(boxes)) > 0.5
    counts += fits.any(1)[large].sum(), large.sum(), fits.any(0).sum(), len(boxes)
  return tuple(counts)


def test_a_real_detector_finds_people():
  """Numbers of 2026-11; the file is SSDLite on MobileNetV2, a weak detector."""
  file = shared_data.data('detectors') / 'ssdlite_mobilenetv2_person.onnx'
  detect = detectors.load_detector(str(file))
  for name, images, annotations, expected in (
    ('coco_small', 'train', 'person_keypoints_train.json', (76, 93, 125, 159)),
    ('coco_sample', 'val2017', 'person_keypoints_val2017.json', (5, 7, 9, 9)),
  ):
    data = shared_data.data(name)
    counts = people_found(detect, data / 'images' / images, data / 'annotations' / annotations)
    assert counts[1] == expected[1], name
    np.testing.assert_allclose(counts, expected, atol=2, err_msg=name)


def test_files_that_are_no_detectors(tmp_path):
  (tmp_path / 'text.onnx').write_text('not onnx')
  for name, message in (
    ('text.onnx', 'onnxruntime cannot read it'),
    ('absent.onnx', 'there is no file'),
  ):
    with pytest.raises(errors.CheckpointError, match=message) as raised:
      detectors.load_detector(str(tmp_path / name))
    assert '\n' not in str(raised.value)
  with pytest.raises(errors.ConfigError, match="unknown kind 'yolo'"):
    detectors.load_detector('yolo:a.onnx')


@pytest.mark.parametrize(
  ('outputs', 'shape', 'named'),
  [
    ([np.zeros((1, 1000), np.float32)], (1, 3, 64, 64), r'output0 float32 \[1, 1000\]'),
    ([np.zeros((1, 252, 85), np.float32)], (1, 3, 64, 64), r'output0 float32 \[1, 252, 85\]'),
    ([np.zeros((1, CELLS, 7), np.float32)], (1, 1, 64, 64), r'float\) \[1, 1, 64, 64\]'),
    ([np.zeros((8, CELLS, 7), np.float32)], (8, 3, 64, 64), r'float\) \[8, 3, 64, 64\]'),
    ([np.zeros((1, 9, 4), np.float32)] * 3, (1, 3, 64, 64), r'output2 float32 \[1, 9, 4\]'),
  ],
)
def test_the_error_lists_what_the_file_has_and_what_is_known(tmp_path, outputs, shape, named):
  file = write(tmp_path / 'a.onnx', *outputs, shape=shape)
  with pytest.raises(errors.CheckpointError, match=named) as raised:
    detectors.load_detector(file)
  for kind in onnx_detectors.KINDS:
    assert f'{kind.name}: {kind.outputs}' in str(raised.value)
  assert '\n' not in str(raised.value)


def test_only_files_of_mmdeploy_can_be_rtmdet(tmp_path):
  file = write(tmp_path / 'a.onnx', np.zeros((1, CELLS, 7), np.float32))
  with pytest.raises(errors.CheckpointError, match='not a known detector'):
    detectors.load_detector(f'rtmdet:{file}')


def test_rtmlibs_own_download(suppressed, monkeypatch):
  asked = []

  def download(url):
    asked.append(url)
    return suppressed

  body = types.SimpleNamespace(MODE={'balanced': {'det': 'https://example.com/yolox.zip'}})
  file = types.ModuleType('rtmlib.tools.file')
  file.download_checkpoint = download
  tools = types.ModuleType('rtmlib.tools')
  tools.file = file
  rtmlib = types.ModuleType('rtmlib')
  rtmlib.Body, rtmlib.tools = body, tools
  for module in (rtmlib, tools, file):
    monkeypatch.setitem(sys.modules, module.__name__, module)
  assert len(detectors.load_detector('rtmlib:balanced')(IMAGE)[0]) == 2
  assert asked == ['https://example.com/yolox.zip']
  with pytest.raises(errors.ConfigError, match='rtmlib:fast: use one of balanced'):
    detectors.load_detector('rtmlib:fast')
  file.download_checkpoint = lambda url: (_ for _ in ()).throw(OSError('no route to host'))
  with pytest.raises(errors.ConfigError, match=r'cannot be downloaded \(no route to host\)'):
    detectors.load_detector('rtmlib:balanced')


def test_packages_that_are_not_there(suppressed, monkeypatch):
  for module, name in (('onnxruntime', suppressed), ('rtmlib', 'rtmlib:balanced')):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.ConfigError, match='pip install'):
      detectors.load_detector(name)


def test_predicts_the_people_that_it_finds(suppressed, tmp_path):
  workdir = tiny_run.write(tmp_path / 'run')
  images = tmp_path / 'images'
  images.mkdir()
  Image.fromarray(IMAGE).save(images / 'a.png')
  Image.fromarray(IMAGE[:, :40]).save(images / 'b.png')
  settings = prediction_settings.Settings(detector=suppressed)
  image_folder.predict_folder(workdir, images, tmp_path / 'out', settings)
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [row['file_name'] for row in rows] == ['a.png', 'a.png', 'b.png', 'b.png']
  np.testing.assert_allclose(rows[1]['bbox'], [50, 0, 25, 50], atol=1e-4)
  with pytest.raises(errors.ConfigError, match='give one of the two'):
    prediction_settings.Settings(boxes='boxes.json', detector=suppressed)
