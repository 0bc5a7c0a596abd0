"""--mode=export: writes a trained network to one file that runs without this project.

The suffix of its name decides: FILE.onnx is an ONNX model of the network, see `onnx_export`, and
FILE.stablehlo is a serialized `jax.export.Exported` (StableHLO that contains the weights) for CPU,
CUDA and TPU. It accepts any number of images, image size and number of people:

  import pathlib
  import jax.export
  import numpy as np
  function = jax.export.deserialize(bytearray(pathlib.Path('pose.stablehlo').read_bytes()))
  people = function.call(images, boxes)

`images`, `boxes` and `people` are described in `predict.make_predict_fn`.
"""

import os

import jax
import jax.export
from jax import numpy as jnp

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import predictors

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(workdir: str | os.PathLike, output: str | os.PathLike, decode: bool = False):
  """Writes a trained network to a file, and prints its inputs and outputs.

  Args:
    workdir: see `predictors.load_predictor`.
    output: FILE.onnx or FILE.stablehlo; a name without a suffix becomes a StableHLO program.
    decode: for ONNX, give keypoints rather than heatmaps; a StableHLO program always does.

  Raises:
    CheckpointError: `workdir` holds no usable checkpoint.
    ConfigError: another suffix, a package is missing, the network or its decoding cannot be
      written in this form, or the file cannot be written.
  """
  output = paths.parse_local(output, '--output', written=True)
  suffix = output.suffix or '.stablehlo'
  if suffix not in _WRITERS:
    raise errors.ConfigError(
      f'--output={output}: the name has to end in {" or ".join(_WRITERS)}, which selects the format'
    )
  if decode and suffix != '.onnx':
    raise errors.ConfigError('--export_decode is for .onnx; a .stablehlo program always decodes')
  content, description = _WRITERS[suffix](predictors.load_predictor(workdir), decode)
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(content)
  except OSError as error:
    raise errors.ConfigError(f'--output={output}: cannot be written ({error.strerror})') from error
  print(f'{output}: {len(content) / 1e6:.1f} MB, {description}')


def _stablehlo(predictor, decode):
  del decode  # always inside
  k = predictor.skeleton.num_keypoints
  return exported(predictor).serialize(), (
    f'step {predictor.step}, {predictor.config.model.dtype}, {", ".join(PLATFORMS)}\n'
    f'uint8 [n, h, w, 3], float32 [n, m, 4] x, y, width, height -> float32 [n, m, {k}, 3]\n'
    f'keypoints: {", ".join(predictor.skeleton.keypoints)}'
  )


def _onnx(predictor, decode):
  try:
    from mrpose_jax.inference import onnx_export
  except ImportError as error:
    raise errors.ConfigError(
      "--output: writing .onnx needs a package; pip install 'mrpose_jax[onnx]'"
    ) from error
  model = onnx_export.to_onnx(predictor, decode)
  return model.SerializeToString(), (
    f'step {predictor.step}, opset {model.opset_import[0].version}\n'
    f'{onnx_export.signature(model)}\n'
    f'keypoints: {", ".join(predictor.skeleton.keypoints)}'
  )


def exported(predictor: predictors.Predictor) -> jax.export.Exported:
  """Exports the predictor's `predict_fn` together with its variables."""

  def predict_people(images, boxes):
    return predictor.predict_fn(predictor.variables, images, boxes)

  n, m, height, width = jax.export.symbolic_shape('n, m, h, w')
  images = jax.ShapeDtypeStruct((n, height, width, 3), jnp.uint8)
  boxes = jax.ShapeDtypeStruct((n, m, 4), jnp.float32)
  return jax.export.export(jax.jit(predict_people), platforms=PLATFORMS)(images, boxes)


_WRITERS = {'.onnx': _onnx, '.stablehlo': _stablehlo}
