"""COCO keypoints, and any folder of its form."""

from input_pipeline import annotations
from input_pipeline.builders import pose_builder


class Coco(pose_builder.PoseBuilder):
  """annotations/person_keypoints_{set}.json and images/{set}/, or {set}/ beside annotations/.

  Of a test set, e.g. test-dev2017: annotations/image_info_{set}.json and images/test2017/.
  """

  name = 'coco'
  read = staticmethod(annotations.read_coco)


def find_split(source, image_set: str) -> pose_builder.Split:
  """The files of one set, e.g. 'val2017', below the data set's folder."""
  test = image_set.startswith('test')
  kind = annotations.IMAGE_INFO if test else 'person_keypoints_'
  folder_name = image_set.replace('-dev', '') if test else image_set
  folder = source / 'images' / folder_name
  return pose_builder.Split(
    annotation_file=source / 'annotations' / f'{kind}{image_set}.json',
    image_folder=folder if folder.is_dir() else source / folder_name,
  )


class SyntheticPeople(Coco):
  """The drawn people of synthetic_people.py, which come in COCO's form and by COCO's way."""

  name = 'synthetic_people'
