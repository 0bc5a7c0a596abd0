"""Builders for COCO keypoints and for any folder in COCO's format."""

from mrpose_jax.input_pipeline.datasets import pose_builder
from mrpose_jax.input_pipeline.formats import coco_json


class Coco(pose_builder.PoseBuilder):
  """Reads annotations/person_keypoints_{set}.json, and the images in images/{set}/ or {set}/.

  Other data may use annotations/{set}.json and keep all images in images/. The files of COCO's test
  sets, e.g. test-dev2017, are annotations/image_info_{set}.json and images/test2017/.
  """

  name = 'coco'

  def read(self, path):
    return coco_json.read(path, self.category)


def find_split(source, image_set: str) -> pose_builder.Split:
  """Returns the files of one set, e.g. 'val2017', in the data set's folder."""
  prefixes = coco_json.PERSON_KEYPOINTS, '', coco_json.IMAGE_INFO
  files = [source / 'annotations' / f'{prefix}{image_set}.json' for prefix in prefixes]
  names = image_set, image_set.replace('-dev', '')
  folders = [folder / name for name in names for folder in (source / 'images', source)]
  folders.append(source / 'images')
  return pose_builder.Split(
    annotation_file=next((file for file in files if file.exists()), files[0]),
    image_folder=next((folder for folder in folders if folder.is_dir()), folders[0]),
  )


class SyntheticPeople(Coco):
  """The drawn people of synthetic_people.py, which are written in COCO's format."""

  name = 'synthetic_people'
