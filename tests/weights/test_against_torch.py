"""Compares PyTorch and JAX with the same weights: heatmaps, statistics, ten steps of Adam."""

import jax
import numpy as np
import optax
import pytest

import mrpose_jax
from mrpose_jax import optimizers
from mrpose_jax.models import decoders

torch = pytest.importorskip('torch')
from benchmarks import torch_networks  # noqa: E402, which needs torch

K = 5


def both(name, depth, seed=0):
  """PyTorch's network with random weights and statistics, our model, and the same variables."""
  torch.manual_seed(seed)
  network = torch_networks.Network(name, depth, K, width=8)
  for key, value in network.state_dict().items():
    if key.endswith('running_var'):
      value.uniform_(0.5, 1.5)
    elif key.endswith('running_mean'):
      value.normal_(0, 0.1)
  model = mrpose_jax.create_model(name, depth=depth, num_keypoints=K, width=8)
  state_dict = {key: value.numpy().copy() for key, value in network.state_dict().items()}
  return network, model, mrpose_jax.import_torch_weights(state_dict, model)


def nchw(x):
  return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def data(step, n=4):
  r = np.random.default_rng(step)
  images = r.standard_normal((n, 64, 64, 3)).astype(np.float32)
  target = r.uniform(0, 1, (n, 16, 16, K)).astype(np.float32)
  weights = (r.uniform(0, 1, (n, K)) > 0.2).astype(np.float32)
  return images, target, weights


@pytest.mark.parametrize(
  ('name', 'depth'), [*((name, 18) for name in decoders.DECODERS), ('mrfeanet2', 50)]
)
def test_heatmaps_and_the_way_back(name, depth):
  network, model, variables = both(name, depth)
  images, _, _ = data(0, n=2)
  ours = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
  with torch.no_grad():
    theirs = network.eval()(nchw(images)).numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(ours, theirs, atol=1e-4)

  exported = mrpose_jax.export_torch_weights(variables, model)
  original = network.state_dict()
  assert exported.keys() == {key for key in original if not key.endswith('num_batches_tracked')}
  assert all(np.array_equal(exported[key], original[key].numpy()) for key in exported)


@pytest.mark.parametrize('name', ['simple_baseline', 'mrfeanet2'])
def test_ten_steps_of_adam_follow_pytorchs_loss(name):
  network, model, variables = both(name, 18)
  network.train()
  adam = torch.optim.Adam(network.parameters(), lr=1e-3)
  optimizer = optimizers.adam(lambda step: 1e-3)

  @jax.jit
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

  opt_state = optimizer.init(variables['params'])
  ours, theirs = [], []
  for step in range(10):
    images, target, weights = data(step)
    variables, opt_state, loss = train_step(variables, opt_state, images, target, weights)
    ours.append(float(loss))
    adam.zero_grad()
    error = (network(nchw(images)) - nchw(target)) * torch.from_numpy(weights)[..., None, None]
    loss = 0.5 * error.square().mean()
    loss.backward()
    adam.step()
    theirs.append(loss.item())
    if step == 0:
      exported = mrpose_jax.export_torch_weights(variables, model)
      for key, value in network.state_dict().items():
        if 'running' in key:
          np.testing.assert_allclose(exported[key], value.numpy(), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(ours, theirs, rtol=0.01)
