"""Parameter counts, shapes and heatmaps of the five networks."""

import functools
import json

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import mrpose_jax
from mrpose_jax import errors
from mrpose_jax.models import decoders
from mrpose_jax.models import folding
from mrpose_jax.models import layers
from mrpose_jax.models import resnet
from mrpose_jax.runtime import compilation
from tests.helpers import golden_weights
from tests.helpers import shared_data

pytestmark = pytest.mark.usefixtures('optimized_programs')

NETWORKS = tuple(decoders.DECODERS)

# Number of parameters of each network on ResNet-50, -101 and -152 for K = 17 and 16, according to
# the authors' PyTorch code.
PARAMETERS = {
  ('simple_baseline', 17): (33999697, 52991825, 68635473),
  ('simple_baseline', 16): (33999440, 52991568, 68635216),
  ('mrheatnet1', 17): (34017785, 53009913, 68653561),
  ('mrheatnet1', 16): (34015952, 53008080, 68651728),
  ('mrheatnet2', 17): (34022409, 53014537, 68658185),
  ('mrheatnet2', 16): (34020048, 53012176, 68655824),
  ('mrfeanet1', 17): (41341265, 60333393, 75977041),
  ('mrfeanet1', 16): (41341008, 60333136, 75976784),
  ('mrfeanet2', 17): (80141137, 99133265, 114776913),
  ('mrfeanet2', 16): (80140880, 99133008, 114776656),
}


def shapes(model):
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)


@pytest.mark.parametrize('num_keypoints', [16, 17])
@pytest.mark.parametrize('network', NETWORKS)
def test_parameter_counts(network, num_keypoints):
  for depth, expected in zip((50, 101, 152), PARAMETERS[network, num_keypoints]):
    model = mrpose_jax.create_model(network, depth=depth, num_keypoints=num_keypoints)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(model)['params'])) == expected


def test_the_table_of_counts_is_complete():
  assert set(PARAMETERS) == {(network, k) for network in NETWORKS for k in (16, 17)}


@pytest.mark.parametrize('depth', resnet.STAGES)
@pytest.mark.parametrize('network', NETWORKS)
def test_heatmaps_are_a_quarter_of_the_image(network, depth):
  model = mrpose_jax.create_model(network, depth=depth, num_keypoints=5, width=8, dtype='bfloat16')
  heatmaps = jax.eval_shape(
    lambda v, x: model.apply(v, x, train=False),
    shapes(model),
    jax.ShapeDtypeStruct((2, 128, 96, 3), np.float32),
  )
  assert heatmaps.shape == (2, 32, 24, 5)
  assert heatmaps.dtype == np.float32


def test_encoder_resolutions_and_channels():
  norm = functools.partial(layers.BatchNorm, use_running_average=True)
  encoder = resnet.ResNet(50, 16, layers.conv, norm)
  image = jax.ShapeDtypeStruct((1, 64, 96, 3), np.float32)
  outputs, _ = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), image)
  assert [x.shape for x in outputs] == [
    (1, 16, 24, 64),
    (1, 8, 12, 128),
    (1, 4, 6, 256),
    (1, 2, 3, 512),
  ]


def test_heatmaps_equal_the_released_codes():
  """Heatmaps of mrfeanet2 on ResNet-50; test_golden_step checks all networks."""
  expected = np.load(shared_data.golden('heatmaps.npz'))['mrfeanet2_r50_k17_heatmaps']
  meta = json.loads(shared_data.golden('models.json').read_text())
  model = mrpose_jax.create_model('mrfeanet2', depth=50)
  weights = golden_weights.state_dict(meta['state_dict']['mrfeanet2_r50_k17'], seed=0)
  variables = mrpose_jax.import_torch_weights(weights, model)
  image = np.random.default_rng(1000).standard_normal((1, 3, 256, 192)).astype(np.float32)
  apply = functools.partial(model.apply, train=False)
  folded = jax.jit(folding.fold_batch_norm, static_argnums=0)(model, variables)
  for predict in (
    functools.partial(jax.jit(apply), variables),
    compilation.jit_prediction(model, folded)(apply),
  ):
    got = np.asarray(predict(image.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def test_unknown_values_are_told_with_the_nearest_name():
  with pytest.raises(errors.ConfigError, match="did you mean 'mrfeanet2'"):
    mrpose_jax.create_model('mrfeanet_2')
  with pytest.raises(errors.ConfigError, match='unknown depth 51'):
    mrpose_jax.create_model('mrfeanet2', depth=51)
  with pytest.raises(errors.ConfigError, match='unknown dtype'):
    mrpose_jax.create_model('mrfeanet2', dtype='float16')
  with pytest.raises(errors.ConfigError, match='unknown precision'):
    mrpose_jax.create_model('mrfeanet2', precision='float32')
  with pytest.raises(errors.ConfigError, match='must be positive'):
    mrpose_jax.create_model('mrfeanet2', num_keypoints=0)


def test_image_sizes_must_fit_the_strides():
  model = mrpose_jax.create_model('simple_baseline', depth=18, width=4)
  with pytest.raises(ValueError, match='multiples of 32'):
    model.init(jax.random.key(0), np.zeros((1, 64, 48, 3), np.float32), train=False)


@pytest.mark.parametrize('network', decoders.DECODERS)
@pytest.mark.parametrize('depth', [18, 50])
def test_folded_batch_norm_is_the_same_function(network, depth):
  model = mrpose_jax.create_model(network, depth=depth, num_keypoints=3, width=4)
  images = jax.random.normal(jax.random.key(1), (2, 64, 32, 3))
  variables = model.init(jax.random.key(0), images, train=False)
  keys = iter(jax.random.split(jax.random.key(2), 1000))

  def positive(x):  # stands for trained values, as initial scales and statistics are 0 and 1
    return jax.random.uniform(next(keys), x.shape, minval=0.5, maxval=1.5)

  variables = jax.tree.map(lambda x: positive(x) if x.ndim == 1 else 3 * x, variables)
  folded = jax.jit(folding.fold_batch_norm, static_argnums=0)(model, variables)
  assert jax.tree.structure(folded) == jax.tree.structure(variables)
  scales = [x for p, x in jax.tree_util.tree_leaves_with_path(folded) if 'scale' in str(p)]
  assert all((x == 1).all() for x in scales)
  expected = model.apply(variables, images, train=False)
  heatmaps = model.apply(folded, images, train=False)
  assert jnp.abs(expected).max() > 1e-3
  np.testing.assert_allclose(heatmaps, expected, atol=2e-5 * float(jnp.abs(expected).max()))
