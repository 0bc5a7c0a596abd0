"""The validated annotations of one split, which the readers of all formats return.

All coordinates are 0-based and in pixels of the image file.
"""

import collections
import dataclasses
import hashlib
import math

import numpy as np

from mrpose_jax import skeletons


@dataclasses.dataclass(frozen=True)
class Person:
  """One annotated person.

  Attributes:
    id: id of the annotation.
    box: [4] x, y, width, height; crops are made from it.
    area: area of the person's segment, in square pixels.
    keypoints: [K, 2] float32 xy; zero where not labelled.
    visible: [K] int32; 0 not labelled, 1 labelled but hidden, 2 visible.
  """

  id: int
  box: np.ndarray
  area: float
  keypoints: np.ndarray
  visible: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageEntry:
  """One image and its people.

  Attributes:
    id: id of the image.
    file_name: path relative to the image folder, which it never leaves.
    people: the annotated people.
    size: width, height in pixels; None if the annotation file does not give them.
  """

  id: int
  file_name: str
  people: list[Person]
  size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
  """The annotations of one split.

  Attributes:
    skeleton: skeleton of all people.
    images: all images, with or without people.
    dropped: number of annotations left out, by reason.
    test_set: whether the keypoints are unpublished.
    categories: name of each category of COCO's files that the people have, by id.
    rows: what COCO's evaluation counts, from `coco_row`: people, crowds and people without labelled
      keypoints, in the order of the file.
  """

  skeleton: skeletons.Skeleton
  images: list[ImageEntry]
  dropped: collections.Counter
  test_set: bool = False
  categories: dict[int, str] = dataclasses.field(default_factory=lambda: {1: 'person'})
  rows: list[dict] = dataclasses.field(default_factory=list)

  @property
  def num_people(self) -> int:
    return sum(len(image.people) for image in self.images)

  def with_skeleton(self, skeleton: skeletons.Skeleton) -> 'Annotations':
    """Returns the annotations with the keypoints in the order of a skeleton of the same names."""
    order = [self.skeleton.keypoints.index(name) for name in skeleton.keypoints]
    images = [
      dataclasses.replace(
        image,
        people=[
          dataclasses.replace(p, keypoints=p.keypoints[order], visible=p.visible[order])
          for p in image.people
        ],
      )
      for image in self.images
    ]
    rows = [
      row | {'keypoints': row['keypoints'].reshape(-1, 3)[order].reshape(-1)} for row in self.rows
    ]
    return dataclasses.replace(self, skeleton=skeleton, images=images, rows=rows)

  def part(self, start: float, stop: float) -> 'Annotations':
    """Returns the images of a part of the file, from a fraction to another one in 0..1.

    The images are ranked by a hash of their names, so that a part depends neither on their order
    in the file nor on chance.
    """
    ranked = sorted(
      self.images, key=lambda image: hashlib.sha256(image.file_name.encode()).digest()
    )
    first, last = (math.ceil(fraction * len(ranked)) for fraction in (start, stop))
    chosen = {image.id for image in ranked[first:last]}
    return dataclasses.replace(
      self,
      images=[image for image in self.images if image.id in chosen],
      rows=[row for row in self.rows if row['image_id'] in chosen],
    )

  def left_out(self) -> str:
    """Returns the numbers of annotations left out with their reasons, '' if there are none."""
    return ', '.join(f'{n} {reason}' for reason, n in sorted(self.dropped.items()))


def coco_row(number, image_id, category_id, box, area, crowd, keypoints) -> dict:
  """Returns an annotation with exactly the fields that COCO's evaluation reads.

  Args:
    number, image_id, category_id: ids.
    box: 4 numbers x, y, width, height.
    area: in square pixels.
    crowd: whether predictions for it are neither correct nor false.
    keypoints: [3K] x, y, visibility of each keypoint.
  """
  return {
    'id': number,
    'image_id': image_id,
    'category_id': category_id,
    'bbox': [float(value) for value in box],
    'area': float(area),
    'iscrowd': int(crowd),
    'num_keypoints': int((keypoints[2::3] > 0).sum()),
    'keypoints': keypoints,
  }
