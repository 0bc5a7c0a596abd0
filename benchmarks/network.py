"""Times training steps and predictions on the CPU against the same network in PyTorch."""

from collections.abc import Callable

import jax
import numpy as np
import optax
import torch
from jax import numpy as jnp

import mrpose_jax
from benchmarks import torch_networks
from benchmarks import turns
from mrpose_jax import optimizers
from mrpose_jax.models import folding
from mrpose_jax.runtime import compilation

NETWORKS = ('simple_baseline', 'mrfeanet2')


def run(num_turns, depth=50, size=(256, 192), width=64, batch=8) -> list[turns.Comparison]:
  """Times training steps of `batch` images, and their prediction singly and as one batch.

  All computations are in float32.
  """
  comparisons = []
  for name in NETWORKS:
    comparisons.append(_training(name, depth, size, width, batch, num_turns))
    for n in (1, batch):
      comparisons.append(_prediction(name, depth, size, width, n, batch // n, 3 * num_turns))
  return comparisons


def _training(name, depth, size, width, n, num_turns):
  model, variables, network = both(name, depth, width)
  r = np.random.default_rng(0)
  images = r.standard_normal((n, *size, 3), np.float32)
  target = r.random((n, size[0] // 4, size[1] // 4, 17), np.float32)
  train = trainer(model, variables, images, target)
  their_target = torch.from_numpy(target.transpose(0, 3, 1, 2).copy())
  adam = torch.optim.Adam(network.train().parameters(), lr=1e-3)

  def steps_of(x):
    def theirs():
      adam.zero_grad()
      (0.5 * (network(x) - their_target).square().mean()).backward()
      adam.step()

    return theirs

  theirs, reference = _faster_layout(network, images, steps_of)
  what = f'training step, {_describe(name, depth, size)}, batch {n}'
  return turns.take_turns(what, lambda: train().block_until_ready(), theirs, num_turns, reference)


def trainer(model, variables, images, target) -> Callable[[], jax.Array]:
  """Returns a function that does one training step on these images, and returns the loss."""
  images, target = jax.device_put((images, target))
  weights = jnp.ones(target.shape[::3], jnp.float32)
  optimizer = optimizers.adam(lambda step: 1e-3)

  def train_step(variables, opt_state, images, target, weights):
    def loss_of(params):
      heatmaps, updated = model.apply(
        {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
      )
      return mrpose_jax.keypoint_mse_loss(heatmaps, target, weights), updated

    (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables['params'])
    updates, opt_state = optimizer.update(gradients, opt_state)
    params = optax.apply_updates(variables['params'], updates)
    return {'params': params, **updated}, opt_state, loss

  train_step = compilation.jit(train_step, donate_argnums=(0, 1))
  state = [variables, jax.jit(optimizer.init)(variables['params'])]

  def step():
    *state[:], loss = train_step(*state, images, target, weights)
    return loss

  return step


def _prediction(name, depth, size, width, n, times, num_turns):
  model, variables, network = both(name, depth, width)
  images = np.random.default_rng(0).standard_normal((n, *size, 3), np.float32)
  inputs = jax.block_until_ready(jax.device_put(images))  # PyTorch's copy is not timed, either
  # The Predictor folds batch norm, too.
  variables = jax.jit(folding.fold_batch_norm, static_argnums=0)(model, variables)
  jit = compilation.jit_prediction(model, variables)
  predict = jit(lambda variables, x: model.apply(variables, x, train=False))
  network.eval()

  def ours():
    for _ in range(times):
      heatmaps = predict(inputs).block_until_ready()
    return heatmaps

  def predictions_of(x):
    @torch.inference_mode()
    def theirs():
      for _ in range(times):
        heatmaps = network(x)
      return heatmaps

    return theirs

  theirs, reference = _faster_layout(network, images, predictions_of)
  difference = np.abs(ours() - theirs().numpy().transpose(0, 2, 3, 1)).max()
  if difference > 1e-4:
    raise ValueError(f'{name}: heatmaps differ by {difference}, so they are not the same network')
  what = f'heatmaps, {_describe(name, depth, size)}, batch {n}'
  what += f', {times} in a row' if times > 1 else ''
  return turns.take_turns(what, ours, theirs, num_turns, reference)


def both(name, depth, width, dtype='float32'):
  """Returns our model and variables, and a PyTorch network with the same weights, on the CPU."""
  model = mrpose_jax.create_model(name, depth=depth, width=width, dtype=dtype)
  init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False))
  variables = init(jax.random.key(0))
  network = torch_networks.Network(name, depth, 17, width)
  weights = mrpose_jax.export_torch_weights(variables, model)
  weights = {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}
  network.load_state_dict(weights, strict=False)  # num_batches_tracked is missing
  return model, variables, network


def _faster_layout(network, images, function_of):
  """Returns `function_of(images)` in PyTorch's faster memory layout, and the reference's name."""
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  candidates = []
  for layout in (torch.contiguous_format, torch.channels_last):
    network.to(memory_format=layout)
    function = function_of(x.contiguous(memory_format=layout))
    function()
    seconds = min(turns.seconds_of(function) for _ in range(3))
    candidates.append((seconds, layout, function))
  _, layout, function = min(candidates, key=lambda candidate: candidate[0])
  network.to(memory_format=layout)
  return function, f'PyTorch {torch.__version__.partition("+")[0]}, {str(layout).partition(".")[2]}'


def _describe(name, depth, size):
  return f'{name} R{depth}, {"x".join(map(str, size))}'
