"""JAX functions as ONNX graphs: a translation of the few operations that pose networks consist of.

Flax and JAX lay images out as NHWC, ONNX as NCHW. Here every array of rank 4 that is computed from
the graph's inputs is NCHW in ONNX, so that no transposition is needed between two operations.
Operations on constants alone are computed at once. Factors and summands of a convolution's channels
become part of its kernel and bias.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import numpy as np
import onnx
from jax.extend import core
from onnx import helper
from onnx import numpy_helper

from mrpose_jax import errors

# The first versions with everything that is used here; ONNX Runtime reads them since 1.12.
OPSET, IR_VERSION = 17, 8

_NCHW = (0, 3, 1, 2)  # position in NHWC of each axis of NCHW
_TO_NCHW = (0, 2, 3, 1)  # position in NCHW of each axis of NHWC
_BEFORE_FIRST = -(2**63)  # end of a slice that runs backwards to index 0


@dataclasses.dataclass
class Node:
  """An operation with one output; its inputs are constants, or values by their temporary names."""

  operator: str
  inputs: tuple[str | np.ndarray, ...]
  name: str
  attributes: dict


class Graph:
  """Operations in the order of computation."""

  def __init__(self):
    self.nodes = {}  # value -> the node that computes it

  def add(self, operator: str, *inputs: str | np.ndarray, name: str = '', **attributes) -> str:
    """Adds a node, and returns its output.

    Args:
      operator: name of the ONNX operator.
      inputs: outputs of other nodes, names of the model's inputs, or constants.
      name: of the node and its output in the model; a number is added where it is not unique.
      attributes: of the operator.
    """
    value = f'%{len(self.nodes)}'
    self.nodes[value] = Node(operator, inputs, name.strip('/') or operator, attributes)
    return value

  def trace(self, function: Callable, value: str, shape: tuple[int, ...], dtype) -> str:
    """Adds the operations of a function from one array to one array.

    Args:
      function: traceable by JAX. It computes each row of a batch in the same way, whatever the
        number of rows.
      value: its argument; an array of rank 4 is NCHW in the graph and NHWC in the function.
      shape: shape of the argument in the function; shape[0] is the number of rows and has to be 1.
      dtype: type of the argument.

    Returns:
      The function's result.

    Raises:
      ConfigError: the function has an operation that is not translated.
    """
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, dtype))
    [output] = self._run(closed.jaxpr, closed.consts, [value], '')
    return output

  def model(self, inputs, outputs: dict[str, onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The model of all nodes that the outputs depend on.

    Args:
      inputs: list of onnx.ValueInfoProto.
      outputs: value -> its name, type and shape in the model.
    """
    needed = set(outputs)
    for value, node in reversed(self.nodes.items()):
      if value in needed:
        needed.update(x for x in node.inputs if isinstance(x, str))
    names = {info.name: info.name for info in inputs}
    names |= {value: info.name for value, info in outputs.items()}
    nodes, constants = [], []
    for value, node in self.nodes.items():
      if value not in needed:
        continue
      name = names.setdefault(value, _unused(node.name, names.values()))
      of_node = [
        names[x] if isinstance(x, str) else f'{name}.{i}' for i, x in enumerate(node.inputs)
      ]
      nodes.append(helper.make_node(node.operator, of_node, [name], name, **node.attributes))
      constants += [
        numpy_helper.from_array(np.ascontiguousarray(x), constant)
        for x, constant in zip(node.inputs, of_node)
        if isinstance(x, np.ndarray)
      ]
    graph = helper.make_graph(nodes, 'mrpose_jax', inputs, list(outputs.values()), constants)
    opset = helper.make_opsetid('', OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

  def _run(self, jaxpr, constants, arguments, scope):
    """Adds the equations of a jaxpr; `scope` is the name of the module that they belong to."""
    values = dict(zip(jaxpr.constvars, map(np.asarray, constants)))
    values |= dict(zip(jaxpr.invars, arguments))

    def value_of(atom):
      return np.asarray(atom.val) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
      primitive, parameters = equation.primitive, equation.params
      operands = [value_of(atom) for atom in equation.invars]
      # Below the network's own name; equations of a function inside have no name of their own.
      name = str(equation.source_info.name_stack).partition('/')[2] or scope
      if primitive.name in _CALLS:
        inner = parameters[_CALLS[primitive.name]]
        inner, consts = getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ())
        outputs = self._run(inner, consts, operands, name)
      elif not any(isinstance(operand, str) for operand in operands):
        output = primitive.bind(*operands, **parameters)
        outputs = map(np.asarray, output if primitive.multiple_results else [output])
      else:
        shape = equation.invars[0].aval.shape
        try:
          translate = _TRANSLATIONS.get(primitive.name, _refuse)
          outputs = [translate(self, name, shape, parameters, *operands)]
        except NotImplementedError as error:
          raise errors.ConfigError(
            f'the network cannot be written as ONNX: the operation {primitive.name} of '
            f'{name or "its input"} has no translation (mrpose_jax/inference/onnx_graphs.py); '
            'export to .stablehlo'
          ) from error
      values |= dict(zip(equation.outvars, outputs))
    return [value_of(atom) for atom in jaxpr.outvars]


def _unused(name, taken):
  """The name, or the name with the lowest number from 2 that makes it unique."""
  numbered = (f'{name}_{number}' for number in itertools.count(2))
  return next(n for n in itertools.chain([name], numbered) if n not in taken)


# Below are the translations. Each adds an operation on `operands`, which are values or constants,
# and returns the result. `name` is that of the module that the operation
# belongs to, `shape` that of the first operand in JAX, `parameters` those of the JAX primitive.


def _refuse(graph, name, shape, parameters, *operands):
  raise NotImplementedError


def _require(condition):
  if not condition:
    raise NotImplementedError


def _nchw(operand):
  """A value as it is; a constant as NCHW, without the axes along which its numbers are equal."""
  if isinstance(operand, str):
    return operand
  for axis in range(operand.ndim):
    first = operand.take([0], axis)
    operand = first if (operand == first).all() else operand
  return operand.transpose(_NCHW) if operand.ndim == 4 else operand


def _elementwise(operator):
  def translate(graph, name, shape, parameters, *operands):
    return graph.add(operator, *map(_nchw, operands), name=f'{name}/{operator}')

  return translate


def _add(graph, name, shape, parameters, a, b):
  return _into_convolution(graph, a, b, _with_summand) or _elementwise('Add')(
    graph, name, shape, parameters, a, b
  )


def _mul(graph, name, shape, parameters, a, b):
  return _into_convolution(graph, a, b, _with_factor) or _elementwise('Mul')(
    graph, name, shape, parameters, a, b
  )


def _into_convolution(graph, a, b, change):
  """The output of a convolution that contains a sum or product with a constant, or None.

  The model does not hold the convolution without it, unless something else depends on that.
  """
  a, b = (b, a) if isinstance(a, np.ndarray) else (a, b)
  node = graph.nodes.get(a)
  if node is None or isinstance(b, str) or node.operator not in ('Conv', 'ConvTranspose'):
    return None
  by_channel = _nchw(b)
  if by_channel.ndim not in (0, 4) or by_channel.size != max(by_channel.shape[1:2], default=1):
    return None
  x, kernel, *bias = node.inputs
  output_axis = 0 if node.operator == 'Conv' else 1
  channels = np.broadcast_to(by_channel.ravel(), kernel.shape[output_axis])
  bias = bias[0] if bias else np.zeros_like(channels)
  inputs = change(kernel, bias, channels, output_axis)
  return graph.add(node.operator, x, *inputs, name=node.name, **node.attributes)


def _with_summand(kernel, bias, channels, output_axis):
  return kernel, bias + channels


def _with_factor(kernel, bias, channels, output_axis):
  other_axes = tuple(axis for axis in range(4) if axis != output_axis)
  return kernel * np.expand_dims(channels, other_axes), bias * channels


def _max(graph, name, shape, parameters, a, b):
  if isinstance(b, np.ndarray) and not b.any():
    return graph.add('Relu', a, name=f'{name}/Relu')
  return _elementwise('Max')(graph, name, shape, parameters, a, b)


def _convolution(graph, name, shape, parameters, x, kernel):
  numbers = parameters['dimension_numbers']
  _require(isinstance(kernel, np.ndarray) and parameters['batch_group_count'] == 1)
  _require(numbers.lhs_spec == numbers.out_spec == _NCHW)
  kernel = kernel.transpose(numbers.rhs_spec)  # [O, I, h, w]
  pads = np.array(parameters['padding'])  # [2, 2], of height and width, at either end
  stride = parameters['lhs_dilation']
  if stride == (1, 1):
    return graph.add(
      *('Conv', x, kernel),
      name=name,
      strides=parameters['window_strides'],
      pads=pads.T.ravel().tolist(),
      dilations=parameters['rhs_dilation'],
      group=parameters['feature_group_count'],
    )
  # A convolution of the input with zeros between its pixels: the transpose of one with strides.
  pads = np.array(kernel.shape[2:])[:, None] - 1 - pads
  _require(parameters['window_strides'] == parameters['rhs_dilation'] == (1, 1))
  _require(parameters['feature_group_count'] == 1 and (pads >= 0).all())
  kernel = kernel[:, :, ::-1, ::-1].swapaxes(0, 1)  # [I, O, h, w]
  return graph.add(
    'ConvTranspose', x, kernel, name=name, strides=stride, pads=pads.T.ravel().tolist()
  )


def _matmul(graph, name, shape, parameters, x, kernel):
  """A product of the channels with a matrix is a 1x1 convolution."""
  _require(len(shape) == 4 and isinstance(kernel, np.ndarray) and kernel.ndim == 2)
  _require(parameters['dimension_numbers'] == (((3,), (0,)), ((), ())))
  return graph.add('Conv', x, kernel.T[:, :, None, None], name=name)


def _max_pool(graph, name, shape, parameters, x):
  window, strides = parameters['window_dimensions'], parameters['window_strides']
  padding = parameters['padding']
  _require(len(window) == 4 and window[0] == window[3] == strides[0] == strides[3] == 1)
  _require(set(parameters['base_dilation'] + parameters['window_dilation']) == {1})
  _require(padding[0] == padding[3] == (0, 0))
  pads = np.array(padding[1:3]).T.ravel().tolist()
  return graph.add(
    'MaxPool', x, name=name, kernel_shape=window[1:3], strides=strides[1:3], pads=pads
  )


def _slice(graph, name, shape, parameters, x):
  starts, limits = parameters['start_indices'], parameters['limit_indices']
  steps = parameters['strides'] or (1,) * len(shape)
  rows = [
    (start, limit, _axis(axis, shape), step)
    for axis, (start, limit, step) in enumerate(zip(starts, limits, steps))
    if (start, limit, step) != (0, shape[axis], 1)
  ]
  return graph.add('Slice', x, *np.array(rows, np.int64).T, name=f'{name}/Slice')


def _reverse(graph, name, shape, parameters, x):
  rows = [(-1, _BEFORE_FIRST, _axis(axis, shape), -1) for axis in parameters['dimensions']]
  return graph.add('Slice', x, *np.array(rows, np.int64).T, name=f'{name}/Slice')


def _axis(axis, shape):
  return _TO_NCHW[axis] if len(shape) == 4 else axis


def _cast(graph, name, shape, parameters, x):
  to = helper.np_dtype_to_tensor_dtype(np.dtype(parameters['new_dtype']))
  return graph.add('Cast', x, name=f'{name}/Cast', to=to)


# Operations whose parameter of this name holds the function that they call.
_CALLS = {'jit': 'jaxpr', 'custom_jvp_call': 'call_jaxpr'}
_TRANSLATIONS = {
  'add': _add,
  'conv_general_dilated': _convolution,
  'convert_element_type': _cast,
  'div': _elementwise('Div'),
  'dot_general': _matmul,
  'max': _max,
  'mul': _mul,
  'reduce_window_max': _max_pool,
  'rev': _reverse,
  'slice': _slice,
  'sub': _elementwise('Sub'),
}
