"""The exported ONNX model in ONNX Runtime: equal to the Predictor, and described by itself."""

import json
import pathlib
import re
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

import mrpose_jax
from mrpose_jax import codecs
from mrpose_jax import errors
from mrpose_jax import inference
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax.inference import export
from mrpose_jax.inference import onnx_export
from mrpose_jax.inference import onnx_graphs
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.models import decoders
from tests.helpers import tiny_run

R = np.random.default_rng(0)
HEIGHT, WIDTH = 96, 64
# Its region is exactly an image of this size, so that the predictor resamples nothing.
BOX = np.array([WIDTH * 0.1, HEIGHT * 0.1, WIDTH * 0.8, HEIGHT * 0.8])
# Limits of drawn variables. With these, heatmaps have values of about 1, like those of a trained
# network, although residual blocks add up.
DRAWN = {'scale': (0.1, 0.7), 'var': (0.5, 1.5)}


def run(model, **inputs):
  content = model.SerializeToString()
  session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
  return session.run(None, inputs)


def make_predictor(network, depth, channel_order='rgb', **fields):
  """A predictor with drawn variables."""
  model = mrpose_jax.create_model(network, depth, num_keypoints=17, width=4, **fields)

  def draw(path, x):
    name = path[-1].key
    if name == 'kernel':
      fan_in = x.shape[0] * x.shape[1] * min(x.shape[2:])
      return R.normal(0, fan_in**-0.5, x.shape).astype(np.float32)
    if name in ('scale', 'var'):
      return R.uniform(*DRAWN[name], x.shape).astype(np.float32)
    return R.normal(0, 0.1, x.shape).astype(np.float32)

  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  return mrpose_jax.Predictor.from_variables(
    *(model, variables, skeletons.COCO, (HEIGHT, WIDTH), channel_order),
    flip_test=False,
  )


def check(predictor, crops, expected):
  """Asserts that both models give these heatmaps [N, H, W, K], and their keypoints."""
  limit = 1e-4 * min(1, np.abs(expected).max())
  model = onnx_export.to_onnx(predictor, decode=False)
  onnx.checker.check_model(model, full_check=True)
  [heatmaps] = run(model, images=crops)
  np.testing.assert_allclose(heatmaps.transpose(0, 2, 3, 1), expected, rtol=0, atol=limit)
  assert not {'BatchNormalization', 'Mul'} & {node.op_type for node in model.graph.node}
  model = onnx_export.to_onnx(predictor, decode=True)
  onnx.checker.check_model(model, full_check=True)
  keypoints, scores = run(model, images=crops)
  points, peaks = predict.codec_of(predictor.config).decode(expected)
  np.testing.assert_allclose(keypoints, 4 * points, atol=1e-5)
  np.testing.assert_allclose(scores, peaks, rtol=0, atol=limit)


@pytest.mark.parametrize('network', decoders.DECODERS)
def test_heatmaps_of_the_predictor(network):
  predictor = make_predictor(network, 18)
  crops = R.integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
  pairs = [predictor.heatmaps(crop, BOX) for crop in crops]
  np.testing.assert_array_equal([seen for seen, _ in pairs], crops)
  check(predictor, crops, np.stack([heatmaps for _, heatmaps in pairs]))


@pytest.mark.parametrize('network', decoders.DECODERS)
def test_bottlenecks(network):
  """Against the plain network, which compiles in a fraction of the predictor's time."""
  predictor = make_predictor(network, 50)
  crops = R.integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
  model = predict.model_of(predictor.config, 17)
  inputs = augment.normalize(crops.astype(np.float32), 'rgb')
  options = {'xla_backend_optimization_level': 0}
  apply = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=options)
  check(predictor, crops, np.asarray(apply(predictor.variables, inputs)))


def test_keypoints_of_the_predictor():
  predictor = make_predictor('mrfeanet2', 18)
  crops = R.integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
  keypoints, scores = run(onnx_export.to_onnx(predictor, decode=True), images=crops)
  expected = np.concatenate([predictor(crop, BOX[None]) for crop in crops])
  np.testing.assert_allclose(keypoints, expected[..., :2], atol=1e-4)
  np.testing.assert_allclose(scores, expected[..., 2], atol=1e-4)


def test_the_program_of_the_page(tmp_path, monkeypatch):
  """It crops as the predictor does, but rounds to whole numbers, which moves few of the peaks."""
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'deployment.md'
  [program] = re.findall(r'^```python\n(import json.*?)^```$', page.read_text(), re.M | re.S)
  predictor = make_predictor('simple_baseline', 18)
  onnx.save(onnx_export.to_onnx(predictor, decode=True), tmp_path / 'pose.onnx')
  monkeypatch.chdir(tmp_path)
  image = R.integers(0, 256, (15, 20, 3), np.uint8).repeat(10, 0).repeat(10, 1)  # 200 wide
  for box in ([30.5, 20.25, 70, 80], [80, 30, 90.5, 60]):  # a tall and a wide one
    names = {'image': image, 'boxes': np.array([box], np.float32)}
    exec(program, names)
    [expected] = predictor(image, [box])
    moved = np.abs(names['in_image'] - expected[:, :2]).max(-1)
    assert names['names'] == list(skeletons.COCO.keypoints)
    assert (moved < 1e-3).sum() >= 14, moved
    np.testing.assert_allclose(names['scores'][0], expected[:, 2], atol=0.01)


def test_any_number_of_people():
  predictor = make_predictor('mrfeanet2', 18)
  for decode in (False, True):
    model = onnx_export.to_onnx(predictor, decode)
    crops = R.integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8)
    together = run(model, images=crops)
    for count in (0, 1, 3):
      for some, all_five in zip(run(model, images=crops[:count]), together):
        assert some.shape == (count, *all_five.shape[1:])
        np.testing.assert_allclose(some, all_five[:count], atol=1e-5)


def test_channel_order_type_and_options_of_the_run():
  """A bfloat16 network is exported in float32; BGR is inside, and so the input stays RGB."""
  predictor = make_predictor(
    *('mrheatnet1', 18, 'bgr'), dtype='bfloat16', remat=True, deterministic=True
  )
  crops = R.integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
  [heatmaps] = run(onnx_export.to_onnx(predictor, decode=False), images=crops)
  network = mrpose_jax.create_model('mrheatnet1', 18, width=4)
  inputs = augment.normalize(crops[..., ::-1].astype(np.float32), 'rgb')
  expected = network.apply(predictor.variables, inputs, train=False)
  np.testing.assert_allclose(heatmaps.transpose(0, 2, 3, 1), expected, atol=1e-4)


def decode(codec, heatmaps):
  """Keypoints and scores of heatmaps [N, H, W, 17] in ONNX Runtime."""
  graph = onnx_graphs.Graph()
  values = onnx_export.add_decoding(graph, 'heatmaps', codec)
  info, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
  outputs = info('keypoints', float32, ('N', 17, 2)), info('scores', float32, ('N', 17))
  inputs = [info('heatmaps', float32, ('N', 17, *codec.heatmap_size))]
  model = graph.model(inputs, dict(zip(values, outputs)))
  onnx.checker.check_model(model, full_check=True)
  return run(model, heatmaps=heatmaps.transpose(0, 3, 1, 2).copy())


def hard_heatmaps():
  """Ties, flat heatmaps, heatmaps that are nowhere positive, and peaks at every pixel."""
  heatmaps = R.integers(-2, 6, (50, 8, 6, 17)).astype(np.float32)
  heatmaps[0], heatmaps[1], heatmaps[2] = 0, -1, 3
  heatmaps[3:20] = R.normal(size=(17, 8, 6, 17))
  heatmaps[2:, ..., 0] += 9 * np.eye(48, dtype=np.float32).reshape(48, 8, 6)
  return heatmaps


@pytest.mark.parametrize('offset', ['quarter', 'none'])
def test_decoding(offset):
  codec, heatmaps = codecs.Codec((32, 24), (8, 6), offset=offset), hard_heatmaps()
  keypoints, scores = decode(codec, heatmaps)
  expected, expected_scores = codec.decode(heatmaps)
  np.testing.assert_array_equal(keypoints, 4 * expected)
  np.testing.assert_array_equal(scores, expected_scores)
  fractions = set(np.unique(keypoints % 4))
  assert fractions == ({0.0, 1.0, 3.0} if offset == 'quarter' else {0.0})


@pytest.mark.parametrize('codec_type', [codecs.DarkCodec, codecs.UdpCodec])
def test_decoding_by_a_taylor_step(codec_type):
  codec = codec_type((128, 96), (32, 24), sigma=1.5)
  stride = np.divide(codec.crop_extent, codec.heatmap_extent)[::-1]
  keypoints = R.uniform(-4, [100, 132], (40, 17, 2)).astype(np.float32)
  heatmaps, _ = codec.encode(keypoints, np.ones((40, 17), np.float32))
  found, scores = decode(codec, np.asarray(heatmaps))
  expected, expected_scores = map(np.asarray, codec.decode(heatmaps))
  np.testing.assert_allclose(found, expected * stride, atol=2e-3)
  np.testing.assert_array_equal(scores, expected_scores)
  # Away from the borders, where the smoothing is cut off, it finds the keypoints themselves.
  inner = ((keypoints > 28) & (keypoints < np.array([68, 100]))).all(-1)
  assert inner.sum() > 50
  np.testing.assert_allclose(found[inner], keypoints[inner], atol=0.02)

  codec, heatmaps = codec_type((32, 24), (8, 6), sigma=1.0), hard_heatmaps()
  stride = np.divide(codec.crop_extent, codec.heatmap_extent)[::-1]
  found, scores = decode(codec, heatmaps)
  expected, expected_scores = map(np.asarray, codec.decode(heatmaps))
  np.testing.assert_array_equal(scores, expected_scores)
  np.testing.assert_allclose(found, expected * stride, rtol=1e-3, atol=1e-3)


def test_another_codec_is_refused():
  class Other(codecs.Codec):
    def decode(self, heatmaps):
      raise NotImplementedError

  with pytest.raises(errors.ConfigError, match=r'--export_decode: .*Other.* cannot be decoded'):
    onnx_export.add_decoding(onnx_graphs.Graph(), 'heatmaps', Other((32, 24), (8, 6)))


def test_the_command(tmp_path, capsys, monkeypatch):
  workdir = tiny_run.write(tmp_path / 'run', 'mrfeanet2')
  file = tmp_path / 'new' / 'pose.onnx'
  export.export(workdir, file)
  output = capsys.readouterr().out
  assert 'step 0, opset 17' in output
  assert 'images uint8 [N, 64, 64, 3] -> heatmaps float32 [N, 17, 16, 16]' in output
  model = onnx.load(file)
  properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
  assert skeletons.from_dict(properties['skeleton']) == skeletons.COCO
  assert properties['keypoints'][:2] == ['nose', 'left_eye']
  assert properties['crops'] == {'aspect': 1.0, 'padding': 1.25, 'extent': [64, 64]}
  codec = {'image_size': [64, 64], 'heatmap_size': [16, 16], 'sigma': 1.0, 'offset': 'quarter'}
  assert properties['codec'] == {'name': 'Codec'} | codec
  export.export(workdir, file, decode=True)
  assert '-> keypoints float32 [N, 17, 2], scores float32 [N, 17]' in capsys.readouterr().out

  with pytest.raises(errors.ConfigError, match=r'--export_decode is for \.onnx'):
    export.export(workdir, tmp_path / 'pose.stablehlo', decode=True)
  with pytest.raises(errors.ConfigError, match=r'pose\.pb: the name has to end in \.onnx or'):
    export.export(workdir, tmp_path / 'pose.pb')
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.ConfigError, match='cannot be written'):
    export.export(workdir, tmp_path / 'file' / 'pose.onnx')
  monkeypatch.setitem(sys.modules, 'mrpose_jax.inference.onnx_export', None)
  monkeypatch.delattr(inference, 'onnx_export')
  with pytest.raises(errors.ConfigError, match=r"pip install 'mrpose_jax\[onnx\]'"):
    export.export(workdir, file)
