"""Skeletons of the data sets: keypoint names, mirror pairs, limbs and OKS sigmas."""

import dataclasses
import functools
import logging
import re

import numpy as np

from mrpose_jax import errors

log = logging.getLogger(__name__)

# Mean of COCO's 17 OKS sigmas. Where a data set gives none, duplicates of a detected person are
# found with it; there is no AP then, because AP depends on the sigmas.
ESTIMATED_SIGMA = 0.067
# What follows where no flip pair is known, and what to do.
NO_PAIRS = (
  'mirroring (augment.flip) and the flip test (eval.flip_test) are off unless the configuration '
  'sets them, which is right only if mirroring moves no keypoint to the place of another one; name '
  'the pairs as flip_pairs in the category or in data.flip_pairs'
)


@dataclasses.dataclass(frozen=True)
class Skeleton:
  """The keypoints of one kind of object; indices below are positions in `keypoints`.

  Attributes:
    name: 'coco', 'mpii', or the category's name in a data set of your own.
    keypoints: K names, in the order of the annotations.
    flip_pairs: pairs that mirroring an image swaps.
    limbs: pairs that pictures join by a line.
    sigmas: K per-keypoint standard deviations of human annotators, as a fraction of the object's
      scale (COCO's OKS uses k_i = 2 sigma_i); empty where they are not known.
  """

  name: str
  keypoints: tuple[str, ...]
  flip_pairs: tuple[tuple[int, int], ...]
  limbs: tuple[tuple[int, int], ...]
  sigmas: tuple[float, ...] = ()

  @property
  def num_keypoints(self) -> int:
    return len(self.keypoints)

  @property
  def suppression_sigmas(self) -> tuple[float, ...]:
    """The sigmas by which duplicates are recognised; ESTIMATED_SIGMA where they are not known."""
    return self.sigmas or (ESTIMATED_SIGMA,) * self.num_keypoints

  def mirroring(self, setting, default):
    """Returns a setting of mirroring; where it is None, the default, or 0 without flip pairs."""
    if setting is not None:
      return setting
    return default if self.flip_pairs else type(default)(0)

  def lower_body(self) -> tuple[bool, ...]:
    """Whether each keypoint belongs to the lower half of a body: hips and what lies below."""
    return tuple(bool(_LOWER_BODY.search(name.lower())) for name in self.keypoints)

  def side(self, keypoint: int) -> str:
    """'left', 'right' or 'middle', from the names of the keypoint and of its partner."""
    return self._sides[keypoint]

  @functools.cached_property
  def _sides(self):
    sides = ['middle'] * self.num_keypoints
    for left, right in mirror_pairs(self.keypoints):
      sides[left], sides[right] = 'left', 'right'
    for keypoint, name in enumerate(self.keypoints):
      for word in reversed(_words(name)):
        if word in _OTHER_SIDE:
          sides[keypoint] = 'left' if word[0] == 'l' else 'right'
    return sides


def flip_order(flip_pairs, num_keypoints: int) -> np.ndarray:
  """Indices [K]: keypoint k of the mirrored image is keypoint flip_order[k] of the image."""
  order = np.arange(num_keypoints)
  for left, right in flip_pairs:
    order[left], order[right] = right, left
  return order


def mirror_pairs(names) -> tuple[tuple[int, int], ...]:
  """Pairs (left, right) of names that differ only in their side.

  A name's side is one of its words, left or right, or l or r, whatever separates the words. In a
  name without such a word it is a word's beginning or end: left or right, as in `leftear`, if the
  name of the other side exists, so that `upright` and `cleft` have none; or l or r, as in `lhip`,
  if at least two pairs of names differ in this way, so that `lump` and `rump` are no pair.

  >>> mirror_pairs(['nose', 'left_ear', 'right_ear', 'RearPawR', 'RearPawL', 'lefteye', 'righteye'])
  ((1, 2), (4, 3), (5, 6))
  """
  index = {_words(name): i for i, name in enumerate(names)}
  pairs = []
  for sides, at_least in _SIDES:
    paired = {i for pair in pairs for i in pair}
    found = {}  # left: right
    for words, i in index.items():
      for mirrored in _exchanged(words, sides):
        j = index.get(mirrored)
        if j is not None and not {i, j} & paired:
          found[i] = j
          paired |= {i, j}
    if len(found) >= at_least:
      pairs += found.items()
  return tuple(sorted(pairs))


_LOWER_BODY = re.compile('hip|pelvis|knee|ankle|foot|feet|heel|toe')
_OTHER_SIDE = {'left': 'right', 'right': 'left', 'l': 'r', 'r': 'l'}
# Where a name may hold the side left, from the most to the least certain place, and how many pairs
# must differ there.
_SIDES = (
  (re.compile('^(left|l)$'), 1),
  (re.compile('^left|left$'), 1),
  (re.compile('^l|l$'), 2),
)


def _exchanged(words, sides):
  """Yields the words of a left name as names of the other side would have them."""
  for position, word in enumerate(words):
    for match in sides.finditer(word):
      other = word[: match.start()] + _OTHER_SIDE[match[0]] + word[match.end() :]
      yield *words[:position], other, *words[position + 1 :]


def _words(name: str) -> tuple[str, ...]:
  """Splits a name into lower-case words: 'L_FrontPaw2' -> ('l', 'front', 'paw', '2')."""
  words = re.findall(r'[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+', name)
  return tuple(word.lower() for word in words)


def from_dict(fields: dict) -> Skeleton:
  """Inverse of dataclasses.asdict, also after a round trip through JSON."""
  return Skeleton(
    name=fields['name'],
    keypoints=tuple(fields['keypoints']),
    flip_pairs=tuple(tuple(pair) for pair in fields['flip_pairs']),
    limbs=tuple(tuple(limb) for limb in fields['limbs']),
    sigmas=_without_assumed(fields['sigmas']),
  )


def _without_assumed(sigmas) -> tuple[float, ...]:
  """The sigmas; () if all are ESTIMATED_SIGMA, which older versions stored if none were given."""
  return () if set(sigmas) == {ESTIMATED_SIGMA} else tuple(sigmas)


def from_category(category: dict, where: str) -> Skeleton:
  """Reads a COCO category: its `keypoints` names and its 1-based `skeleton` pairs.

  The official person category becomes `COCO`, with its sigmas. Other categories may give `sigmas`,
  K numbers, and `flip_pairs`, pairs of names. By default the flip pairs are derived from the names
  and there are no sigmas; `log_assumptions` says so.

  Raises:
    DataError: the category names no keypoints or names one twice, or limbs, flip pairs or sigmas do
      not match them.
  """
  names = category.get('keypoints')
  if not names:
    raise errors.DataError(
      f'{where}: category {category.get("name")!r} lists no keypoints; '
      'use the keypoint annotations (person_keypoints_*.json), not the instances file'
    )
  texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
  if not texts or len(set(names)) < len(names):
    raise errors.DataError(f'{where}: keypoints of {category["name"]!r}: each needs a unique name')
  try:
    ''.join((*names, str(category['name']))).encode()
  except UnicodeEncodeError as error:  # JSON can spell half a character
    raise errors.DataError(
      f'{where}: category {category["name"]!r}: a name of {names} is no valid text'
    ) from error
  names = tuple(names)
  if names == COCO.keypoints:
    return COCO
  try:
    limbs = tuple((int(a) - 1, int(b) - 1) for a, b in category.get('skeleton') or ())
  except (OverflowError, TypeError, ValueError) as error:
    raise errors.DataError(
      f'{where}: skeleton of {category["name"]!r}: pairs of keypoint numbers are needed'
    ) from error
  if any(not 0 <= i < len(names) for limb in limbs for i in limb):
    raise errors.DataError(
      f'{where}: skeleton of {category["name"]!r} names a keypoint beyond {len(names)}'
    )
  skeleton = Skeleton(str(category['name']), names, mirror_pairs(names), limbs)
  try:
    skeleton = change(skeleton, category.get('flip_pairs') or (), category.get('sigmas') or ())
  except ValueError as error:
    raise errors.DataError(f'{where}: category {skeleton.name!r}: {error}') from error
  return dataclasses.replace(skeleton, sigmas=_without_assumed(skeleton.sigmas))


def log_assumptions(skeleton: Skeleton, where):
  """Logs the flip pairs and what `from_category` assumed, for skeletons other than COCO and MPII.

  Args:
    skeleton: from `from_category`.
    where: the annotation file, which begins each line.
  """
  if skeleton in (COCO, MPII):
    return
  names = skeleton.keypoints
  if skeleton.flip_pairs:
    log.info('%s: flip pairs of %r: %s', where, skeleton.name, named_pairs(skeleton))
  else:
    log.warning('%s: flip pairs of %r: none; %s', where, skeleton.name, NO_PAIRS)
  paired = {i for pair in skeleton.flip_pairs for i in pair}
  unpaired = [
    name
    for i, name in enumerate(names)
    if i not in paired and (skeleton.side(i) != 'middle' or re.search('left|right', name.lower()))
  ]
  if unpaired:
    log.warning(
      '%s: keypoints without a mirror partner, which mirroring does not exchange: %s',
      *(where, ', '.join(unpaired)),
    )
  if not skeleton.sigmas:
    log.warning(
      '%s: %r gives no OKS sigmas, so there is no AP: the metrics are PCK@0.2 and EPE by default; '
      'python -m mrpose_jax.input_pipeline.sigmas estimates sigmas from images annotated twice',
      *(where, skeleton.name),
    )


def named_pairs(skeleton: Skeleton) -> str:
  """The flip pairs by name, e.g. 'left_ear - right_ear, left_eye - right_eye'."""
  names = skeleton.keypoints
  return ', '.join(f'{names[left]} - {names[right]}' for left, right in skeleton.flip_pairs)


def change(skeleton: Skeleton, flip_pairs=(), sigmas=()) -> Skeleton:
  """Returns the skeleton with other flip pairs, given by names, and sigmas; () keeps the old ones.

  Raises:
    ValueError: a name is unknown or in two pairs, or `sigmas` are not K positive numbers.
  """
  if flip_pairs:
    try:
      names = [name for pair in flip_pairs for name in pair]
      pairs = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in flip_pairs)
      pairs = pairs and len(set(names)) == len(names)
    except TypeError:
      pairs = False
    if not pairs:
      raise ValueError(f'flip_pairs {flip_pairs!r:.200}: pairs of names are needed, each name once')
    unknown = [name for name in names if name not in skeleton.keypoints]
    if unknown:
      raise ValueError(
        f'flip_pairs: there is no keypoint {unknown[0]!r:.60} ({", ".join(skeleton.keypoints)})'
      )
    indices = tuple(tuple(skeleton.keypoints.index(name) for name in pair) for pair in flip_pairs)
    skeleton = dataclasses.replace(skeleton, flip_pairs=indices)
  if sigmas:
    try:
      numbers = np.array(sigmas, np.float64)
    except (OverflowError, TypeError, ValueError) as error:
      raise ValueError(f'sigmas {sigmas!r:.200} are not numbers') from error
    if numbers.shape != (skeleton.num_keypoints,) or not (
      (numbers > 0).all() and np.isfinite(numbers).all()
    ):
      count = skeleton.num_keypoints
      raise ValueError(f'sigmas {sigmas!r:.200}: {count} positive numbers are needed')
    skeleton = dataclasses.replace(skeleton, sigmas=tuple(numbers.tolist()))
  return skeleton


def match(skeleton: Skeleton, other: Skeleton, synonyms=()) -> tuple[int, ...]:
  """Returns the position of each of a skeleton's keypoints in another skeleton, by their names.

  Args:
    skeleton: K keypoints.
    other: the skeleton whose keypoints are looked up.
    synonyms: groups of names that mean the same keypoint.

  Returns:
    K positions in `other.keypoints`; -1 where it has no such keypoint.

  Raises:
    ValueError: `synonyms` are not groups of names, or two keypoints of a skeleton mean the same.

  >>> match(MPII, COCO)[:8]
  (16, 14, 12, 11, 13, 15, -1, -1)
  """
  groups = all(isinstance(group, list | tuple) and len(group) > 1 for group in synonyms)
  names = [name for group in synonyms for name in group] if groups else []
  texts = groups and all(isinstance(name, str) for name in names)
  if not texts or len(set(names)) < len(names):
    raise ValueError(f'synonyms {synonyms!r:.200}: groups of names are needed, each name once')
  first = {name: group[0] for group in synonyms for name in group}
  ours, theirs = {}, {}  # positions by meaning
  for part, positions in ((skeleton, ours), (other, theirs)):
    for position, name in enumerate(part.keypoints):
      earlier = positions.setdefault(first.get(name, name), position)
      if earlier != position:
        raise ValueError(
          f'synonyms: {part.keypoints[earlier]} and {name} are both keypoints of {part.name!r}'
        )
  return tuple(theirs.get(meaning, -1) for meaning in ours)


# Limbs are those of the person category in COCO's annotations; sigmas are pycocotools'
# kpt_oks_sigmas.
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
