"""Builder for MPII Human Pose, from the JSON files of the PyTorch codes."""

from mrpose_jax.input_pipeline.datasets import pose_builder
from mrpose_jax.input_pipeline.formats import mpii


class Mpii(pose_builder.PoseBuilder):
  """Reads annot/{set}.json and images/; keeps annot/gt_{set}.mat, if it exists, for PCKh."""

  name = 'mpii'

  def read(self, path):
    return mpii.read(path)


def find_split(source, image_set: str) -> pose_builder.Split:
  """Returns the files of one set, e.g. 'valid', in the data set's folder."""
  return pose_builder.Split(
    annotation_file=source / 'annot' / f'{image_set}.json',
    image_folder=source / 'images',
    keep=(source / 'annot' / f'gt_{image_set}.mat',),
  )
