"""COCO keypoints, and any folder of its form."""

from input_pipeline import annotations
from input_pipeline.builders import pose_builder


class Coco(pose_builder.PoseBuilder):
  """annotations/person_keypoints_{set}.json and images/{set}/, or {set}/ beside annotations/."""

  name = 'coco'
  read = staticmethod(annotations.read_coco)


def find_split(source, image_set: str) -> pose_builder.Split:
  """The files of one set, e.g. 'val2017', below the data set's folder."""
  folder = source / 'images' / image_set
  return pose_builder.Split(
    annotation_file=source / 'annotations' / f'person_keypoints_{image_set}.json',
    image_folder=folder if folder.is_dir() else source / image_set,
  )


class SyntheticPeople(Coco):
  """The drawn people of synthetic_people.py, which come in COCO's form and by COCO's way."""

  name = 'synthetic_people'
