"""A trained network as an ONNX model, for ONNX Runtime, TensorRT, OpenVINO and others.

The model's input `images` are crops of people, uint8 [N, H, W, 3] RGB. Normalisation is inside, and
so is the channel order of networks that were trained on BGR images. The output is `heatmaps`
[N, K, H/4, W/4], or `keypoints` [N, K, 2] x, y in pixels of the crop, and `scores` [N, K]. There is
no flip test and no other scale. The number of people N is free; height and width are those of the
network.
"""

import dataclasses
import json

import numpy as np
import onnx
from jax import numpy as jnp

from mrpose_jax import codecs
from mrpose_jax import errors
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax.inference import onnx_graphs
from mrpose_jax.input_pipeline.device import augment

_OFFSETS = ('quarter', 'dark', 'none')  # of `codecs.Codec` that are translated here
# Weights of the 3x3 pixels around a peak, row by row, for derivatives of first and second order.
_DIFFERENCES = {
  'x': np.float32([[0, 0, 0], [-1, 0, 1], [0, 0, 0]]) / 2,
  'y': np.float32([[0, -1, 0], [0, 0, 0], [0, 1, 0]]) / 2,
  'xx': np.float32([[0, 0, 0], [1, -2, 1], [0, 0, 0]]),
  'yy': np.float32([[0, 1, 0], [0, -2, 0], [0, 1, 0]]),
  'xy': np.float32([[1, 0, -1], [0, 0, 0], [-1, 0, 1]]) / 4,
}
_FLOAT, _UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


def to_onnx(predictor: predictors.Predictor, decode: bool) -> onnx.ModelProto:
  """Makes the model; it computes in float32, whatever the run's `model.dtype`.

  Args:
    predictor: the trained network.
    decode: give keypoints and scores rather than heatmaps.

  Raises:
    ConfigError: decoding of this run's heatmaps, or an operation of its network, is not supported.
  """
  config = predictor.config.copy_and_resolve_references()
  config.model.update({'dtype': 'float32', 'remat': False, 'deterministic': False})
  network = predict.model_of(config, predictor.skeleton.num_keypoints)
  codec = predict.codec_of(config)

  def to_heatmaps(crops):
    inputs = augment.normalize(crops, config.model.channel_order)
    return network.apply(predictor.variables, inputs, train=False)

  graph = onnx_graphs.Graph()
  crops = graph.add('Cast', 'images', name='to_float', to=_FLOAT)  # TensorRT only casts uint8
  crops = graph.add('Transpose', crops, name='to_nchw', perm=[0, 3, 1, 2])
  heatmaps = graph.trace(to_heatmaps, crops, (1, *codec.image_size, 3), jnp.float32)
  k, value_info = predictor.skeleton.num_keypoints, onnx.helper.make_tensor_value_info
  if decode:
    keypoints, scores = add_decoding(graph, heatmaps, codec)
    outputs = {
      keypoints: value_info('keypoints', _FLOAT, ('N', k, 2)),
      scores: value_info('scores', _FLOAT, ('N', k)),
    }
  else:
    outputs = {heatmaps: value_info('heatmaps', _FLOAT, ('N', k, *codec.heatmap_size))}
  model = graph.model([value_info('images', _UINT8, ('N', *codec.image_size, 3))], outputs)
  onnx.helper.set_model_props(model, _metadata(predictor, codec))
  model.producer_name = 'mrpose_jax'
  onnx.checker.check_model(model)
  return model


def signature(model: onnx.ModelProto) -> str:
  """Names, types and shapes of the inputs and outputs, on one line."""

  def described(values):
    texts = []
    for value in values:
      tensor = value.type.tensor_type
      dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
      shape = ', '.join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
      texts.append(f'{value.name} {dtype} [{shape}]')
    return ', '.join(texts)

  return f'{described(model.graph.input)} -> {described(model.graph.output)}'


def _metadata(predictor, codec) -> dict[str, str]:
  """What a program needs to know to crop people and to name the keypoints; values are JSON."""
  values = {
    'keypoints': predictor.skeleton.keypoints,
    'skeleton': dataclasses.asdict(predictor.skeleton),
    'codec': {'name': type(codec).__name__} | dataclasses.asdict(codec),
    'crops': {
      'aspect': predictor.crops['aspect'],
      'padding': predictor.crops['padding'] * predict.mean_scale(predictor.config),
      'extent': codec.crop_extent,
    },
    'input': 'uint8 [N, height, width, 3] RGB; normalisation is inside',
    'mean': (255 * augment.MEAN).tolist(),
    'std': (255 * augment.STD).tolist(),
    'network': predictor.config.model.network,
    'depth': predictor.config.model.depth,
    'step': predictor.step,
  }
  return {name: json.dumps(value) for name, value in values.items()}


def add_decoding(graph: onnx_graphs.Graph, heatmaps: str, codec: codecs.Codec) -> tuple[str, str]:
  """Adds `codecs.Codec.decode`, and the step from heatmap pixels to pixels of the crop.

  Args:
    graph: the graph to add to.
    heatmaps: value [N, K, H, W] in the graph.
    codec: the codec of the heatmaps.

  Returns:
    The values keypoints [N, K, 2] x, y in pixels of the network's input, and scores [N, K].

  Raises:
    ConfigError: the codec decodes in another way than those known here.
  """
  if type(codec).decode is not codecs.Codec.decode or codec.offset not in _OFFSETS:
    raise errors.ConfigError(
      f"--export_decode: the peaks of this run's heatmaps ({codec}) cannot be decoded in ONNX; "
      'leave it out, and decode the heatmaps outside'
    )
  _, width = codec.heatmap_size
  flat = _flat(graph, heatmaps, codec)
  scores = graph.add('ReduceMax', flat, name='scores', axes=[-1], keepdims=0)  # [N, K]
  peak = graph.add('ArgMax', flat, name='peak', axis=-1)  # [N, K, 1]
  y = graph.add('Div', peak, np.array(width), name='y')
  x = graph.add('Sub', peak, graph.add('Mul', y, np.array(width)), name='x')
  pixel = graph.add('Concat', x, y, name='pixel', axis=-1)  # [N, K, 2]
  position = graph.add('Cast', pixel, name='position', to=_FLOAT)
  if codec.offset == 'quarter':
    offset = _quarter_offset(graph, flat, peak, pixel, codec)
    position = graph.add('Add', position, offset, name='refined')
  elif codec.offset == 'dark':
    offset = _taylor_offset(graph, heatmaps, peak, pixel, codec)
    position = graph.add('Add', position, offset, name='refined')
  found = graph.add('Greater', scores, np.float32([0]))
  found = graph.add('Cast', found, name='found', to=_FLOAT)
  found = graph.add('Unsqueeze', found, np.array([-1]))  # [N, K, 1]
  stride = np.divide(codec.crop_extent, codec.heatmap_extent, dtype=np.float32)[::-1]
  return graph.add('Mul', graph.add('Mul', position, found), stride), scores


def _flat(graph, heatmaps, codec):
  """[N, K, H, W] -> [N, K, H W]; zeros in the shape keep N and K."""
  height, width = codec.heatmap_size
  return graph.add('Reshape', heatmaps, np.array([0, 0, height * width]), name='flat')


def _inside(graph, pixel, first, codec):
  """1 for pixels [N, K, 2] from `first` up to the last but one in both directions: [N, K, 1]."""
  height, width = codec.heatmap_size
  after = graph.add('Greater', pixel, np.array(first - 1))
  before = graph.add('Less', pixel, np.array([width - 1, height - 1]))
  inside = graph.add('Cast', graph.add('And', after, before), to=_FLOAT)
  return graph.add('ReduceMin', inside, name='inside', axes=[-1])


def _derivatives(graph, flat, peak, names, codec):
  """Central differences at peaks [N, K, 1] of flat heatmaps, by name of _DIFFERENCES: [N, K, D]."""
  height, width = codec.heatmap_size
  moves = np.array([dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
  around = graph.add('Max', graph.add('Add', peak, moves), np.array(0))
  around = graph.add('Min', around, np.array(height * width - 1))
  values = graph.add('GatherElements', flat, around, name='around', axis=-1)  # [N, K, 9]
  differences = np.stack([_DIFFERENCES[name].ravel() for name in names], 1)  # [9, D]
  return graph.add('MatMul', values, differences, name='derivatives')


def _quarter_offset(graph, flat, peak, pixel, codec):
  """See `codecs`: a quarter of a pixel towards the higher neighbour, [N, K, 2]."""
  slope = _derivatives(graph, flat, peak, ('x', 'y'), codec)
  quarter = graph.add('Mul', graph.add('Sign', slope), np.float32([0.25]))
  return graph.add('Mul', quarter, _inside(graph, pixel, 2, codec))


def _taylor_offset(graph, heatmaps, peak, pixel, codec):
  """See `codecs`: -H^-1 g of the logarithm of the smoothed heatmaps, [N, K, 2]."""
  rows, columns = (codecs.smoothing_matrix(size, codec.sigma) for size in codec.heatmap_size)
  smooth = graph.add('MatMul', graph.add('MatMul', rows, heatmaps), columns)
  log = graph.add('Log', graph.add('Max', smooth, np.float32([1e-10])), name='log')
  log = _flat(graph, log, codec)
  both = _derivatives(graph, log, peak, ('x', 'y', 'xx', 'yy', 'xy'), codec)
  g_x, g_y, h_xx, h_yy, h_xy = (
    graph.add('Slice', both, np.array([i]), np.array([i + 1]), np.array([2])) for i in range(5)
  )

  def minus(a, b, c, d):  # a b - c d
    return graph.add('Sub', graph.add('Mul', a, b), graph.add('Mul', c, d))

  determinant = minus(h_xx, h_yy, h_xy, h_xy)
  inside = graph.add('Greater', _inside(graph, pixel, 1, codec), np.float32([0]))
  bends = graph.add('Less', h_xx, np.float32([0]))
  has_maximum = graph.add('And', bends, graph.add('Greater', determinant, np.float32([0])))
  has_maximum = graph.add('And', has_maximum, inside)
  determinant = graph.add('Where', has_maximum, determinant, np.float32([1]))
  step = graph.add('Concat', minus(h_xy, g_y, h_yy, g_x), minus(h_xy, g_x, h_xx, g_y), axis=-1)
  step = graph.add('Div', step, determinant)
  limits = (np.array(sign * codecs.FARTHEST_STEP, np.float32) for sign in (-1, 1))
  step = graph.add('Clip', step, *limits, name='step')
  return graph.add('Where', has_maximum, step, np.float32([0]))
