"""Imports and exports PyTorch checkpoints, with one table of names and one layout rule.

The released networks, SimpleBaseline and torchvision use the same names in the encoder. One
transposition serves all 4-d tensors: [out, in, h, w] of a convolution becomes [h, w, in, out], and
[in, out, h, w] of a transposed one becomes [h, w, out, in] (`transpose_kernel` in layers.py).
"""

import collections.abc
import logging
import pathlib
import re

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax.models import pose_network

log = logging.getLogger(__name__)

# Flax module path -> PyTorch module name; `{a*g-b}` stands for a times group g minus b.
_ENCODER = (
  (r'encoder/stem_conv', 'conv1'),
  (r'encoder/stem_norm', 'bn1'),
  (r'encoder/stage(\d)_block(\d+)/conv(\d)', 'layer{0}.{1-1}.conv{2}'),
  (r'encoder/stage(\d)_block(\d+)/norm(\d)', 'layer{0}.{1-1}.bn{2}'),
  (r'encoder/stage(\d)_block(\d+)/shortcut_conv', 'layer{0}.{1-1}.downsample.0'),
  (r'encoder/stage(\d)_block(\d+)/shortcut_norm', 'layer{0}.{1-1}.downsample.1'),
)
_HEAD = ((r'decoder/head', 'final_layer'),)
_HEATNET = (
  (r'decoder/up(\d)/conv', 'deconv{0}.0'),
  (r'decoder/up(\d)/norm', 'deconv{0}.1'),
  (r'decoder/low_side_conv', 's_conv1.0'),
  (r'decoder/low_side_norm', 's_conv1.1'),
  (r'decoder/middle_side_conv', 's_conv2.0'),
  (r'decoder/middle_side_norm', 's_conv2.1'),
  (r'decoder/low_up/conv', 's_deconv1.0'),
  (r'decoder/low_up/norm', 's_deconv1.1'),
  (r'decoder/middle_deconv', 's_deconv2'),
  (r'decoder/low_deconv', 's_deconv12'),
)
_FEANET = (
  (r'decoder/c5_up(\d)/conv', 'deconv1{0}.0'),
  (r'decoder/c5_up(\d)/norm', 'deconv1{0}.1'),
  (r'decoder/c4_up(\d)/conv', 'deconv2{0}.0'),
  (r'decoder/c4_up(\d)/norm', 'deconv2{0}.1'),
  (r'decoder/c3_up1/conv', 'deconv3.0'),
  (r'decoder/c3_up1/norm', 'deconv3.1'),
)
_DECODERS = {
  'simple_baseline': (
    (r'decoder/up(\d)/conv', 'deconv_layers.{3*0-3}'),
    (r'decoder/up(\d)/norm', 'deconv_layers.{3*0-2}'),
  ),
  'mrheatnet1': _HEATNET,
  'mrheatnet2': _HEATNET,
  'mrfeanet1': _FEANET,
  'mrfeanet2': _FEANET,
}
_LEAVES = {
  ('params', 'kernel'): 'weight',
  ('params', 'scale'): 'weight',
  ('params', 'bias'): 'bias',
  ('batch_stats', 'mean'): 'running_mean',
  ('batch_stats', 'var'): 'running_var',
}
# Matches the Flax layers with a keypoint dimension.
_KEYPOINT_LAYERS = r'/decoder/(head|low_|middle_)'
# Prefixes in the checkpoints of other codebases, removed in this order.
_FOREIGN_PREFIXES = (
  r'^module\.',
  r'^backbone\.',  # MMPose
  r'^(keypoint_head|head)\.(?=deconv_layers|final_layer)',  # MMPose before and since 1.0
)
_NOT_WEIGHTS = (r'\.num_batches_tracked$', r'^fc\.(weight|bias)$')


def import_torch_weights(source, model: pose_network.PoseNetwork, new_head: bool = False) -> dict:
  """Converts a PyTorch checkpoint to variables of `model`.

  Supports this paper's and SimpleBaseline's released checkpoints (bare state dicts, or training
  checkpoints that hold one under 'state_dict'; with or without 'module.'), MMPose's ResNet with a
  heatmap head, and torchvision's ImageNet ResNets, whose classifier is dropped, while the decoder
  is initialised anew. No code in a file is executed.

  Args:
    source: path of a .pth, .pth.tar or .safetensors file, or a mapping from name to array.
    model: from `create_model`.
    new_head: initialise layers with a keypoint dimension anew if their shapes do not fit, to train
      for another K; these layers are logged.

  Returns:
    {'params': ..., 'batch_stats': ...} of numpy float32 arrays.

  Raises:
    CheckpointError: tensors are missing, left over, of another shape or not finite (all are
      listed), or the file cannot be read.
  """
  origin = str(source) if isinstance(source, (str, pathlib.Path)) else 'the given mapping'
  tensors = _plain_names(read(source))
  names = _torch_names(model)
  shapes = traverse_util.flatten_dict(_shapes(model), sep='/')
  is_classifier = not any(_is_decoder(name) for name in tensors)

  arrays, fresh, missing, misshapen, not_finite = {}, [], [], [], []
  for path, name in names.items():
    tensor = tensors.pop(name, None)
    if is_classifier and path.split('/')[1] == 'decoder':
      fresh.append(path)
    elif new_head and re.search(_KEYPOINT_LAYERS, path) and not _fits(tensor, shapes[path]):
      fresh.append(path)
    elif tensor is None:
      missing.append(name)
    elif not _fits(tensor, shapes[path]):
      expected = _torch_shape(shapes[path].shape)
      misshapen.append(f'{name} is {list(np.shape(tensor))}, the network expects {list(expected)}')
    else:
      arrays[path] = _to_flax_layout(tensor)
      if not np.isfinite(arrays[path]).all():
        not_finite.append(name)
  if missing or misshapen or not_finite or tensors:
    raise errors.CheckpointError(
      f'{origin} does not fit {model.network} on ResNet-{model.depth} with '
      f'K = {model.num_keypoints}: '
      + '; '.join(
        f'{len(tensor_names)} {problem}: {_abbreviated(tensor_names)}'
        for problem, tensor_names in (
          ('missing in the file', sorted(missing)),
          ('left over in the file', sorted(tensors)),
          ('of another shape', misshapen),
          ('with values that are not finite', not_finite),
        )
        if tensor_names
      )
    )
  if fresh:
    log.info('%s: %d tensors start fresh: %s', origin, len(fresh), _abbreviated(sorted(fresh)))
    initial = traverse_util.flatten_dict(_initial(model), sep='/')
    arrays |= {path: np.asarray(initial[path]) for path in fresh}
  return traverse_util.unflatten_dict({path: arrays[path] for path in names}, sep='/')


def export_torch_weights(variables, model: pose_network.PoseNetwork) -> dict[str, np.ndarray]:
  """Converts variables to the released code's state dict; the exact inverse of the import.

  Args:
    variables: {'params': ..., 'batch_stats': ...} of `model`.
    model: from `create_model`.

  Returns:
    Dict from name to float32 array in PyTorch's layout.
  """
  flat = traverse_util.flatten_dict(
    {name: variables[name] for name in ('params', 'batch_stats')}, sep='/'
  )
  return {
    name: np.ascontiguousarray(_to_torch_layout(np.asarray(flat[path])))
    for path, name in _torch_names(model).items()
  }


def _torch_names(model) -> dict[str, str]:
  """Maps the model's 'collection/module/.../leaf' to names in the state dict."""
  table = _ENCODER + _DECODERS[model.network] + _HEAD
  names = {}
  for path in traverse_util.flatten_dict(_shapes(model), sep='/'):
    collection, module = path.split('/', 1)
    module, leaf = module.rsplit('/', 1)
    for pattern, name in table:
      match = re.fullmatch(pattern, module)
      if match:
        names[path] = f'{_filled(name, match.groups())}.{_LEAVES[collection, leaf]}'
        break
    else:
      raise KeyError(f'no PyTorch name for {path}')
  return names


def _filled(name, groups):
  """Fills in fields of a name: '{3*0-2}' is three times the first group, minus two."""

  def value(field):
    factor, group, shift = field.groups()
    return str(int(factor or 1) * int(groups[int(group)]) + int(shift or 0))

  return re.sub(r'\{(?:(\d)\*)?(\d)(-\d)?\}', value, name)


def _shapes(model):
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)


def _initial(model):
  return jax.jit(
    lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), False)
  )()


def _fits(tensor, shape):
  return tensor is not None and _to_flax_layout(tensor).shape == shape.shape


def _to_flax_layout(tensor):
  tensor = np.asarray(tensor, np.float32)
  return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _to_torch_layout(array):
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _torch_shape(shape):
  return tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else tuple(shape)


def _is_decoder(name):
  return re.match(r'(s_)?(de)?conv\w*\.|deconv_layers\.|final_layer\.', name) and not re.match(
    r'conv1\.', name
  )


def _plain_names(tensors):
  plain = {}
  for name, tensor in tensors.items():
    for prefix in _FOREIGN_PREFIXES:
      name = re.sub(prefix, '', name)
    if not any(re.search(pattern, name) for pattern in _NOT_WEIGHTS):
      plain[name] = tensor
  return plain


def channel_order_of(tensors: dict) -> str:
  """Channel order that the network of this state dict was trained on, 'bgr' or 'rgb'.

  SimpleBaseline's and this paper's code read images with OpenCV and leave them in BGR order, which
  they normalise with RGB statistics; MMPose and torchvision use RGB.
  """
  mmpose = any('backbone.' in name for name in tensors)
  return 'bgr' if any(_is_decoder(name) for name in _plain_names(tensors)) and not mmpose else 'rgb'


def read(source) -> dict:
  """Reads the tensors of a weights file under its own names; returns a mapping unchanged.

  Raises:
    CheckpointError: the file is missing, or does not hold plain weights.
  """
  if isinstance(source, collections.abc.Mapping):
    return dict(source)
  path = paths.parse_local(source)
  if not path.is_file():
    raise errors.CheckpointError(f'{path}: there is no such weights file')
  reader = _read_safetensors if path.suffix == '.safetensors' else _read_pickle
  return reader(path)


def _read_safetensors(path):
  try:
    return safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise errors.CheckpointError(f'{path}: not a readable .safetensors file ({error})') from error


def _read_pickle(path):
  try:
    import torch
  except ImportError as error:
    raise errors.CheckpointError(
      f"{path}: reading PyTorch files needs torch; pip install 'mrpose_jax[torch]'"
    ) from error
  try:
    with torch.serialization.safe_globals(_plain_numpy()):
      content = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # torch raises many types for files that are not plain weights
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise errors.CheckpointError(
      f'{path}: torch cannot read it as plain weights, and code in it is never run ({reason})'
    ) from error
  if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
    content = content['state_dict']
  if not isinstance(content, dict):
    raise errors.CheckpointError(f'{path}: holds no state dict but a {type(content).__name__}')
  return {
    name: value.float().numpy()
    for name, value in content.items()
    if isinstance(value, torch.Tensor)
  }


def _plain_numpy():
  """Names in a pickled NumPy number; training checkpoints hold their best score as one."""
  scalar = np.float64(0).__reduce__()[0]
  dtypes = [type(np.dtype(name)) for name in ('float64', 'float32', 'int64')]
  return [scalar, (scalar, 'numpy.core.multiarray.scalar'), np.dtype, *dtypes]


def _abbreviated(names, limit=8):
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(names[:limit]) + more
