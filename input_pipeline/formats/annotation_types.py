"""The validated annotations of one split, which the readers of all formats return.

All coordinates are 0-based and in pixels of the image file.
"""

import collections
import dataclasses

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
  """

  skeleton: skeletons.Skeleton
  images: list[ImageEntry]
  dropped: collections.Counter
  test_set: bool = False

  @property
  def num_people(self) -> int:
    return sum(len(image.people) for image in self.images)
