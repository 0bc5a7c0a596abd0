"""Top-down human pose estimation in JAX: multi-resolution representation learning."""

from mrpose_jax.codec import Codec as Codec
from mrpose_jax.codec import flip_heatmaps as flip_heatmaps
from mrpose_jax.losses import keypoint_mse_loss as keypoint_mse_loss
from mrpose_jax.models.pose_network import create_model as create_model
from mrpose_jax.torch_weights import export_torch_weights as export_torch_weights
from mrpose_jax.torch_weights import import_torch_weights as import_torch_weights


def __getattr__(name):
  """`load_predictor` brings Orbax along, which takes a second to import; so only when asked for."""
  if name == 'load_predictor':
    from mrpose_jax import predict

    return predict.load_predictor
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
