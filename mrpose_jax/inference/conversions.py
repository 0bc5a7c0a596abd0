"""Conversions of a `Predictor`'s output to the formats of other tools.

`people` is float32 [N, K, 3] (x, y, score) for one image, or a list of such arrays, one per image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrpose_jax import skeletons

if TYPE_CHECKING:
  import pandas
  import supervision


def to_coco(
  people: np.ndarray | Sequence[np.ndarray],
  image_ids: int | Sequence[int],
  category_id: int = 1,
) -> list[dict]:
  """Converts people to COCO's result format, one row per person.

  A person's score is the mean of their keypoint scores.

  Args:
    people: see the module's docstring.
    image_ids: id of the image, or a list with one id per image.
    category_id: COCO category id; 1 is a person.

  Raises:
    ValueError: the number of ids differs from the number of images.

  >>> to_coco(np.ones((1, 2, 3), np.float32), 7)
  [{'image_id': 7, 'category_id': 1, 'keypoints': [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 'score': 1.0}]
  """
  ids = np.ravel(image_ids).tolist()
  images = _images(people)
  if len(ids) != len(images):
    raise ValueError(f'{len(images)} images and {len(ids)} image_ids')
  return [
    {
      'image_id': image_id,
      'category_id': category_id,
      'keypoints': person.ravel().tolist(),
      'score': float(person[:, 2].mean()),
    }
    for image_id, image_people in zip(ids, images)
    for person in image_people
  ]


def to_supervision(people: np.ndarray) -> 'supervision.KeyPoints':
  """Converts the people of one image for Roboflow's supervision (pip install supervision)."""
  import supervision

  return supervision.KeyPoints(
    xy=np.ascontiguousarray(people[..., :2]),
    keypoint_confidence=np.ascontiguousarray(people[..., 2]),
    class_id=np.zeros(len(people), int),
  )


def to_frame(
  people: np.ndarray | Sequence[np.ndarray], skeleton: skeletons.Skeleton
) -> 'pandas.DataFrame':
  """Returns a pandas table with one row per keypoint.

  Its columns are image, person (both are indices from 0), keypoint (its name), x, y and score.

  >>> to_frame(np.ones((2, 17, 3), np.float32), skeletons.COCO).query('keypoint == "nose"')
      image  person keypoint    x    y  score
  0       0       0     nose  1.0  1.0    1.0
  17      0       1     nose  1.0  1.0    1.0
  """
  import pandas

  images = _images(people)
  counts = np.array([len(image_people) for image_people in images], int)
  k = skeleton.num_keypoints
  numbers = np.concatenate([np.zeros((0, k, 3), np.float32), *images]).reshape(-1, 3)
  columns = {
    'image': np.repeat(np.arange(len(images)), counts * k),
    'person': np.repeat(np.concatenate([np.arange(0), *map(np.arange, counts)]), k),
    'keypoint': np.tile(np.array(skeleton.keypoints, object), counts.sum()),
  }
  return pandas.DataFrame(columns | dict(zip(('x', 'y', 'score'), numbers.T)))


def _images(people):
  """Returns a list with one array [N, K, 3] per image."""
  return list(people) if isinstance(people, list | tuple) else [np.asarray(people)]
