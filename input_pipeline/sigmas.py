"""Estimates the OKS sigmas of keypoints from images that were annotated twice.

  python -m mrpose_jax.input_pipeline.sigmas twice.json
  python -m mrpose_jax.input_pipeline.sigmas anna.json ben.json

Each FILE is in COCO's format. In a single file, the same object has two annotations on an image; of
several files, each holds the annotations of one annotator for the same images, which are recognised
by their file names. Two annotations belong to one object if their boxes overlap by an IoU of at
least --iou, the best overlap first.

The sigma of keypoint i follows from sigma_i^2 = E[d_i^2 / s^2], as for COCO's keypoints
(https://cocodataset.org/#keypoints-eval): d_i is the distance between the two annotations of the
keypoint, and s^2 the area of the object, here the mean of its two annotations.

Exit codes: 0 done, 2 wrong flags, 3 files that cannot be used, or too few pairs.
"""

import itertools
from typing import NamedTuple

import numpy as np
from absl import flags

from mrpose_jax import command_line
from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax import tables
from mrpose_jax.input_pipeline.formats import annotation_types
from mrpose_jax.input_pipeline.formats import coco_json

# The standard error of a sigma from n pairs is about 1 / (2 sqrt(n)) of it: a sixth for 10 pairs.
FEWEST_PAIRS = 10


class Estimate(NamedTuple):
  """OKS sigmas of K keypoints, and the numbers that they come from.

  Attributes:
    skeleton: names the keypoints.
    sigmas: [K]; NaN without pairs.
    counts: [K] number of pairs in which both annotations label the keypoint.
    num_pairs: number of objects that were annotated twice.
    num_single: number of annotations without a partner.
  """

  skeleton: skeletons.Skeleton
  sigmas: np.ndarray
  counts: np.ndarray
  num_pairs: int
  num_single: int


def estimate(files, iou: float = 0.5) -> Estimate:
  """Estimates the sigmas.

  Args:
    files: paths of COCO files: one in which objects are annotated twice, or one per annotator.
    iou: smallest intersection over union of the boxes of two annotations of one object.

  Raises:
    DataError: a file cannot be read, or the files differ in their keypoints.
  """
  annotations = [coco_json.read(file) for file in files]
  skeleton = annotations[0].skeleton
  for file, other in zip(files[1:], annotations[1:]):
    if set(other.skeleton.keypoints) != set(skeleton.keypoints):
      raise errors.DataError(
        f'{file}: its keypoints are {", ".join(other.skeleton.keypoints)}, but those of {files[0]} '
        f'are {", ".join(skeleton.keypoints)}'
      )
  annotations = [other.with_skeleton(skeleton) for other in annotations]
  by_image = [
    {image.file_name: image.people for image in other.images if image.people}
    for other in annotations
  ]
  pairs, matched = [], set()
  if len(files) == 1:
    for people in by_image[0].values():
      pairs += match(people, people, iou)
  for first, second in itertools.combinations(by_image, 2):
    for name in first.keys() & second.keys():
      pairs += match(first[name], second[name], iou)
  for pair in pairs:
    matched |= {id(person) for person in pair}
  everyone = sum(len(people) for images in by_image for people in images.values())
  squares, counts = np.zeros(skeleton.num_keypoints), np.zeros(skeleton.num_keypoints, int)
  for first, second in pairs:
    labelled = (first.visible > 0) & (second.visible > 0)
    offset = first.keypoints.astype(np.float64) - second.keypoints
    area = (float(first.area) + float(second.area)) / 2
    squares += np.where(labelled, np.square(offset).sum(-1) / area, 0)
    counts += labelled
  sigmas = np.sqrt(np.where(counts > 0, squares / np.maximum(counts, 1), np.nan))
  return Estimate(skeleton, sigmas, counts, len(pairs), everyone - len(matched))


def match(first, second, iou: float) -> list[tuple]:
  """Pairs of annotations of one object on an image, the best overlap first.

  Args:
    first, second: two lists of people, or the same list twice for pairs within it.
    iou: smallest intersection over union of the boxes.
  """
  if first is second:
    candidates = itertools.combinations(range(len(first)), 2)
  else:
    candidates = itertools.product(range(len(first)), range(len(second)))
  ranked = sorted(
    ((_overlap(first[i], second[j]), i, j) for i, j in candidates), key=lambda row: -row[0]
  )
  pairs, used = [], (set(), set()) if first is not second else (set(),) * 2
  for overlap, i, j in ranked:
    if overlap >= iou and i not in used[0] and j not in used[1]:
      used[0].add(i)
      used[1].add(j)
      pairs.append((first[i], second[j]))
  return pairs


def _overlap(first: annotation_types.Person, second: annotation_types.Person) -> float:
  """Intersection over union of two boxes."""
  low = np.maximum(first.box[:2], second.box[:2])
  high = np.minimum(first.box[:2] + first.box[2:], second.box[:2] + second.box[2:])
  intersection = float(np.maximum(high - low, 0).prod())
  return intersection / float(first.box[2:].prod() + second.box[2:].prod() - intersection)


def check(found: Estimate, files):
  """Raises DataError if a keypoint has fewer than FEWEST_PAIRS pairs, or only equal ones."""
  where = ', '.join(map(str, files))
  few = [
    f'{name} {count}'
    for name, count in zip(found.skeleton.keypoints, found.counts)
    if count < FEWEST_PAIRS
  ]
  if not found.num_pairs:
    raise errors.DataError(
      f'{where}: no object is annotated twice; give one file with two annotations of each object, '
      'or the files of two annotators with the same images, or lower --iou'
    )
  if few:
    raise errors.DataError(
      f'{where}: {found.num_pairs} objects are annotated twice, which is too few: at least '
      f'{FEWEST_PAIRS} pairs of each keypoint are needed, but there are {", ".join(few)}'
    )
  equal = [name for name, sigma in zip(found.skeleton.keypoints, found.sigmas) if sigma == 0]
  if equal:
    raise errors.DataError(
      f'{where}: the two annotations of {", ".join(equal)} are equal everywhere; one of them must '
      'not be a copy of the other'
    )


def report(found: Estimate) -> str:
  """A table with a row for each keypoint, and the lines to paste."""
  names = found.skeleton.keypoints
  rows = [
    [name, str(count), f'{sigma:.3f}', f'{sigma / (2 * np.sqrt(count)):.3f}']
    for name, count, sigma in zip(names, found.counts, found.sigmas)
  ]
  sigmas = ', '.join(f'{sigma:.3g}' for sigma in found.sigmas)
  return '\n'.join(
    [
      f'{found.num_pairs} objects are annotated twice; {found.num_single} annotations have no '
      'partner',
      tables.markdown_lines(['keypoint', 'pairs', 'sigma', '+-'], rows),
      'in the category of the annotation file:',
      f'  "sigmas": [{sigmas}]',
      'or, without preparing again:',
      f"  '--config.data.sigmas=({sigmas},)'",
    ]
  )


def define_flags():
  """Defines the flags of the command. Importing this module defines none."""
  flags.DEFINE_float(
    'iou',
    0.5,
    'Smallest overlap (intersection over union) of the boxes of two annotations of one object.',
    lower_bound=0.01,
    upper_bound=1.0,
  )


def main(files: list[str]):
  if not files:
    raise errors.ConfigError(
      'no files: use python -m mrpose_jax.input_pipeline.sigmas FILE..., where one FILE holds two '
      'annotations of each object, or each FILE holds those of one annotator'
    )
  found = estimate(files, flags.FLAGS.iou)
  check(found, files)
  print(report(found))


if __name__ == '__main__':
  define_flags()
  command_line.run(main)
