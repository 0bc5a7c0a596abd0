"""Checkpoint files of the supported codebases, and files that are not checkpoints."""

import pathlib
import sys

import numpy as np
import pytest

import mrpose_jax
from mrpose_jax import errors

torch = pytest.importorskip('torch')
from benchmarks import torch_networks  # noqa: E402, which needs torch


@pytest.fixture(scope='module')
def network():
  torch.manual_seed(0)
  return torch_networks.Network('simple_baseline', 18, 5, width=4)


@pytest.fixture(scope='module')
def model():
  return mrpose_jax.create_model('simple_baseline', depth=18, num_keypoints=5, width=4)


def check(path, network, model):
  """Asserts that import and export return the file's tensors bit for bit."""
  back = mrpose_jax.export_torch_weights(mrpose_jax.import_torch_weights(path, model), model)
  for name, value in network.state_dict().items():
    if not name.endswith('num_batches_tracked'):
      np.testing.assert_array_equal(back[name], value.numpy())


def test_bare_state_dict(network, model, tmp_path):
  torch.save(network.state_dict(), tmp_path / 'pose.pth')
  check(tmp_path / 'pose.pth', network, model)


def test_training_checkpoint(network, model, tmp_path):
  """The released code saves the best score as a NumPy number, and the optimiser's state."""
  adam = torch.optim.Adam(network.parameters())
  content = {
    'epoch': 140,
    'model': 'pose_resnet',
    'state_dict': {f'module.{name}': value for name, value in network.state_dict().items()},
    'perf': np.float64(0.7),
    'best_perf': np.float32(0.7),
    'optimizer': adam.state_dict(),
  }
  torch.save(content, tmp_path / 'checkpoint.pth.tar')
  check(tmp_path / 'checkpoint.pth.tar', network, model)


@pytest.mark.parametrize('head', ['keypoint_head', 'head'])
def test_mmpose_checkpoint(network, model, tmp_path, head):
  def rename(name):
    in_head = name.startswith(('deconv_layers', 'final_layer'))
    return f'{head if in_head else "backbone"}.{name}'

  tensors = {rename(name): value for name, value in network.state_dict().items()}
  content = {'meta': {'epoch': 210, 'mmpose_version': '1.3'}, 'state_dict': tensors}
  torch.save(content, tmp_path / 'mmpose.pth')
  check(tmp_path / 'mmpose.pth', network, model)


def test_half_precision_is_converted(network, model, tmp_path):
  half = {name: value.half() for name, value in network.state_dict().items()}
  torch.save(half, tmp_path / 'half.pth')
  back = mrpose_jax.import_torch_weights(tmp_path / 'half.pth', model)
  kernel = back['params']['encoder']['stem_conv']['kernel']
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), half['conv1.weight'].float().numpy())


def test_values_that_are_not_finite_are_named(network, model):
  tensors = {name: value.numpy().copy() for name, value in network.state_dict().items()}
  tensors['bn1.bias'][2] = np.nan
  with pytest.raises(errors.CheckpointError, match=r'1 with values that are not finite: bn1\.bias'):
    mrpose_jax.import_torch_weights(tensors, model)


class Malicious:
  """Unpickling it would create a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(model, tmp_path):
  torch.save({'state_dict': Malicious(tmp_path / 'ran')}, tmp_path / 'bad.pth')
  with pytest.raises(errors.CheckpointError, match='code in it is never run'):
    mrpose_jax.import_torch_weights(tmp_path / 'bad.pth', model)
  assert not (tmp_path / 'ran').exists()


def test_other_files(network, model, tmp_path):
  torch.save(network.state_dict(), tmp_path / 'whole.pth')
  whole = (tmp_path / 'whole.pth').read_bytes()
  (tmp_path / 'cut.pth').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'text.pth').write_text('not weights')
  torch.save([1, 2], tmp_path / 'list.pth')
  for name, message in (
    ('cut.pth', 'cannot read it'),
    ('text.pth', 'cannot read it'),
    ('list.pth', 'holds no state dict but a list'),
  ):
    with pytest.raises(errors.CheckpointError, match=message):
      mrpose_jax.import_torch_weights(tmp_path / name, model)


def test_without_torch_the_line_says_how_to_install_it(model, tmp_path, monkeypatch):
  (tmp_path / 'pose.pth').write_bytes(b'x')
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(errors.CheckpointError, match=r"pip install 'mrpose_jax\[torch\]'"):
    mrpose_jax.import_torch_weights(tmp_path / 'pose.pth', model)


@pytest.mark.parametrize('name', ['mrheatnet2', 'mrfeanet1'])
def test_new_head_starts_only_the_keypoint_layers_afresh(name, caplog):
  """K = 4 is also the width of the stem, whose layers must be kept."""
  torch.manual_seed(0)
  source = torch_networks.Network(name, 18, 5, width=4)
  model = mrpose_jax.create_model(name, depth=18, num_keypoints=4, width=4)
  tensors = {key: value.numpy().copy() for key, value in source.state_dict().items()}
  with caplog.at_level('INFO', 'mrpose_jax'):
    variables = mrpose_jax.import_torch_weights(tensors, model, new_head=True)
  back = mrpose_jax.export_torch_weights(variables, model)
  fresh = {key for key in back if not np.array_equal(back[key], tensors[key])}
  expected = {key for key in back if key.startswith(('final_layer', 's_'))}
  assert fresh == expected
  assert f'{len(expected)} tensors start fresh' in caplog.text
