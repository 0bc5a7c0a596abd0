"""The translation of JAX's operations to ONNX, against JAX."""

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import lax
from jax import numpy as jnp

from mrpose_jax import errors
from mrpose_jax.inference import onnx_graphs

R = np.random.default_rng(0)
NHWC = ('NHWC', 'HWIO', 'NHWC')


def convert(function, shape, dtype=np.float32):
  """The ONNX model of a function of an array of this shape; NHWC arrays are NCHW in it."""
  graph = onnx_graphs.Graph()
  output = graph.trace(function, 'x', (1, *shape[1:]), dtype)
  result = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, dtype))
  infos = [
    onnx.helper.make_tensor_value_info(
      name,
      onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
      ['N', *(s[i] for i in ((3, 1, 2) if len(s) == 4 else range(1, len(s))))],
    )
    for name, s, dtype in (('x', shape, dtype), ('y', result.shape, result.dtype))
  ]
  model = graph.model(infos[:1], {output: infos[1]})
  onnx.checker.check_model(model, full_check=True)
  return model


def check(function, shape, dtype=np.float32, operators=None):
  """Asserts that the model gives the function's result for two images; returns the model."""
  model = convert(function, shape, dtype)
  x = R.normal(0, 100, shape).astype(dtype)
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=['CPUExecutionProvider']
  )
  [y] = session.run(None, {'x': np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
  expected = np.asarray(function(x))
  y = y.transpose(0, 2, 3, 1)
  assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
  assert operators is None or [node.op_type for node in model.graph.node] == operators
  return model


@pytest.mark.parametrize(
  'kernel, arguments',
  [
    ((3, 3, 6, 4), {'window_strides': (2, 1), 'padding': ((1, 0), (2, 3))}),
    ((1, 1, 6, 4), {'window_strides': (1, 1), 'padding': 'VALID'}),
    ((3, 2, 6, 4), {'window_strides': (1, 1), 'padding': 'SAME', 'rhs_dilation': (2, 3)}),
    (
      (3, 3, 2, 9),
      {'window_strides': (1, 1), 'padding': 'SAME', 'feature_group_count': 3},
    ),
  ],
)
def test_convolutions(kernel, arguments):
  kernel = R.normal(size=kernel).astype(np.float32)

  def function(x):
    return lax.conv_general_dilated(x, kernel, dimension_numbers=NHWC, **arguments)

  check(function, (2, 9, 8, 6), operators=['Conv'])


@pytest.mark.parametrize(
  'size, stride, padding',
  [
    ((4, 4), (2, 2), ((2, 2), (2, 2))),
    ((5, 3), (3, 2), ((4, 1), (0, 2))),
    ((2, 2), (2, 1), 'SAME'),
  ],
)
def test_transposed_convolutions(size, stride, padding):
  kernel = R.normal(size=(*size, 6, 4)).astype(np.float32)

  def function(x):
    if padding == 'SAME':
      return lax.conv_transpose(x, kernel, stride, padding, dimension_numbers=NHWC)
    return lax.conv_general_dilated(
      x, kernel, (1, 1), padding, lhs_dilation=stride, dimension_numbers=NHWC
    )

  check(function, (2, 5, 7, 6), operators=['ConvTranspose'])


def test_factors_and_summands_of_a_convolution_become_part_of_it():
  kernel = R.normal(size=(3, 3, 6, 4)).astype(np.float32)
  a, b = R.normal(size=(2, 4)).astype(np.float32)

  def function(x):
    y = lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC)
    return 2 * (y * a.reshape(1, 1, 1, 4) + b.reshape(1, 1, 1, 4))

  check(function, (2, 4, 4, 6), operators=['Conv'])

  def of_transposed(x):
    y = lax.conv_transpose(x, kernel, (2, 2), 'SAME', dimension_numbers=NHWC)
    return b.reshape(1, 1, 1, 4) + a.reshape(1, 1, 1, 4) * y

  check(of_transposed, (2, 4, 4, 6), operators=['ConvTranspose'])


def test_a_convolution_that_is_used_twice_stays():
  kernel = R.normal(size=(1, 1, 6, 4)).astype(np.float32)

  def function(x):
    y = lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC)
    return (y + 1) / y

  model = check(function, (2, 4, 4, 6), operators=['Conv', 'Conv', 'Div'])
  assert len({node.output[0] for node in model.graph.node}) == 3


def test_what_is_not_of_a_channel_stays_a_sum():
  kernel = R.normal(size=(1, 1, 6, 4)).astype(np.float32)
  of_pixels = R.normal(size=(1, 4, 4, 1)).astype(np.float32)

  def function(x):
    y = lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC)
    return y + jnp.broadcast_to(of_pixels, y.shape)

  model = check(function, (2, 4, 4, 6), operators=['Conv', 'Add'])
  shapes = [list(constant.dims) for constant in model.graph.initializer]
  assert shapes == [[4, 6, 1, 1], [1, 1, 4, 4]]  # not repeated along the channels


@pytest.mark.parametrize(
  'function, operators',
  [
    (lambda x: jnp.maximum(x, 0), ['Relu']),
    (jax.nn.relu, ['Relu']),
    (lambda x: jnp.maximum(x, x[:, ::-1]), ['Slice', 'Max']),
    (lambda x: x[:, 1:7:2, :, 2:], ['Slice']),
    (lambda x: x[..., ::-1] - x[:, :, ::-1], ['Slice', 'Slice', 'Sub']),
    (lambda x: (x - jnp.broadcast_to(np.float32([1, 2, 3]), x.shape)) / 3, ['Sub', 'Div']),
    (lambda x: x * x, ['Mul']),
    (lambda x: jnp.matmul(x, jnp.arange(6.0).reshape(3, 2)), ['Conv']),
    (lambda x: x.astype(jnp.int32), ['Cast']),
    (
      lambda x: lax.reduce_window(
        *(x, -np.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1)),
        ((0, 0), (1, 0), (0, 1), (0, 0)),
      ),
      ['MaxPool'],
    ),
  ],
)
def test_other_operations(function, operators):
  check(function, (2, 8, 6, 3), operators=operators)


@pytest.mark.parametrize(
  'function, operation',
  [
    (lambda x: -x, 'neg'),
    (lambda x: jnp.einsum('nhwc,nhwd->nhcd', x, x), 'dot_general'),
    (lambda x: x[0] @ np.ones((6, 2), np.float32), 'squeeze'),
    (lambda x: lax.conv_general_dilated(x, x, (1, 1), 'SAME', dimension_numbers=NHWC), 'conv_gen'),
    (
      lambda x: lax.conv_general_dilated(x, np.ones((2, 3, 3, 1), np.float32), (1, 1), 'SAME'),
      'conv_general_dilated',
    ),
  ],
)
def test_forms_without_translation(function, operation):
  with pytest.raises(errors.ConfigError, match=f'{operation}.*no translation.*stablehlo'):
    convert(function, (1, 3, 3, 3) if 'conv' in operation else (1, 4, 4, 6))
