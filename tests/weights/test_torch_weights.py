"""Import and export of a tiny network's weights; models/test_networks.py has golden heatmaps."""

import jax
import numpy as np
import pytest

import mrpose_jax
from mrpose_jax import errors
from mrpose_jax.models import decoders

torch_free = pytest.importorskip('safetensors.numpy')


def tiny(network='mrheatnet1', num_keypoints=3):
  return mrpose_jax.create_model(network, depth=18, num_keypoints=num_keypoints, width=4)


def tensors(model, seed=0):
  r = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
  )
  variables = jax.tree.map(lambda x: r.standard_normal(x.shape).astype(np.float32), shapes)
  return mrpose_jax.export_torch_weights(variables, model), variables


@pytest.mark.parametrize('network', decoders.DECODERS)
def test_round_trip_is_bitwise(network):
  model = tiny(network)
  state_dict, variables = tensors(model)
  back = mrpose_jax.import_torch_weights(state_dict, model)
  assert jax.tree.structure(back) == jax.tree.structure(variables)
  for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(variables)):
    np.testing.assert_array_equal(got, want)
  again = mrpose_jax.export_torch_weights(back, model)
  assert again.keys() == state_dict.keys()
  assert all(np.array_equal(again[name], state_dict[name]) for name in again)


def test_names_are_the_released_ones():
  names = set(tensors(tiny('mrheatnet2'))[0])
  assert {'conv1.weight', 'layer2.0.downsample.1.running_var', 'layer4.1.conv2.weight'} <= names
  assert {'deconv1.0.weight', 's_conv1.0.bias', 's_deconv12.weight', 'final_layer.bias'} <= names


def test_safetensors_and_prefixes(tmp_path):
  model = tiny('simple_baseline')
  state_dict, _ = tensors(model)
  wrapped = {f'module.{name}': np.ascontiguousarray(x) for name, x in state_dict.items()}
  wrapped['module.bn1.num_batches_tracked'] = np.array(7)
  path = tmp_path / 'weights.safetensors'
  torch_free.save_file(wrapped, path)
  back = mrpose_jax.export_torch_weights(mrpose_jax.import_torch_weights(path, model), model)
  assert all(np.array_equal(back[name], state_dict[name]) for name in state_dict)


def test_all_differences_stand_in_one_error():
  model = tiny()
  state_dict, _ = tensors(model)
  del state_dict['conv1.weight'], state_dict['s_conv2.1.bias']
  state_dict['extra.weight'] = np.zeros(2)
  state_dict['final_layer.bias'] = np.zeros(5)
  with pytest.raises(errors.CheckpointError) as caught:
    mrpose_jax.import_torch_weights(state_dict, model)
  message = str(caught.value)
  assert '2 missing in the file: conv1.weight, s_conv2.1.bias' in message
  assert '1 left over in the file: extra.weight' in message
  assert 'final_layer.bias is [5], the network expects [3]' in message


def test_another_k_is_asked_for_by_name():
  state_dict, _ = tensors(tiny('mrfeanet2', num_keypoints=3))
  model = tiny('mrfeanet2', num_keypoints=5)
  with pytest.raises(errors.CheckpointError, match='of another shape'):
    mrpose_jax.import_torch_weights(state_dict, model)
  variables = mrpose_jax.import_torch_weights(state_dict, model, new_head=True)
  back = mrpose_jax.export_torch_weights(variables, model)
  assert back['final_layer.weight'].shape == (5, 4, 1, 1)
  np.testing.assert_array_equal(back['layer1.0.conv1.weight'], state_dict['layer1.0.conv1.weight'])


def test_an_imagenet_classifier_leaves_the_decoder_fresh():
  model = tiny('mrfeanet1')
  state_dict, _ = tensors(model)
  encoder = {n: x for n, x in state_dict.items() if n.startswith(('conv1.', 'bn1.', 'layer'))}
  encoder |= {'fc.weight': np.zeros((1000, 32)), 'fc.bias': np.zeros(1000)}
  variables = mrpose_jax.import_torch_weights(encoder, model)
  back = mrpose_jax.export_torch_weights(variables, model)
  assert all(np.array_equal(back[name], state_dict[name]) for name in encoder if 'fc' not in name)
  assert np.abs(back['deconv11.0.weight']).max() < 0.01  # N(0, 0.001)


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(errors.CheckpointError, match='no such weights file'):
    mrpose_jax.import_torch_weights(tmp_path / 'absent.pth', tiny())
  (tmp_path / 'bad.safetensors').write_bytes(b'not weights')
  with pytest.raises(errors.CheckpointError, match=r'not a readable \.safetensors'):
    mrpose_jax.import_torch_weights(tmp_path / 'bad.safetensors', tiny())
