"""Batch norm folded into the convolutions, for prediction."""

import jax
from flax import linen as nn
from flax import traverse_util
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models import layers
from mrpose_jax.models import pose_network


def fold_batch_norm(model: pose_network.PoseNetwork, variables: dict) -> dict:
  """Moves the running statistics into the kernels of the convolutions, for prediction.

  Batch norm with running statistics maps a convolution's output y to factor * y + shift. The factor
  goes into the kernel; the norm keeps the shift as its bias, with scale 1, mean 0 and variance
  1 - epsilon, so that it is an ordinary batch norm that only adds the shift.

  Args:
    model: the network.
    variables: its 'params' and 'batch_stats'.

  Returns:
    Variables of the same structure, which give the same heatmaps with train=False.

  Raises:
    ValueError: a batch norm does not directly follow a convolution.
  """
  params, stats = (
    dict(traverse_util.flatten_dict(variables[c])) for c in ('params', 'batch_stats')
  )
  for norm, conv in _normalised_convolutions(model, variables):
    factor = params[*norm, 'scale'] * lax.rsqrt(stats[*norm, 'var'] + layers.EPSILON)
    shift = params[*norm, 'bias'] - stats[*norm, 'mean'] * factor
    if (*conv.path, 'bias') in params:
      shift += params[*conv.path, 'bias'] * factor
      params[*conv.path, 'bias'] = jnp.zeros_like(shift)
    output_axis = 2 if isinstance(conv, nn.ConvTranspose) else 3  # of its kernel
    shape = [1, 1, 1, 1]
    shape[output_axis] = -1
    params[*conv.path, 'kernel'] *= factor.reshape(shape)
    params[*norm, 'scale'], params[*norm, 'bias'] = jnp.ones_like(factor), shift
    stats[*norm, 'mean'] = jnp.zeros_like(factor)
    stats[*norm, 'var'] = jnp.full_like(factor, 1 - layers.EPSILON)
  return {
    'params': traverse_util.unflatten_dict(params),
    'batch_stats': traverse_util.unflatten_dict(stats),
  }


def _normalised_convolutions(model, variables):
  """[(path of a batch norm, module of the convolution whose output it normalises)]."""
  convolutions, pairs = {}, []

  def record(next_fun, args, kwargs, context):
    output = next_fun(*args, **kwargs)
    module = context.module
    if isinstance(module, nn.Conv | nn.ConvTranspose | layers.HeatmapHead):
      convolutions[id(output)] = module, output  # the output is kept, and so is its id
    elif isinstance(module, layers.BatchNorm):
      if id(args[0]) not in convolutions:
        raise ValueError(
          f'{"/".join(module.path)}: its input is not the output of a convolution, so that it '
          'cannot be folded into one'
        )
      pairs.append((module.path, convolutions[id(args[0])][0]))
    return output

  with nn.intercept_methods(record):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    jax.eval_shape(lambda x: model.apply(variables, x, train=False), images)
  return pairs
