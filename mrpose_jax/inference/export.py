"""--mode=export: writes a trained network to one file that runs without this project.

The file is a serialized `jax.export.Exported` (StableHLO that contains the weights) for CPU, CUDA
and TPU. It accepts any number of images, image size and number of people:

  import pathlib
  import jax.export
  import numpy as np
  function = jax.export.deserialize(bytearray(pathlib.Path('pose.stablehlo').read_bytes()))
  people = function.call(images, boxes)

`images`, `boxes` and `people` are described in `predict.make_predict_fn`.
"""

import os
import pathlib

import jax
import jax.export
from jax import numpy as jnp

from mrpose_jax import errors
from mrpose_jax import predictors

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(workdir: str | os.PathLike, output: str | os.PathLike):
  """Writes a training run's best checkpoint, or the one named by `workdir`, to a file.

  Raises:
    CheckpointError: `workdir` holds no usable checkpoint.
    ConfigError: the file cannot be written.
  """
  predictor = predictors.load_predictor(workdir)
  content = exported(predictor).serialize()
  output = pathlib.Path(output).expanduser()
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(content)
  except OSError as error:
    raise errors.ConfigError(f'--output={output}: cannot be written ({error.strerror})') from error
  k = predictor.skeleton.num_keypoints
  print(f'{output}: {len(content) / 1e6:.1f} MB, step {predictor.step}, {", ".join(PLATFORMS)}')
  print(f'uint8 [n, h, w, 3], float32 [n, m, 4] x, y, width, height -> float32 [n, m, {k}, 3]')
  print(f'keypoints: {", ".join(predictor.skeleton.keypoints)}')


def exported(predictor: predictors.Predictor) -> jax.export.Exported:
  """Exports the predictor's `predict_fn` together with its variables."""

  def predict_people(images, boxes):
    return predictor.predict_fn(predictor.variables, images, boxes)

  n, m, height, width = jax.export.symbolic_shape('n, m, h, w')
  images = jax.ShapeDtypeStruct((n, height, width, 3), jnp.uint8)
  boxes = jax.ShapeDtypeStruct((n, m, 4), jnp.float32)
  return jax.export.export(jax.jit(predict_people), platforms=PLATFORMS)(images, boxes)
