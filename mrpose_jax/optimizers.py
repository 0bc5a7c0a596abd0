"""Optimizers and learning rates: the paper's Adam with drops, and AdamW with warm-up and cosine."""

from collections.abc import Callable

import jax
import ml_collections
import optax
from jax import numpy as jnp

from mrpose_jax import errors

OPTIMIZERS = ('adam', 'adamw')
SCHEDULES = ('piecewise', 'cosine')


def check(train: ml_collections.ConfigDict):
  """Raises ConfigError for a part `train` of a configuration whose optimizer cannot be built."""
  for name, possible in (('optimizer', OPTIMIZERS), ('schedule', SCHEDULES)):
    if train[name] not in possible:
      raise errors.ConfigError(f'train.{name}={train[name]!r}: use one of {", ".join(possible)}')
  for name in ('warmup_epochs', 'weight_decay', 'gradient_clip'):
    if not train[name] >= 0:
      raise errors.ConfigError(f'train.{name}={train[name]}: must be 0 or more')
  if not 0 <= train.ema < 1:
    raise errors.ConfigError(f'train.ema={train.ema}: must be at least 0 and below 1')


def schedule_of(train: ml_collections.ConfigDict, to_steps: Callable) -> optax.Schedule:
  """The schedule that part `train` of a configuration describes; to_steps maps epochs to steps."""
  warmup_steps = to_steps(train.warmup_epochs) if train.warmup_epochs else 0
  if train.schedule == 'cosine':
    return cosine_schedule(train.learning_rate, to_steps(train.epochs), warmup_steps)
  drop_steps = tuple(to_steps(epoch) for epoch in train.drop_epochs)
  return piecewise_schedule(train.learning_rate, train.drop_factor, drop_steps, warmup_steps)


def optimizer_of(
  train: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """The optimizer that part `train` of a configuration describes."""
  if train.optimizer == 'adamw':
    return adamw(schedule, train.weight_decay, train.gradient_clip)
  return adam(schedule, train.gradient_clip)


def piecewise_schedule(
  learning_rate: float, drop_factor: float, drop_steps: tuple[int, ...], warmup_steps: int = 0
) -> optax.Schedule:
  """Step -> learning rate, multiplied by drop_factor at each of drop_steps (paper section IV).

  Two drops at the same step multiply it twice. Before `warmup_steps` the learning rate rises
  linearly (Goyal et al. 2017, arXiv 1706.02677).
  """
  factors = {step: drop_factor ** drop_steps.count(step) for step in drop_steps}
  return _warm_up(optax.piecewise_constant_schedule(learning_rate, factors), warmup_steps)


def cosine_schedule(
  learning_rate: float, total_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
  """Step -> learning rate, which falls to 0 along half a cosine (Loshchilov & Hutter, ICLR 2017).

  Before `warmup_steps` it rises linearly; the cosine begins there.
  """
  cosine = optax.cosine_decay_schedule(learning_rate, max(total_steps - warmup_steps, 1))
  return _warm_up(lambda step: cosine(jnp.maximum(step - warmup_steps, 0.0)), warmup_steps)


def _warm_up(schedule, warmup_steps):
  def learning_rate(step):
    # A step of type float32 gives a learning rate of that type whatever JAX's default types are.
    step = jnp.asarray(step, jnp.float32)
    rate = schedule(step)
    # The first step has a learning rate above 0, and step number `warmup_steps` the whole one.
    return rate * jnp.minimum((step + 1.0) / warmup_steps, 1.0) if warmup_steps else rate

  return learning_rate


def adam(schedule: optax.Schedule, gradient_clip: float = 0.0) -> optax.GradientTransformation:
  """Adam (Kingma & Ba 2015) with PyTorch's defaults; epsilon is added outside the root.

  Args:
    schedule: step -> learning rate.
    gradient_clip: largest global norm of the gradient, to which larger ones are scaled down
      (Pascanu et al., ICML 2013); 0 for no limit.
  """
  return _clip(optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8), gradient_clip)


def adamw(
  schedule: optax.Schedule, weight_decay: float, gradient_clip: float = 0.0
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019); see `adam`.

  Only kernels decay: arrays of one dimension are biases, and scales and shifts of batch norm.
  """

  def is_kernel(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)

  transformation = optax.adamw(
    schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=is_kernel
  )
  return _clip(transformation, gradient_clip)


def _clip(transformation, gradient_clip):
  if gradient_clip:
    transformation = optax.chain(optax.clip_by_global_norm(gradient_clip), transformation)

  def update(gradients, state, params=None):
    with jax.numpy_dtype_promotion('standard'):  # optax mixes its count with floats
      return transformation.update(gradients, state, params)

  return optax.GradientTransformation(transformation.init, update)


def moving_average(average, variables, step: jax.Array, decay: float):
  """Exponential moving average of a tree (Polyak & Juditsky 1992).

  average = d average + (1 - d) variables with d = min(decay, (1 + step) / (10 + step)), so that the
  average of a young run is not that of its initialisation (as TensorFlow's
  ExponentialMovingAverage with `num_updates`).

  Args:
    average, variables: trees of float arrays.
    step: number of updates of the variables, from 1.
    decay: 0..1, per step.
  """
  step = step.astype(jnp.float32)
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, v: decay * a + (1.0 - decay) * v, average, variables)
