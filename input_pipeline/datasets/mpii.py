"""MPII human pose, in the JSON form that the PyTorch codes share."""

from input_pipeline.datasets import pose_builder
from input_pipeline.formats import mpii


class Mpii(pose_builder.PoseBuilder):
  """annot/{set}.json, images/, and annot/gt_{set}.mat for PCKh where there is one."""

  name = 'mpii'
  read = staticmethod(mpii.read)


def find_split(source, image_set: str) -> pose_builder.Split:
  """The files of one set, e.g. 'valid', below the data set's folder."""
  return pose_builder.Split(
    annotation_file=source / 'annot' / f'{image_set}.json',
    image_folder=source / 'images',
    keep=(source / 'annot' / f'gt_{image_set}.mat',),
  )
