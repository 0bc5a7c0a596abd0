"""Detectors, tested with ONNX files that return constants chosen by each test."""

import json
import sys
import types

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx import numpy_helper
from PIL import Image

from mrpose_jax import errors
from mrpose_jax.inference import detectors
from mrpose_jax.inference import image_folder
from tests.helpers import tiny_run

IMAGE = np.full((60, 80, 3), 200, np.uint8)  # scaled by 0.8 to fit into 64 x 64


def write(path, *outputs, size=(64, 64)):
  """Writes an ONNX file with constant outputs; it uses the image only as its mean times zero."""
  image = helper.make_tensor_value_info('image', onnx.TensorProto.FLOAT, [1, 3, *size])
  nodes = [
    helper.make_node('ReduceMean', ['image'], ['mean'], keepdims=0),
    helper.make_node('Mul', ['mean', 'zero'], ['nothing']),
  ]
  values = [numpy_helper.from_array(np.zeros((), np.float32), 'zero')]
  infos = []
  for i, output in enumerate(outputs):
    output = np.asarray(output)
    values.append(numpy_helper.from_array(output, f'value{i}'))
    if output.dtype == np.float32:
      nodes.append(helper.make_node('Add', [f'value{i}', 'nothing'], [f'output{i}']))
    else:
      nodes.append(helper.make_node('Identity', [f'value{i}'], [f'output{i}']))
    kind = helper.np_dtype_to_tensor_dtype(output.dtype)
    infos.append(helper.make_tensor_value_info(f'output{i}', kind, output.shape))
  graph = helper.make_graph(nodes, 'detector', [image], infos, values)
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
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
  boxes, scores = detectors.load(suppressed)(IMAGE)
  assert boxes.dtype == scores.dtype == np.float32
  np.testing.assert_allclose(boxes, [[11.25, 10, 18.75, 41.25], [50, 0, 25, 50]], atol=1e-5)
  np.testing.assert_allclose(scores, [0.9, 0.8])


def test_nobody(tmp_path):
  file = write(tmp_path / 'a.onnx', detections((0, 0, 9, 9, 0.1)), np.array([[0]], np.int64))
  boxes, scores = detectors.load(file)(IMAGE)
  assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_yolox_that_decodes_itself(tmp_path):
  rows = np.zeros((1, 84, 85), np.float32)  # 8x8 + 4x4 + 2x2 cells cover 64 x 64 pixels
  rows[0, :, 2:4] = 3
  rows[0, 20, :6] = 20, 28, 24, 40, 0.9, 0.5
  boxes, scores = detectors.load(write(tmp_path / 'decoded.onnx', rows))(IMAGE)
  np.testing.assert_allclose(boxes, [[10, 10, 30, 50]], atol=1e-5)
  np.testing.assert_allclose(scores, [0.45])


def test_yolox_without_its_own_suppression(tmp_path):
  """Cell (x 2, y 1) of the grid with stride 16 predicts centre (2.5, 1.5) and size 2 x 1 cells."""
  rows = np.zeros((1, 64 + 16 + 4, 7), np.float32)
  rows[0, 64 + 4 + 2] = [0.5, 0.5, np.log(2), np.log(1), 0.9, 0.5, 0.1]
  rows[0, 0] = [0, 0, 1, 1, 0.9, 0.1, 0.9]  # another class
  boxes, scores = detectors.load(write(tmp_path / 'a.onnx', rows))(IMAGE)
  np.testing.assert_allclose(boxes, [[24 / 0.8, 16 / 0.8, 32 / 0.8, 16 / 0.8]], rtol=1e-5)
  np.testing.assert_allclose(scores, [0.45])


@pytest.mark.parametrize(('kind', 'red', 'blue'), [('yolox', 250, 10), ('rtmdet', 2.1634, -1.6301)])
def test_what_the_network_sees(suppressed, kind, red, blue):
  """Blue is the first channel, the image lies at the top left, and the rest is gray."""
  detector = detectors.load(f'{kind}:{suppressed}')
  pixels, ratio = detector._input_of(np.full((60, 80, 3), (250, 0, 10), np.uint8))
  assert (pixels.shape, ratio) == ((1, 3, 64, 64), 0.8)
  np.testing.assert_allclose(pixels[0, [0, 2], 47, 63], [blue, red], atol=1e-3)
  gray = (114 - detector._mean) / detector._std
  np.testing.assert_allclose(pixels[0, :, 48, 0], gray, rtol=1e-6)


def test_files_that_are_no_detectors(tmp_path):
  (tmp_path / 'text.onnx').write_text('not onnx')
  for name, message in (
    ('text.onnx', 'onnxruntime cannot read it'),
    ('absent.onnx', 'there is no file'),
  ):
    with pytest.raises(errors.CheckpointError, match=message) as raised:
      detectors.load(str(tmp_path / name))
    assert '\n' not in str(raised.value)
  classifier = detectors.load(write(tmp_path / 'a.onnx', np.zeros((1, 1000), np.float32)))
  with pytest.raises(errors.CheckpointError, match=r'not a YOLOX or RTMDet.*\[\[1, 1000\]\]'):
    classifier(IMAGE)
  gray = helper.make_graph(
    [helper.make_node('Identity', ['x'], ['y'])],
    'gray',
    [helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1, 1, 8, 8])],
    [helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1, 1, 8, 8])],
  )
  opset = [helper.make_opsetid('', 17)]
  onnx.save(helper.make_model(gray, opset_imports=opset, ir_version=9), tmp_path / 'gray.onnx')
  with pytest.raises(errors.CheckpointError, match=r'its inputs are \[\[1, 1, 8, 8\]\]'):
    detectors.load(str(tmp_path / 'gray.onnx'))
  with pytest.raises(errors.ConfigError, match="unknown kind 'yolo'"):
    detectors.load('yolo:a.onnx')


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
  assert len(detectors.load('rtmlib:balanced')(IMAGE)[0]) == 2
  assert asked == ['https://example.com/yolox.zip']
  with pytest.raises(errors.ConfigError, match='rtmlib:fast: use one of balanced'):
    detectors.load('rtmlib:fast')
  file.download_checkpoint = lambda url: (_ for _ in ()).throw(OSError('no route to host'))
  with pytest.raises(errors.ConfigError, match=r'cannot be downloaded \(no route to host\)'):
    detectors.load('rtmlib:balanced')


def test_packages_that_are_not_there(suppressed, monkeypatch):
  for module, name in (('onnxruntime', suppressed), ('rtmlib', 'rtmlib:balanced')):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.ConfigError, match='pip install'):
      detectors.load(name)


def test_predicts_the_people_that_it_finds(suppressed, tmp_path):
  workdir = tiny_run.write(tmp_path / 'run')
  images = tmp_path / 'images'
  images.mkdir()
  Image.fromarray(IMAGE).save(images / 'a.png')
  Image.fromarray(IMAGE[:, :40]).save(images / 'b.png')
  image_folder.predict_folder(workdir, images, tmp_path / 'out', detector=suppressed)
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [row['file_name'] for row in rows] == ['a.png', 'a.png', 'b.png', 'b.png']
  np.testing.assert_allclose(rows[1]['bbox'], [50, 0, 25, 50], atol=1e-4)
  with pytest.raises(errors.ConfigError, match='give one of the two'):
    image_folder.predict_folder(workdir, images, tmp_path / 'out', 'boxes.json', suppressed)
