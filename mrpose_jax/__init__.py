"""Top-down human pose estimation in JAX: multi-resolution representation learning."""

import importlib
import importlib.util
import pathlib
import sys

# Installed, input_pipeline/ lies inside this package. In a checkout it lies beside it, and these
# lines make it the subpackage mrpose_jax.input_pipeline.
if not (pathlib.Path(__file__).parent / 'input_pipeline').exists():
  _spec = importlib.util.spec_from_file_location(
    'mrpose_jax.input_pipeline', pathlib.Path(__file__).parents[1] / 'input_pipeline/__init__.py'
  )
  input_pipeline = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
  _spec.loader.exec_module(input_pipeline)

from mrpose_jax.codecs import Codec as Codec
from mrpose_jax.codecs import flip_heatmaps as flip_heatmaps
from mrpose_jax.losses import keypoint_mse_loss as keypoint_mse_loss
from mrpose_jax.models.pose_network import create_model as create_model
from mrpose_jax.version import __version__ as __version__
from mrpose_jax.weights.torch_files import export_torch_weights as export_torch_weights
from mrpose_jax.weights.torch_files import import_torch_weights as import_torch_weights

# These import Orbax, pycocotools and Pillow, which takes a second, so they load on first use.
_LAZY = {
  'Predictor': 'predictors',
  'load_detector': 'inference.detectors',
  'load_predictor': 'predictors',
  'to_coco': 'inference.conversions',
  'to_frame': 'inference.conversions',
  'to_supervision': 'inference.conversions',
}


def __getattr__(name):
  if name in _LAZY:
    return getattr(importlib.import_module(f'mrpose_jax.{_LAZY[name]}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted([*globals(), *_LAZY])
