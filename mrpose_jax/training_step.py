"""One training step as a pure function, and the state that it changes."""

import dataclasses
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import optax
from flax import struct
from jax import numpy as jnp

from mrpose_jax import codecs
from mrpose_jax import losses
from mrpose_jax import optimizers
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.models import pose_network


class TrainState(struct.PyTreeNode):
  """Everything that changes in training.

  Attributes:
    step: int32 scalar, number of steps done.
    params, batch_stats: the network's variables.
    opt_state: the optimizer's moments and count.
    ema: moving average of the variables, {'params', 'batch_stats'}, or None.
    diverged: bool scalar. If True, the next step was not finite, and the rest is from before it.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  diverged: jax.Array
  ema: Any = None

  @property
  def variables(self):
    """The variables for `model.apply`."""
    return {'params': self.params, 'batch_stats': self.batch_stats}

  def evaluated(self, ema: bool | None):
    """The variables to evaluate: the moving average if `ema`, or where there is one if None."""
    return self.variables if self.ema is None or ema is False else self.ema


def create(
  model: pose_network.PoseNetwork,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  ema: bool = False,
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
    # A copy, because the state is donated to the training step.
    ema=jax.tree.map(jnp.copy, dict(variables)) if ema else None,
  )


def abstract_variables(model: pose_network.PoseNetwork):
  """Shapes and types of a network's variables."""
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  return {'params': variables['params'], 'batch_stats': variables['batch_stats']}


class Examples(NamedTuple):
  """What the network learns from in one step.

  Attributes:
    draws: how each crop was augmented.
    inputs: [N, H, W, 3] normalised crops.
    keypoints: [N, K, 2] xy in pixels of the crops.
    visible: [N, K], above 0 where the keypoint is labelled.
    target: [N, h, w, K] heatmaps.
    weights: [N, K] of the heatmaps in the loss.
  """

  draws: augment.Draw
  inputs: jax.Array
  keypoints: jax.Array
  visible: jax.Array
  target: jax.Array
  weights: jax.Array


def make_examples(
  codec: codecs.Codec,
  augmentation: augment.Augmentation,
  skeleton: skeletons.Skeleton,
  seed: int,
  channel_order: str = 'rgb',
) -> Callable[[jax.Array, batching.PersonBatch], Examples]:
  """Returns the pure function (step, PersonBatch) -> Examples.

  Augmentation is drawn from (seed, step) alone.
  """
  flip = skeleton.mirroring(augmentation.flip, 0.5)
  augmentation = dataclasses.replace(augmentation, flip=flip)

  def examples_of(step, batch):
    key = jax.random.fold_in(jax.random.key(seed), step)
    draws = augment.draw(key, batch.patches.shape[0], augmentation)
    inputs, keypoints, visible = augment.crop_people(batch, draws, codec, skeleton, channel_order)
    return Examples(draws, inputs, keypoints, visible, *codec.encode(keypoints, visible))

  return examples_of


def make_train_step(
  model: pose_network.PoseNetwork,
  optimizer: optax.GradientTransformation,
  codec: codecs.Codec,
  augmentation: augment.Augmentation,
  skeleton: skeletons.Skeleton,
  seed: int,
  channel_order: str = 'rgb',
  accumulate: int = 1,
  hard_keypoints: int = 0,
  ema: float = 0.0,
) -> Callable[[TrainState, batching.PersonBatch], tuple[TrainState, dict]]:
  """Returns the pure function (TrainState, PersonBatch) -> (TrainState, metrics).

  The metrics are 'loss' and 'gradient_norm', scalars on the device. With `accumulate`, the network
  sees the batch in that many parts, each normalised by its own batch statistics, and one update is
  made with their mean gradient. `hard_keypoints` and `ema` are `train.hard_keypoints` and
  `train.ema` of the configuration.

  A step whose loss or gradient is not finite changes nothing but `diverged`, and so do all later
  steps.

  Under jit with a batch that is split over devices, loss, gradients and batch statistics are those
  of the whole batch.
  """
  examples_of = make_examples(codec, augmentation, skeleton, seed, channel_order)

  def loss_fn(params, batch_stats, inputs, target, weights):
    variables = {'params': params, 'batch_stats': batch_stats}
    heatmaps, updated = model.apply(variables, inputs, train=True, mutable=['batch_stats'])
    return losses.keypoint_mse_loss(heatmaps, target, weights, hard_keypoints), updated[
      'batch_stats'
    ]

  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def train_step(state, batch):
    examples = examples_of(state.step, batch)
    arrays = examples.inputs, examples.target, examples.weights
    if accumulate == 1:
      (loss, batch_stats), gradients = grad_fn(state.params, state.batch_stats, *arrays)
    else:
      loss, batch_stats, gradients = _accumulate(grad_fn, state, arrays, accumulate)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    updated = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    if ema:
      average = optimizers.moving_average(state.ema, updated.variables, updated.step, ema)
      updated = updated.replace(ema=average)
    gradient_norm = optax.tree.norm(gradients)
    # The host looks at losses some steps later; until then a diverged state stays as it was.
    diverged = state.diverged | ~jnp.isfinite(loss + gradient_norm)
    state = jax.tree.map(lambda old, new: jnp.where(diverged, old, new), state, updated)
    return state.replace(diverged=diverged), {'loss': loss, 'gradient_norm': gradient_norm}

  return train_step


def _accumulate(grad_fn, state, arrays, num_parts):
  """Mean loss and mean gradients over the parts of a batch, and its batch statistics.

  The running statistics are updated part by part.

  Part i holds rows i, i + num_parts, ...: where a batch is split over devices, each device finds
  its share of every part among its own rows.
  """
  parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0), arrays)

  def add_part(total, part):
    loss, batch_stats, gradients = total
    (part_loss, batch_stats), part_gradients = grad_fn(state.params, batch_stats, *part)
    return (loss + part_loss, batch_stats, jax.tree.map(jnp.add, gradients, part_gradients)), None

  initial = (
    jnp.zeros((), jnp.float32),
    state.batch_stats,
    jax.tree.map(jnp.zeros_like, state.params),
  )
  (loss, batch_stats, gradients), _ = jax.lax.scan(add_part, initial, parts)
  return loss / num_parts, batch_stats, jax.tree.map(lambda g: g / num_parts, gradients)


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
