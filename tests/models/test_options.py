"""Options of networks and training step that change the costs but not the results."""

import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import mrpose_jax
from mrpose_jax import errors
from mrpose_jax import optimizers
from mrpose_jax import predict
from mrpose_jax import train
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import batching
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.models import layers
from mrpose_jax.runtime import parallel
from tests.helpers import tiny_people

NETWORKS = ('mrheatnet1', 'mrfeanet2')


def images_of(n, seed=0):
  return jax.random.normal(jax.random.key(seed), (n, 64, 64, 3))


def model_and_variables(network='mrfeanet2', **options):
  model = mrpose_jax.create_model(network, depth=18, num_keypoints=3, width=4, **options)
  variables = model.init(jax.random.key(0), images_of(1), train=False)
  # The decoder's initial kernels are scaled up to get heatmaps of magnitude one.
  scaled = jax.tree.map(lambda p: 30 * p if p.ndim == 4 else p, variables['params']['decoder'])
  return model, variables | {'params': variables['params'] | {'decoder': scaled}}


def gradient(model, variables, images):
  """Returns parameter gradients, and (heatmaps, running statistics), of one training pass."""

  def loss_of(params):
    heatmaps, updated = model.apply(
      variables | {'params': params}, images, train=True, mutable=['batch_stats']
    )
    return jnp.square(heatmaps - 1).mean(), (heatmaps, updated['batch_stats'])

  return jax.jit(jax.grad(loss_of, has_aux=True))(variables['params'])


def assert_close(a, b, rtol):
  """Compares two trees, with tolerances relative to the largest number of each leaf."""
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
    limit = rtol * np.abs(y).max() + 1e-7
    np.testing.assert_allclose(x, y, rtol=0, atol=limit, err_msg=jax.tree_util.keystr(path))


def test_groups_are_normalised_as_if_they_were_alone():
  model, variables = model_and_variables(norm_groups=2)
  alone = mrpose_jax.create_model('mrfeanet2', depth=18, num_keypoints=3, width=4)
  images = images_of(6)
  heatmaps, updated = model.apply(variables, images, train=True, mutable=['batch_stats'])
  parts = [
    alone.apply(variables, part, train=True, mutable=['batch_stats'])
    for part in (images[:3], images[3:])
  ]
  np.testing.assert_allclose(heatmaps, jnp.concatenate([h for h, _ in parts]), atol=1e-4)
  means = jax.tree.map(lambda a, b: (a + b) / 2, *(stats for _, stats in parts))
  assert_close(updated, means, 1e-5)
  with pytest.raises(ValueError, match='5 images: no multiple of 2 norm_groups'):
    model.apply(variables, images[:5], train=True, mutable=['batch_stats'])


@pytest.mark.parametrize('groups', [1, 4, 8])
def test_statistics_of_whole_groups_stay_on_their_device(groups):
  """On four devices, the forward pass has no all-reduce if each group lies on one device."""
  model, variables = model_and_variables(norm_groups=groups)
  mesh = parallel.data_mesh()
  forward = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])[0],
    out_shardings=parallel.batched(mesh),
  )
  images = jax.device_put(images_of(8), parallel.batched(mesh))
  variables = jax.device_put(variables, parallel.replicated(mesh))
  text = forward.lower(variables, images).compile().as_text()
  collectives = re.findall(r'all-reduce|all-gather|all-to-all|collective-permute', text)
  assert bool(collectives) == (groups == 1)


@pytest.mark.parametrize('network', NETWORKS)
def test_rematerialisation_is_the_same_function_and_keeps_less(network, softplus_networks):
  model, variables = model_and_variables(network)
  saving, same = model_and_variables(network, remat=True)
  assert jax.tree.structure(variables) == jax.tree.structure(same)
  images = images_of(8)
  assert_close(gradient(saving, variables, images), gradient(model, variables, images), 1e-4)

  def kept(model):
    """Bytes that the forward pass stores for the backward pass."""

    def loss_of(params):
      heatmaps, _ = model.apply(
        variables | {'params': params}, images, train=True, mutable=['batch_stats']
      )
      return jnp.square(heatmaps).mean()

    backward = jax.eval_shape(lambda params: jax.vjp(loss_of, params)[1], variables['params'])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

  assert kept(saving) < 0.55 * kept(model)


def operations(jaxpr):
  """Yields all equations, including those of inner functions."""
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(
      equation.params, is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr)
    ):
      if hasattr(value, 'jaxpr'):
        yield from operations(value.jaxpr)
      elif hasattr(value, 'eqns'):
        yield from operations(value)


@pytest.mark.parametrize('network', NETWORKS)
def test_bfloat16_is_what_the_arithmetic_is_done_in(network):
  model, variables = model_and_variables(network, dtype='bfloat16')

  def loss_of(params):
    heatmaps, updated = model.apply(
      variables | {'params': params}, images_of(4), train=True, mutable=['batch_stats']
    )
    assert heatmaps.dtype == jnp.float32
    return jnp.square(heatmaps - 1).mean(), updated

  gradients, updated = jax.eval_shape(jax.grad(loss_of, has_aux=True), variables['params'])
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, gradients, updated))} == {
    np.dtype('float32')
  }
  jaxpr = jax.make_jaxpr(jax.grad(loss_of, has_aux=True))(variables['params'])
  operands = [
    equation.invars[i].aval.dtype
    for equation in operations(jaxpr.jaxpr)
    if equation.primitive.name in ('conv_general_dilated', 'dot_general')
    for i in range(2)
  ]
  assert len(operands) > 100
  assert set(operands) == {jnp.dtype('bfloat16')}
  full, _ = model_and_variables(network)
  images = images_of(4)
  exact = full.apply(variables, images, train=False)
  np.testing.assert_allclose(
    model.apply(variables, images, train=False), exact, atol=0.03 * float(jnp.abs(exact).max())
  )


def test_the_deterministic_max_pool_is_the_same_function():
  x = jax.random.normal(jax.random.key(0), (2, 12, 8, 3))
  ties = jnp.round(x)  # windows contain many equal pixels
  for images in (x, ties, jax.nn.relu(ties)):
    dy = jax.random.normal(jax.random.key(1), (2, 6, 4, 3))
    y, pull = jax.vjp(lambda x: layers.MaxPool(deterministic=True).apply({}, x), images)
    expected, expected_pull = jax.vjp(lambda x: layers.MaxPool().apply({}, x), images)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(pull(dy)[0], expected_pull(dy)[0], atol=1e-6)


@pytest.mark.parametrize('deterministic', [False, True])
def test_a_deterministic_network_has_no_select_and_scatter(deterministic):
  model, variables = model_and_variables(deterministic=deterministic)

  def loss_of(params):
    heatmaps, _ = model.apply(
      variables | {'params': params}, images_of(2), train=True, mutable=['batch_stats']
    )
    return jnp.square(heatmaps).mean()

  gradient = jax.jit(jax.grad(loss_of)).trace(variables['params'])
  text = gradient.lower(lowering_platforms=('cuda',)).as_text()
  assert ('select_and_scatter' in text) != deterministic


def make_step(accumulate, norm_groups=1):
  """Returns a training step, its initial state and a batch of eight synthetic people."""
  config = tiny_people.config()
  config.model.norm_groups = norm_groups
  dataset = prepared_data.open_dataset('coco', config.data.data_dir)
  model = predict.model_of(config, 17)
  optimizer = optimizers.adam(lambda step: 1e-3)
  step = training_step.make_train_step(
    model,
    optimizer,
    predict.codec_of(config),
    augment.Augmentation(**config.augment),
    dataset.skeleton,
    seed=0,
    accumulate=accumulate,
  )
  batch = batching.unpack(next(loader.train_batches(dataset, 8, seed=0)))
  state = jax.jit(lambda: training_step.create(model, optimizer, jax.random.key(0)))()
  return step, state, batch


def test_accumulated_parts_make_the_step_of_the_whole_batch(softplus_networks):
  """Accumulating rows 0, 2, .. and 1, 3, .. equals one batch with these rows as two norm groups.

  Parts and groups have their own batch statistics, so loss and gradients agree. The running
  statistics are updated after each part.
  """
  step, state, batch = make_step(accumulate=2)
  parts, in_parts = jax.jit(step)(state, batch)
  # Augmentation is random by row, so the rows are sorted into groups after augmentation.
  make_examples = training_step.make_examples
  order = np.r_[0:8:2, 1:8:2]

  def reordered(*arguments):
    make = make_examples(*arguments)
    return lambda step, batch: jax.tree.map(lambda x: x[order], make(step, batch))

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(training_step, 'make_examples', reordered)
    whole, _, _ = make_step(accumulate=1, norm_groups=2)
  grouped, at_once = jax.jit(whole)(state, batch)
  np.testing.assert_allclose(in_parts['loss'], at_once['loss'], rtol=1e-6)
  np.testing.assert_allclose(in_parts['gradient_norm'], at_once['gradient_norm'], rtol=1e-4)
  assert_close(parts.opt_state, grouped.opt_state, 1e-3)
  # The running statistics equal those after two batches in sequence.
  config = tiny_people.config()
  skeleton = prepared_data.open_dataset('coco', config.data.data_dir).skeleton
  crops = make_examples(
    predict.codec_of(config), augment.Augmentation(**config.augment), skeleton, 0
  )(0, batch).inputs
  model, statistics = predict.model_of(config, 17), state.batch_stats
  for part in (crops[::2], crops[1::2]):
    variables = {'params': state.params, 'batch_stats': statistics}
    _, updated = model.apply(variables, part, train=True, mutable=['batch_stats'])
    statistics = updated['batch_stats']
  assert_close(parts.batch_stats, statistics, 1e-4)


def test_accumulation_moves_no_images_between_devices():
  step, state, batch = make_step(accumulate=2)
  mesh = parallel.data_mesh()
  place = parallel.replicated(mesh)
  step = jax.jit(step, out_shardings=(place, place))
  text = step.lower(
    jax.device_put(state, place), jax.device_put(batch, parallel.batched(mesh))
  ).compile()
  assert not re.search('all-to-all|collective-permute|all-gather', text.as_text())


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'train.accumulate': 3}, 'train.accumulate=3: must divide'),
    ({'train.accumulate': 0}, 'train.accumulate=0'),
    ({'train.accumulate': 4}, 'accumulate=2: must be a positive multiple of the 4 devices'),
    ({'model.norm_groups': 3}, 'norm_groups=3: must divide the 8 people'),
    ({'model.norm_groups': 0}, 'norm_groups=0: must be positive'),
  ],
)
def test_parts_that_do_not_divide_the_batch(tmp_path, changes, message):
  config = tiny_people.config()
  config.update_from_flattened_dict(changes)
  with pytest.raises(errors.ConfigError, match=message):
    train.train_and_evaluate(config, tmp_path / 'run')
