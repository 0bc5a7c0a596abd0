"""One training step of each network on ResNet-50 against the authors' PyTorch code."""

import json

import jax
import numpy as np
import pytest

import mrpose_jax
from mrpose_jax.models import decoders
from tests import golden_weights
from tests import shared_data


@pytest.mark.parametrize('network', decoders.DECODERS)
def test_loss_gradients_and_statistics_of_one_step(network):
  meta = json.loads(shared_data.golden('models.json').read_text())
  expected = meta['train'][network]
  model = mrpose_jax.create_model(network, depth=50)
  shapes = meta['state_dict'][f'{network}_r50_k17']
  variables = mrpose_jax.import_torch_weights(golden_weights.state_dict(shapes, seed=0), model)
  r = np.random.default_rng(1000)
  r.standard_normal((1, 3, 256, 192))  # the evaluation input comes first
  images = r.standard_normal((2, 3, 256, 192)).astype(np.float32).transpose(0, 2, 3, 1)
  target = r.uniform(0, 1, (2, 17, 64, 48)).astype(np.float32).transpose(0, 2, 3, 1)
  weights = (r.uniform(0, 1, (2, 17, 1)) > 0.2)[..., 0].astype(np.float32)

  @jax.jit
  def step(variables):
    def loss_of(params):
      heatmaps, updated = model.apply(
        {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
      )
      return mrpose_jax.keypoint_mse_loss(heatmaps, target, weights), updated['batch_stats']

    return jax.value_and_grad(loss_of, has_aux=True)(variables['params'])

  (loss, batch_stats), gradients = step(variables)
  np.testing.assert_allclose(loss, expected['loss'], rtol=1e-5)
  names = mrpose_jax.export_torch_weights({'params': gradients, 'batch_stats': batch_stats}, model)
  norms = {name: np.linalg.norm(value.astype(np.float64)) for name, value in names.items()}
  for kind, tolerance in (('grad_l2', 2e-3), ('running_mean_l2', 1e-4), ('running_var_l2', 1e-4)):
    for name, norm in expected[kind].items():
      np.testing.assert_allclose(norms[name], norm, rtol=tolerance, atol=1e-7, err_msg=name)
