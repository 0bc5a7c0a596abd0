"""The state that a training step reads and writes."""

from typing import Any

import jax
import optax
from flax import struct
from jax import numpy as jnp

from mrpose_jax.models import pose_network


class TrainState(struct.PyTreeNode):
  """Everything that changes in training.

  Attributes:
    step: int32 scalar, number of steps done.
    params, batch_stats: the network's variables.
    opt_state: Adam's moments and count.
    diverged: bool scalar. If True, the next step was not finite, and the rest is from before it.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  diverged: jax.Array

  @property
  def variables(self):
    """The variables for `model.apply`."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def create(
  model: pose_network.PoseNetwork, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """Initialises a state. Jit it with output shardings to create the arrays on their devices."""
  # The variables do not depend on the image size, so a small image is enough.
  variables = model.init(key, jnp.zeros((1, 64, 64, 3), jnp.float32), train=False)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables['params'],
    batch_stats=variables['batch_stats'],
    opt_state=optimizer.init(variables['params']),
    diverged=jnp.zeros((), bool),
  )


def abstract_variables(model: pose_network.PoseNetwork):
  """Shapes and types of a network's variables."""
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  return {'params': variables['params'], 'batch_stats': variables['batch_stats']}


def parameter_overview(params) -> str:
  """Name, shape and number of every parameter array, a line each, and the total."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  rows = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), str(x.shape), f'{x.size:,}')
    for path, x in leaves
  ]
  rows.append(('total', '', f'{sum(x.size for _, x in leaves):,}'))
  name_width, shape_width, size_width = (max(map(len, column)) for column in zip(*rows))
  return ''.join(
    f'{name:{name_width}}  {shape:{shape_width}}  {size:>{size_width}}\n'
    for name, shape, size in rows
  )
