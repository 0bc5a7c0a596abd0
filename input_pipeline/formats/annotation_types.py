"""Validated people of one split, as every format is read.

Every coordinate is 0-based and in pixels of the image file.
"""

import collections
import dataclasses

import numpy as np

from mrpose_jax import skeletons


@dataclasses.dataclass(frozen=True)
class Person:
  """One annotated person.

  Attributes:
    id: of the annotation.
    box: [4] x, y, width, height; the one that crops are made from.
    area: of the person's segment, in square pixels.
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
    id: of the image.
    file_name: relative to the image folder; stays inside it.
    people: the annotated ones.
    size: width, height in pixels, where the file tells.
  """

  id: int
  file_name: str
  people: list[Person]
  size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
  """A split of a data set.

  Attributes:
    skeleton: of its people.
    images: all of them, with people or without.
    dropped: number of annotations left out, by reason.
    test_set: whether its keypoints are not published.
  """

  skeleton: skeletons.Skeleton
  images: list[ImageEntry]
  dropped: collections.Counter
  test_set: bool = False

  @property
  def num_people(self) -> int:
    return sum(len(image.people) for image in self.images)
