"""Person detectors, which supply the bounding boxes when the user gives none.

`load` makes one from an ONNX file. It returns boxes float32 [N, 4] (x, y, width, height in pixels)
and scores float32 [N], sorted by descending score. Any other function as in
`mrpose_jax.box_inputs` also works.
"""

from mrpose_jax import box_inputs
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax.inference import onnx_detectors

KINDS = ('yolox', 'rtmdet')


def load_detector(detector: str | box_inputs.Detector) -> box_inputs.Detector:
  """Returns the detector named by --detector; a function is returned as it is.

  Args:
    detector: FILE.onnx, of a kind that `onnx_detectors` recognises; rtmdet:FILE.onnx for an RTMDet
      from MMDeploy, whose file looks like that of a YOLOX; rtmlib:lightweight, rtmlib:balanced or
      rtmlib:performance for the YOLOX that rtmlib (pip install rtmlib) downloads; or a function.

  Raises:
    ConfigError: the name is none of these, or a package is not installed.
    CheckpointError: onnxruntime cannot read the file, or the file is not a known detector.
  """
  if callable(detector):
    return detector
  if '://' in detector:
    paths.parse_local(detector, '--detector')
  prefix, _, rest = detector.rpartition(':')
  if prefix == 'rtmlib':
    return onnx_detectors.OnnxDetector(_download(rest))
  if prefix not in ('', *KINDS):
    raise errors.ConfigError(
      f'--detector={detector}: unknown kind {prefix!r}; use FILE.onnx, rtmdet:FILE.onnx or '
      'rtmlib:balanced'
    )
  return onnx_detectors.OnnxDetector(rest, rtmdet=prefix == 'rtmdet')


def _download(mode):
  """Returns the path of rtmlib's person detector, which rtmlib downloads once."""
  try:
    import rtmlib
    import rtmlib.tools.file
  except ImportError as error:
    raise errors.ConfigError(
      f'--detector=rtmlib:{mode} needs rtmlib; pip install rtmlib, or name an ONNX file'
    ) from error
  if mode not in rtmlib.Body.MODE:
    raise errors.ConfigError(
      f'--detector=rtmlib:{mode}: use one of {", ".join(sorted(rtmlib.Body.MODE))}'
    )
  try:
    return rtmlib.tools.file.download_checkpoint(rtmlib.Body.MODE[mode]['det'])
  except OSError as error:
    reason = onnx_detectors.brief(error)
    raise errors.ConfigError(
      f'--detector=rtmlib:{mode}: cannot be downloaded ({reason}); name an ONNX file'
    ) from error
