"""The TFDS builder that every data set here shares: people and images -> ArrayRecord shards.

Two kinds of records. In split `train` one record is one person: the patch of the image that any
augmentation can reach. In split `validation` one record is one image in its original bytes with all
its people, so that an evaluation decodes each image once. All coordinates are in image pixels; a
patch says where it was cut.
"""

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets import workers
from input_pipeline.device import geometry
from input_pipeline.formats import annotation_types
from input_pipeline.host import image_files
from mrpose_jax import errors

# Of training patches, without chroma subsampling: the lowest at which 95 % of augmented crops show
# the image with 40 dB PSNR or more. Of 224 crops of 56 people in COCO photographs, whose patches
# were not scaled down, 99 % do (mean 42.9 dB); at 93 it is 88 %, with subsampling less than 20 %
# even at 95. Measured by benchmarks/jpeg_quality.py.
JPEG_QUALITY = 94
# What the metadata call the hash of a split's images, which is known when they are written.
IMAGES_SHA256 = 'images_sha256'


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
    padding: of boxes, see `geometry.box_to_region`.
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

  def __init__(
    self, *, splits: dict[str, Split], crops: CropSettings, processes: int = 1, **kwargs
  ):
    """Reads and checks every annotation.

    Args:
      splits: 'train', 'validation' or both.
      crops: what the training patches are cut for.
      processes: how many read and cut images; does not change the result.
      **kwargs: as tfds.core.DatasetBuilder, such as data_dir.

    Raises:
      DataError: annotations that cannot be used. What is wrong with the images,
        download_and_prepare tells, of all of them together.
    """
    self.crops = crops
    self.splits = splits
    self.processes = processes
    self.annotations = self._read_all()
    self.skeleton = next(iter(self.annotations.values())).skeleton
    for name, split in splits.items():
      found = self.annotations[name]
      if found.test_set and name == 'train':
        raise errors.DataError(f'{split.annotation_file}: a test set cannot be trained on')
      if not found.test_set and not found.num_people:
        raise errors.DataError(f'{split.annotation_file}: no person with keypoints is left')
    # Kept apart from info.metadata, which TFDS replaces by those of an earlier preparation.
    self.settings = {
      'skeleton': dataclasses.asdict(self.skeleton),
      'crops': dataclasses.asdict(crops),
      'test_sets': [name for name, split in self.annotations.items() if split.test_set],
      'annotation_files': {name: split.annotation_file.name for name, split in splits.items()},
      # So that another file of the same name is not taken for the one that was prepared.
      'annotation_sha256': {name: _sha256(split.annotation_file) for name, split in splits.items()},
      'num_people': {name: found.num_people for name, found in self.annotations.items()},
    }
    super().__init__(file_format='array_record', **kwargs)

  def _read_all(self):
    """The annotations of all splits; problems of one do not hide those of another."""
    found, problems = {}, []
    for name, split in self.splits.items():
      try:
        found[name] = self.read(split.annotation_file)
      except errors.DataError as error:
        problems.append(error)
    if problems:
      raise errors.DataError('; '.join(map(str, problems))) from problems[0]
    return found

  @staticmethod
  def read(path) -> annotation_types.Annotations:
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
    return {name: self._examples(name) for name in self.splits}

  def _generate_examples(self):
    raise NotImplementedError('the splits have generators of their own')

  def _examples(self, name):
    """Yields what TFDS writes of a split, until an image has a problem; then looks for others."""
    problems, digest = [], hashlib.sha256()
    for records, problem in self._read_images(name):
      if problem:
        problems.append(problem)
      elif not problems:
        for _, record in records:
          digest.update(record['image'])
        yield from records
    if problems:
      # The splits after this one have problems of their own, for the same report.
      later = list(self.splits)[list(self.splits).index(name) + 1 :]
      for other in later:
        problems += [problem for _, problem in self._read_images(other) if problem]
      count = sum(len(self._entries(split)) for split in self.splits)
      raise errors.DataError(
        f'{len(problems)} of {count} images cannot be used: {_first_few(problems)}'
      )
    # TFDS writes the metadata after the records.
    self.info.metadata.setdefault(IMAGES_SHA256, {})[name] = digest.hexdigest()

  def _read_images(self, name):
    """Yields (records, None) or (None, what is wrong) for each image of a split, in order."""
    read = functools.partial(_READERS[name], self.splits[name].image_folder, self.crops)
    return workers.in_order(read, self._entries(name), self.processes)

  def _entries(self, name):
    """The images that a split needs."""
    found = self.annotations[name].images
    return [entry for entry in found if entry.people] if name == 'train' else found

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


def train_patch(image: np.ndarray, box, crops: CropSettings) -> image_files.Patch:
  """What training can see of the person in this box.

  Its zoom is that of the whole reach on the canvas, whether or not all of it lies in the image:
  people of one size have patches of one resolution, wherever they stand. So a crop of height x
  width pixels never steps more than canvas / hypot(height, width) patch pixels at a time.
  """
  center, size = geometry.box_to_region(box, crops.aspect, crops.padding)
  low, high = geometry.reach(center, size, crops.scale, rotated=True)
  zoom = crops.canvas / ((high - low).max() + image_files.MARGIN)
  return image_files.cut_patch(image, low, high, crops.canvas, max_zoom=min(1.0, zoom))


# What the processes do, an image at a time. They return problems and do not raise them, so that all
# are found.


def _read_people(folder, crops, entry):
  """An image of split train -> a record a person."""
  try:
    image = image_files.read(folder / entry.file_name)
    _check_size(image, entry)
  except errors.DataError as error:
    return None, str(error)
  records = []
  for person in entry.people:
    patch = train_patch(image, person.box, crops)
    data = image_files.encode_jpeg(patch.pixels, JPEG_QUALITY)
    records.append((person.id, _record(entry, data, [person], patch.origin, patch.zoom)))
  return records, None


def _read_image(folder, crops, entry):
  """An image of split validation -> its record."""
  del crops  # evaluation cuts its own patches
  path = folder / entry.file_name
  try:
    data = image_files.read_bytes(path)
    _check_size(image_files.decode(data, str(path)), entry)
  except errors.DataError as error:
    return None, str(error)
  return [(entry.id, _record(entry, data, entry.people, np.zeros(2), np.ones(2)))], None


_READERS = {'train': _read_people, 'validation': _read_image}


def _check_size(image, entry):
  height, width = image.shape[:2]
  if entry.size and entry.size != (width, height):
    raise errors.DataError(
      f'{entry.file_name}: {width}x{height} pixels, and {entry.size[0]}x{entry.size[1]} in the '
      'annotation file'
    )


def _first_few(problems, limit=5):
  more = f' and {len(problems) - limit} more' if len(problems) > limit else ''
  return '; '.join(problems[:limit]) + more


def _sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


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
