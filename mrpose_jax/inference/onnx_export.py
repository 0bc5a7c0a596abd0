"""A trained network as an ONNX model, for ONNX Runtime, TensorRT, OpenVINO and others.

The model's input `images` are crops of people, uint8 [N, H, W, 3] RGB. Normalisation is inside, and
so is the channel order of networks that were trained on BGR images. The output is `heatmaps`
[N, K, H/4, W/4], or `keypoints` [N, K, 2] x, y in pixels of the crop, and `scores` [N, K]. There is
no flip test. The number of people N is free; height and width are those of the network.
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
    'crops': predictor.crops,
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
  if type(codec) is not codecs.Codec or codec.offset not in ('quarter', 'none'):
    raise errors.ConfigError(
      f"--export_decode: the peaks of this run's heatmaps ({codec}) cannot be decoded in ONNX; "
      'leave it out, and decode the heatmaps outside'
    )
  height, width = codec.heatmap_size
  flat = graph.add(
    'Reshape', heatmaps, np.array([0, 0, height * width]), name='flat'
  )  # [N, K, H W]
  scores = graph.add('ReduceMax', flat, name='scores', axes=[-1], keepdims=0)  # [N, K]
  peak = graph.add('ArgMax', flat, name='peak', axis=-1)  # [N, K, 1]
  y = graph.add('Div', peak, np.array(width), name='y')
  x = graph.add('Sub', peak, graph.add('Mul', y, np.array(width)), name='x')
  points = graph.add('Concat', x, y, name='points', axis=-1)  # [N, K, 2]
  position = graph.add('Cast', points, name='position', to=_FLOAT)
  if codec.offset == 'quarter':
    # As in the released code, peaks on the first two rows and columns or on the last stay.
    after_first = graph.add('Greater', points, np.array(1))
    before_last = graph.add('Less', points, np.array([width - 1, height - 1]))
    inside = graph.add('Cast', graph.add('And', after_first, before_last), to=_FLOAT)
    inside = graph.add('ReduceMin', inside, name='inside', axes=[-1])  # [N, K, 1]
    moves, last = np.array([1, width]), np.array(height * width - 1)
    right_below = graph.add('Min', graph.add('Add', peak, moves), last)
    left_above = graph.add('Max', graph.add('Sub', peak, moves), np.array(0))
    high, low = (
      graph.add('GatherElements', flat, index, axis=-1) for index in (right_below, left_above)
    )
    direction = graph.add('Sign', graph.add('Sub', high, low), name='direction')  # [N, K, 2]
    quarter = graph.add('Mul', direction, np.float32(0.25)[None])
    position = graph.add('Add', position, graph.add('Mul', quarter, inside), name='refined')
  found = graph.add('Greater', scores, np.float32([0]))
  found = graph.add('Cast', found, name='found', to=_FLOAT)
  found = graph.add('Unsqueeze', found, np.array([-1]))  # [N, K, 1]
  stride = np.float32([codec.image_size[1] / width, codec.image_size[0] / height])
  return graph.add('Mul', graph.add('Mul', position, found), stride), scores
