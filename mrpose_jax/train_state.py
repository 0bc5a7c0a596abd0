"""What a training step reads and writes."""

from typing import Any

import jax
import optax
from flax import struct
from jax import numpy as jnp

from mrpose_jax.models import pose_network


class TrainState(struct.PyTreeNode):
  """Attributes:
  step: int32 scalar, steps done.
  params, batch_stats: the network's variables.
  opt_state: Adam's moments and count.
  diverged: bool scalar; a step was not finite, and all the rest is as before that step.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  diverged: jax.Array

  @property
  def variables(self):
    """As `model.apply` takes them."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def create(
  model: pose_network.PoseNetwork, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """A fresh state; jit it with output shardings, so that it is made where it belongs."""
  # The variables do not depend on the image's size; 64 x 64 is the smallest for every stage.
  variables = model.init(key, jnp.zeros((1, 64, 64, 3)), train=False)
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
