"""What a data set calls a person: keypoint names, mirror pairs, limbs and OKS sigmas."""

import dataclasses
import re

import numpy as np

from mrpose_jax import errors


@dataclasses.dataclass(frozen=True)
class Skeleton:
  """The keypoints of one kind of object; indices below are positions in `keypoints`.

  Attributes:
    name: 'coco', 'mpii', or the category's name in a data set of your own.
    keypoints: K names, in the order of the annotations.
    flip_pairs: pairs that change places when an image is mirrored.
    limbs: pairs to join with a line in pictures.
    sigmas: K per-keypoint standard deviations of human annotators, as a fraction of the object's
      scale (COCO's OKS uses k_i = 2 sigma_i); empty where OKS is not defined.
  """

  name: str
  keypoints: tuple[str, ...]
  flip_pairs: tuple[tuple[int, int], ...]
  limbs: tuple[tuple[int, int], ...]
  sigmas: tuple[float, ...] = ()

  @property
  def num_keypoints(self) -> int:
    return len(self.keypoints)

  def side(self, keypoint: int) -> str:
    """'left', 'right' or 'middle', from the keypoint's name."""
    found = re.match(r'(left|right|l|r)[ _-]', self.keypoints[keypoint].lower())
    return {'l': 'left', 'r': 'right'}[found[1][0]] if found else 'middle'


def flip_order(flip_pairs, num_keypoints: int) -> np.ndarray:
  """[K] index: keypoint k of the mirrored image is keypoint flip_order[k] of the image."""
  order = np.arange(num_keypoints)
  for left, right in flip_pairs:
    order[left], order[right] = right, left
  return order


def mirror_pairs(names) -> tuple[tuple[int, int], ...]:
  """Pairs of names that differ only in a leading left/right (or l/r)."""
  index = {name.lower(): i for i, name in enumerate(names)}
  pairs = []
  for left, right in (('left', 'right'), ('l', 'r')):
    for name, i in index.items():
      found = re.match(rf'{left}([ _-].+)', name)
      if found and right + found[1] in index:
        pairs.append((i, index[right + found[1]]))
  return tuple(sorted(pairs))


def from_dict(fields: dict) -> Skeleton:
  """The inverse of dataclasses.asdict, also after a way through JSON."""
  return Skeleton(
    name=fields['name'],
    keypoints=tuple(fields['keypoints']),
    flip_pairs=tuple(tuple(pair) for pair in fields['flip_pairs']),
    limbs=tuple(tuple(limb) for limb in fields['limbs']),
    sigmas=tuple(fields['sigmas']),
  )


def from_category(category: dict, where: str) -> Skeleton:
  """Reads a COCO category: its `keypoints` names and its 1-based `skeleton` pairs.

  The official person category becomes `COCO`, with its sigmas. Other categories get mirror pairs
  from their left/right names and no sigmas.

  Raises:
    DataError: the category names no keypoints, or a limb names a keypoint that is not there.
  """
  names = tuple(category.get('keypoints') or ())
  if not names:
    raise errors.DataError(
      f'{where}: category {category.get("name")!r} lists no keypoints; '
      'use the keypoint annotations (person_keypoints_*.json), not the instances file'
    )
  if names == COCO.keypoints:
    return COCO
  limbs = tuple((int(a) - 1, int(b) - 1) for a, b in category.get('skeleton') or ())
  if any(not 0 <= i < len(names) for limb in limbs for i in limb):
    raise errors.DataError(
      f'{where}: skeleton of {category["name"]!r} names a keypoint beyond {len(names)}'
    )
  return Skeleton(str(category['name']), names, mirror_pairs(names), limbs)


# Limbs as in the annotation files' person category; sigmas are pycocotools' kpt_oks_sigmas.
_COCO_LIMBS = (
  (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
  (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
_COCO_SIGMAS = (
  0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087,
  0.087, 0.089, 0.089,
)  # fmt: skip
_MPII_LIMBS = (
  (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12),
  (12, 7), (7, 13), (13, 14), (14, 15),
)  # fmt: skip

COCO = Skeleton(
  name='coco',
  keypoints=(
    'nose',
    'left_eye',
    'right_eye',
    'left_ear',
    'right_ear',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
    'left_wrist',
    'right_wrist',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_ankle',
    'right_ankle',
  ),
  flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
  limbs=_COCO_LIMBS,
  sigmas=_COCO_SIGMAS,
)

MPII = Skeleton(
  name='mpii',
  keypoints=(
    'right_ankle',
    'right_knee',
    'right_hip',
    'left_hip',
    'left_knee',
    'left_ankle',
    'pelvis',
    'thorax',
    'upper_neck',
    'head_top',
    'right_wrist',
    'right_elbow',
    'right_shoulder',
    'left_shoulder',
    'left_elbow',
    'left_wrist',
  ),
  flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
  limbs=_MPII_LIMBS,
)
