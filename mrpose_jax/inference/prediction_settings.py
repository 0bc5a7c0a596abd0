"""Settings that predictions on folders of images, videos and streams share."""

import dataclasses
import logging
import os
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np

from mrpose_jax import box_inputs
from mrpose_jax import errors
from mrpose_jax.inference import detectors

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Where the boxes of people come from, and what happens to the people.

  Without boxes and detector, each whole image is taken as the bounding box of one person.

  Attributes:
    boxes: file of boxes, see `detection_files`.
    detector: name of a person detector, or a function, see `detectors.load_detector`.
    box_threshold: boxes of the file with a lower score are left out.
    batch_size: number of people in a batch; by default the run's `eval.batch_size`.
    track: videos only: people have identities over the frames.
    smooth: videos only: keypoints are smoothed over time, which includes `track`.

  Raises:
    ConfigError: both boxes and a detector are given.
  """

  boxes: str | os.PathLike | None = None
  detector: str | box_inputs.Detector | None = None
  box_threshold: float = 0.0
  batch_size: int | None = None
  track: bool = False
  smooth: bool = False

  def __post_init__(self):
    if self.boxes is not None and self.detector is not None:
      raise errors.ConfigError('--boxes and --detector: give one of the two')

  def box_finder(self, listed: Mapping | None) -> Callable[[object, np.ndarray], np.ndarray]:
    """Returns the function (name of an image, image) -> boxes float32 [N, 4] xywh.

    Args:
      listed: boxes by the name of the image, read from the file of boxes; None without this file.

    Raises:
      ConfigError, CheckpointError: see `detectors.load_detector`.
    """
    if listed is not None:
      return lambda name, image: listed.get(name, np.zeros((0, 4), np.float32))
    if self.detector is None:
      log.warning('no --boxes and no --detector: each whole image is taken for one person')
      return lambda name, image: box_inputs.to_xywh(None, image)
    detect = detectors.load_detector(self.detector)
    return lambda name, image: box_inputs.to_xywh(detect, image)


DEFAULT = Settings()
