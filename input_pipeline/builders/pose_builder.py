"""The TFDS builder that every data set here shares: people and images -> ArrayRecord shards.

Two kinds of records. In split `train` one record is one person: the patch of the image that any
augmentation can reach. In split `validation` one record is one image in its original bytes with all
its people, so that an evaluation decodes each image once. All coordinates are in image pixels; a
patch says where it was cut.
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline import annotations
from input_pipeline import boxes
from input_pipeline import images
from mrpose_jax import errors

JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Split:
  """Where a split comes from: the annotation file, how to read it, and the image folder."""

  annotation_file: pathlib.Path
  image_folder: pathlib.Path
  # Files the evaluation needs beside the records; copied into the data set's folder.
  keep: tuple[pathlib.Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class CropSettings:
  """What the training patches are cut for.

  Attributes:
    aspect: width / height of the network's input.
    padding: of boxes, see `boxes.box_to_region`.
    scale: the largest growth of the region that an augmentation may draw; any rotation is covered.
    canvas: longest side of a patch in pixels.
  """

  aspect: float = 192 / 256
  padding: float = 1.25
  scale: float = 0.4
  canvas: int = 512


class PoseBuilder(tfds.core.GeneratorBasedBuilder):
  """Base of the builders; a subclass names the data set and reads its annotations."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, splits: dict[str, Split], crops: CropSettings, **kwargs):
    """Reads and checks every annotation.

    Args:
      splits: 'train', 'validation' or both.
      crops: what the training patches are cut for.
      **kwargs: as tfds.core.DatasetBuilder, such as data_dir.

    Raises:
      DataError: annotations that cannot be used, missing images.
    """
    self.crops = crops
    self.splits = splits
    self.annotations = {name: self.read(split.annotation_file) for name, split in splits.items()}
    self.skeleton = next(iter(self.annotations.values())).skeleton
    for name, split in splits.items():
      found = self.annotations[name]
      if found.test_set and name == 'train':
        raise errors.DataError(f'{split.annotation_file}: a test set cannot be trained on')
      if not found.test_set and not found.num_people:
        raise errors.DataError(f'{split.annotation_file}: no person with keypoints is left')
      _check_images(self.annotations[name], split)
    # Kept apart from info.metadata, which TFDS replaces by those of an earlier preparation.
    self.settings = {
      'skeleton': dataclasses.asdict(self.skeleton),
      'crops': dataclasses.asdict(crops),
      'test_sets': [name for name, split in self.annotations.items() if split.test_set],
      'annotation_files': {name: split.annotation_file.name for name, split in splits.items()},
    }
    super().__init__(file_format='array_record', **kwargs)

  @staticmethod
  def read(path) -> annotations.Annotations:
    raise NotImplementedError

  def _info(self):
    num_keypoints = self.skeleton.num_keypoints
    person = {
      'person_id': np.int64,
      'box': tfds.features.Tensor(shape=(4,), dtype=np.float32),
      'area': np.float32,
      'keypoints': tfds.features.Tensor(shape=(num_keypoints, 2), dtype=np.float32),
      'visible': tfds.features.Tensor(shape=(num_keypoints,), dtype=np.int32),
    }
    features = {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'image_id': np.int64,
      'file_name': tfds.features.Text(),
      'origin': tfds.features.Tensor(shape=(2,), dtype=np.float32),
      'zoom': tfds.features.Tensor(shape=(2,), dtype=np.float32),
      'people': tfds.features.Sequence(person),
    }
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(self.settings),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    # data_dir is the temporary folder here, which becomes the data set's when all is written.
    for split in self.splits.values():
      for file in (split.annotation_file, *split.keep):
        if file.exists():
          (pathlib.Path(self.data_dir) / file.name).write_bytes(file.read_bytes())
    generators = {'train': self._train_examples, 'validation': self._evaluation_examples}
    return {name: generators[name](name) for name in self.splits}

  def _generate_examples(self):
    raise NotImplementedError('the splits have generators of their own')

  def _train_examples(self, name):
    folder = self.splits[name].image_folder
    for entry in self.annotations[name].images:
      if not entry.people:
        continue
      image = images.read(folder / entry.file_name)
      for person in entry.people:
        patch = images.cut_patch(image, *train_reach(person.box, self.crops), self.crops.canvas)
        pixels = images.encode_jpeg(patch.pixels, JPEG_QUALITY)
        yield person.id, _record(entry, pixels, [person], patch.origin, patch.zoom)

  def _evaluation_examples(self, name):
    folder = self.splits[name].image_folder
    for entry in self.annotations[name].images:
      data = (folder / entry.file_name).read_bytes()
      images.decode(data, str(folder / entry.file_name))
      yield entry.id, _record(entry, data, entry.people, np.zeros(2), np.ones(2))

  def report(self) -> str:
    """One line a split: images, people, and what was left out."""
    lines = []
    for name, split in self.annotations.items():
      dropped = ', '.join(f'{n} {reason}' for reason, n in sorted(split.dropped.items()))
      lines.append(
        f'{name}: {split.num_people} people in {len(split.images)} images'
        + (f' (left out: {dropped})' if dropped else '')
      )
    return '\n'.join(lines)


def train_reach(box, crops: CropSettings):
  """Corners (low, high) of what training can see of the person in this box."""
  center, size = boxes.box_to_region(box, crops.aspect, crops.padding)
  return boxes.reach(center, size, crops.scale, rotated=True)


def _record(entry, data, people, origin, zoom):
  return {
    'image': data,
    'image_id': entry.id,
    'file_name': entry.file_name,
    'origin': np.asarray(origin, np.float32),
    'zoom': np.asarray(zoom, np.float32),
    'people': [
      {
        'person_id': person.id,
        'box': person.box,
        'area': np.float32(person.area),
        'keypoints': person.keypoints,
        'visible': person.visible,
      }
      for person in people
    ],
  }


def _check_images(split_annotations, split):
  missing = [
    entry.file_name
    for entry in split_annotations.images
    if not (split.image_folder / entry.file_name).is_file()
  ]
  if missing:
    raise errors.DataError(
      f'{split.image_folder}: {len(missing)} of {len(split_annotations.images)} images are '
      f'missing, first {missing[0]}'
    )
