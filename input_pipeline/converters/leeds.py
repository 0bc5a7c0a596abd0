"""Reads joints.mat of Leeds Sports Pose (LSP) and its extended training set (LSPET)."""

import pathlib
import re

import numpy as np

from mrpose_jax import errors
from mrpose_jax.input_pipeline.converters import foreign
from mrpose_jax.input_pipeline.formats import checks

KEYPOINTS = (
  'right_ankle',
  'right_knee',
  'right_hip',
  'left_hip',
  'left_knee',
  'left_ankle',
  'right_wrist',
  'right_elbow',
  'right_shoulder',
  'left_shoulder',
  'left_elbow',
  'left_wrist',
  'neck',
  'head_top',
)
# Limbs from 1, as in COCO's categories.
LIMBS = (
  (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (7, 8), (8, 9), (9, 10), (10, 11), (11, 12), (9, 13),
  (10, 13), (13, 14),
)  # fmt: skip


def read(path: pathlib.Path, images: pathlib.Path | None = None) -> foreign.ForeignData:
  """Reads the array `joints` of the people in images im0001.jpg, im0002.jpg, ...

  LSP's array is [3, 14, N], with positions for all joints and a third number that is 1 for hidden
  ones. LSPET's array is [14, 3, N], and its third number is 1 for labelled joints. Positions count
  from 1, as in MATLAB. Each image shows one person. The names left and right mean what the file
  means: the person's own sides (person-centric, the usual form), or the viewer's
  (observer-centric); an image's annotation does not tell one from the other.

  Args:
    path: the .mat file.
    images: folder of the images; None for images/ beside the file, or else the file's folder.

  Raises:
    DataError: the file or an image cannot be used; all problems are counted and the first few
      named.
  """
  joints = np.asarray(foreign.read_mat(path, 'joints'))
  if joints.dtype.kind not in 'iuf' or joints.shape[:2] not in ((3, 14), (14, 3)):
    raise errors.DataError(
      f'{path}: {joints.dtype} joints of shape {joints.shape}, not 3 x 14 x N or 14 x 3 x N'
    )
  if joints.shape[0] == 3:
    joints = joints.transpose(2, 1, 0)  # [N, 14, 3]
    visible = np.where(joints[..., 2] > 0, 1, 2)
  else:
    joints = joints.transpose(2, 0, 1)
    visible = np.where(joints[..., 2] > 0, 2, 0)
  folder = images or foreign.beside(path)
  numbers = {
    int(match[1]): file
    for file in folder.iterdir()
    if (match := re.fullmatch(r'im(\d+)\.(?:jpg|png)', file.name))
  }
  found, problems = [], []
  for n, (points, flags) in enumerate(zip(joints, visible), start=1):
    if not np.isfinite(points).all():
      problems.append(f'person {n}: a joint is not finite')
    elif n not in numbers:
      problems.append(f'person {n}: there is no image im{n:04}.jpg or im{n:05}.jpg in {folder}')
    elif size := foreign.image_size(numbers[n], problems):
      keypoints = np.column_stack([points[:, :2] - 1, flags])
      people = [foreign.ForeignPerson(keypoints)] if flags.any() else []
      found.append(foreign.ForeignImage(numbers[n], size, people))
  checks.raise_problems(path, problems)
  category = {'name': 'person', 'keypoints': list(KEYPOINTS), 'skeleton': LIMBS}
  return foreign.ForeignData(category, {1: 'person'}, found)
