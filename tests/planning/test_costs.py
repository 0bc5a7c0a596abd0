"""Costs of training steps and predictions, as counts that are the same on every machine.

No test measures time. Operations and types are read from the program before XLA compiles it,
all-reduces from a tiny network compiled for four CPU devices.
"""

import functools
import math
import re

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from jax import numpy as jnp

import mrpose_jax
from mrpose_jax.cpu import door
from mrpose_jax.models import layers
from mrpose_jax.planning import compiled
from mrpose_jax.runtime import compilation
from mrpose_jax.runtime import parallel

N, HEIGHT, WIDTH = 2, 256, 192
STRIDED = [[f'stage{i}_block1', 'conv2'] for i in (2, 3, 4)]


def loss_of(model, params, batch_stats, images):
  heatmaps, updated = model.apply(
    {'params': params, 'batch_stats': batch_stats}, images, train=True, mutable=['batch_stats']
  )
  return jnp.square(heatmaps).mean(), updated['batch_stats']


def trace(model, variables, images):
  gradient = jax.jit(jax.value_and_grad(functools.partial(loss_of, model), has_aux=True))
  return gradient.trace(variables['params'], variables['batch_stats'], images)


def shapes(network, **options):
  model = mrpose_jax.create_model(network, depth=50, **options)
  images = jax.ShapeDtypeStruct((N, HEIGHT, WIDTH, 3), np.float32)
  init = functools.partial(model.init, train=False)
  return model, jax.eval_shape(init, jax.random.key(0), images), images


def analytic_flops(model, variables, images):
  """FLOPs of all convolutions: two per weight and pixel, in the forward pass and both gradients.

  The stem has no gradient with respect to the images. Taps that lie in the padding do not count.
  """

  def outputs(variables, images):
    _, captured = model.apply(
      variables,
      images,
      train=False,
      capture_intermediates=lambda module, _: isinstance(
        module, nn.Conv | nn.ConvTranspose | layers.HeatmapHead
      ),
      mutable=['intermediates'],
    )
    return captured['intermediates']

  layer_outputs = traverse_util.flatten_dict(jax.eval_shape(outputs, variables, images))
  kernels = traverse_util.flatten_dict(variables['params'])
  total = 0
  for (*path, _), (output,) in layer_outputs.items():
    n, *size, _ = output.shape
    taps, _, *channels = kernels[*path, 'kernel'].shape
    if taps == 4:  # a transposed convolution: counted as the convolution of its output
      stride, size = 2, [length // 2 for length in size]
    else:
      stride = 1 + (path[-1] == 'stem_conv' or path[-2:] in STRIDED)
    flops = (2 if path[-1] == 'stem_conv' else 3) * 2 * n * math.prod(channels)
    total += flops * math.prod(taps_inside(length, taps, stride) for length in size)
  return total


def taps_inside(length, taps, stride):
  """Number of pairs of an output pixel and a tap, along an axis, with the tap inside the image."""
  inputs = stride * np.arange(length)[:, None] + np.arange(taps) - (taps - 1) // 2
  return int(((inputs >= 0) & (inputs < stride * length)).sum())


@pytest.mark.parametrize('network', ['simple_baseline', 'mrheatnet1', 'mrfeanet1', 'mrfeanet2'])
def test_a_step_of_resnet50_does_the_arithmetic_of_its_convolutions(network):
  """Up to 3 % more, for batch norm and the rest. XLA does not count taps in the padding."""
  model, variables, images = shapes(network)
  lowered = trace(model, variables, images).lower(lowering_platforms=('tpu',))
  expected = analytic_flops(model, variables, images)
  assert expected <= lowered.cost_analysis()['flops'] <= 1.03 * expected


@pytest.mark.parametrize('network', ['simple_baseline', 'mrfeanet2'])
def test_gradients_on_a_cpu_do_less_arithmetic(network):
  """Gradients of most 3x3 convolutions need half the products, of deconvolutions five eighths."""
  model, variables, images = shapes(network)
  expected = analytic_flops(model, variables, images)
  gradient = jax.value_and_grad(functools.partial(loss_of, model), has_aux=True)
  lowered = compilation.jit(gradient).lower(variables['params'], variables['batch_stats'], images)
  assert lowered.cost_analysis()['flops'] < 0.97 * expected


def test_predictions_on_a_cpu_do_less_arithmetic():
  """Most 3x3 convolutions need half the products, most deconvolutions five eighths."""
  model, variables, images = shapes('simple_baseline')
  kernels = jax.eval_shape(functools.partial(door.prepare_kernels, model), variables)
  apply = functools.partial(model.apply, train=False)
  plain = jax.jit(apply).lower(variables, images)
  predict = door.jit_prediction(apply, kernels, variables)
  opened = predict.func.lower(*predict.args, images)
  assert opened.cost_analysis()['flops'] < 0.85 * plain.cost_analysis()['flops']


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('train', [False, True])
def test_accelerators_have_plain_convolutions_alone(platform, train):
  """They contain no choice of forms, no loop, and one matrix product per head and pass.

  Other 1x1 convolutions stay convolutions: as matrix products they would cost a TPU's training step
  a tenth more traffic.
  """
  model, variables, images = shapes('mrfeanet2')
  function = jax.jit(functools.partial(model.apply, train=False)).trace(variables, images)
  function = trace(model, variables, images) if train else function
  text = function.lower(lowering_platforms=(platform,)).as_text()
  assert not re.findall('stablehlo.(?:case|while|if)', text)
  assert text.count('stablehlo.dot_general') == (3 if train else 1)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_in_bfloat16_no_convolution_computes_in_float32(platform):
  model, variables, images = shapes('mrfeanet2', dtype='bfloat16')
  text = trace(model, variables, images).lower(lowering_platforms=(platform,)).as_text()
  operands = re.findall(r'stablehlo\.(?:convolution|dot_general).*: \((.*)\) ->', text)
  assert len(operands) > 150
  assert not [types for types in operands if 'f32' in types.replace('bf16', '')]


@pytest.mark.parametrize('precision', ['default', 'highest'])
def test_every_product_of_a_step_has_the_precision(precision):
  """On a TPU, 'default' computes float32 convolutions with bfloat16 products."""
  model, variables, images = shapes('mrheatnet2', precision=precision)
  text = trace(model, variables, images).lower(lowering_platforms=('tpu',)).as_text()
  products = re.findall(r'stablehlo\.(?:convolution|dot_general).*', text)
  assert len(products) > 150
  other = {'default': 'HIGHEST', 'highest': 'DEFAULT'}[precision]
  assert not [product for product in products if other in product]
  assert precision == 'default' or all('HIGHEST' in product for product in products)


def test_all_reduces_and_traffic_of_a_step():
  """All-reduces: each batch norm's statistics at most once per direction, the gradients once.

  Traffic depends on XLA's version, so the limit allows a tenth more.
  """
  model = mrpose_jax.create_model('simple_baseline', depth=18, num_keypoints=3, width=4)
  mesh = parallel.data_mesh()
  everywhere, split = parallel.replicated(mesh), parallel.batched(mesh)
  images = jax.ShapeDtypeStruct((8, 64, 64, 3), np.float32, sharding=split)
  init = functools.partial(model.init, train=False)
  variables = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
    jax.eval_shape(init, jax.random.key(0), images),
  )
  program = compiled.measure(trace(model, variables, images).lower())
  norms = len(jax.tree.leaves(variables['batch_stats'])) // 2
  parameter_bytes = sum(4 * p.size for p in jax.tree.leaves(variables['params']))
  ((kind, number, size),) = program.collectives
  assert kind == 'all-reduce'
  assert number <= 2 * norms
  assert size < 1.05 * parameter_bytes
  assert program.traffic < 24e6  # 21.6e6 with JAX 0.10.2, 21.9e6 with 0.12.0
