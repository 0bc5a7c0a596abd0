"""The TFDS builder shared by all data sets: people and images -> ArrayRecord shards.

There are two kinds of records. In split `train` one record is one person: the patch of the image
that any augmentation can reach. In split `validation` one record is one image in its original bytes
with all its people, so that an evaluation decodes each image once. All coordinates are in image
pixels; a patch records where it was cut.
"""

import dataclasses
import functools
import hashlib
import logging
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.datasets import workers
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.formats import annotation_types
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.formats import plausibility
from mrpose_jax.input_pipeline.host import image_files

log = logging.getLogger(__name__)

# JPEG quality of training patches, without chroma subsampling: the lowest quality at which 95 % of
# augmented crops of patches that are not scaled down reproduce the image with 45 dB PSNR or more.
# Of such people in COCO photographs 98 % do, and all reach 44.7 dB (mean 47.7 dB). At quality 96
# it is 56 % (mean 46.9 dB), at 94 it is 18 % (mean 43.1 dB), for patches of 0.89 and 0.72 times the
# bytes. Measured by benchmarks/jpeg_quality.py.
JPEG_QUALITY = 97
# Metadata key for the hash of each split's images, which is known only after they are written.
IMAGES_SHA256 = 'images_sha256'


@dataclasses.dataclass(frozen=True)
class Split:
  """The files that a split is made from."""

  annotation_file: pathlib.Path
  image_folder: pathlib.Path
  # Further files that the evaluation needs beside the records; copied into the data set's folder.
  keep: tuple[pathlib.Path, ...] = ()
  # The part of the file's images that belong to the split, see `Annotations.part`.
  part: tuple[float, float] = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class CropSettings:
  """Settings that decide how the training patches are cut.

  Attributes:
    aspect: width / height of the network's input.
    padding: factor on the sides of boxes, see `geometry.box_to_region`.
    scale: largest fraction by which augmentation may enlarge the region; any rotation is covered.
    shift: largest fraction of the region's size by which augmentation may move it.
    half_body: whether augmentation may crop the upper or lower half of a person.
    canvas: longest side of a patch in pixels.
  """

  aspect: float = 192 / 256
  padding: float = 1.25
  scale: float = 0.4
  canvas: int = 512
  shift: float = 0.0
  half_body: bool = False


class PoseBuilder(tfds.core.GeneratorBasedBuilder):
  """Base class of the builders; a subclass names the data set and reads its annotations."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(
    self,
    *,
    splits: dict[str, Split],
    crops: CropSettings,
    category: str | None = None,
    processes: int = 1,
    **kwargs,
  ):
    """Reads and checks all annotations.

    Args:
      splits: 'train', 'validation' or both.
      crops: how the training patches are cut.
      category: see `coco_json.read`.
      processes: number of processes that read and cut images; does not change the result.
      **kwargs: arguments of tfds.core.DatasetBuilder, such as data_dir.

    Raises:
      DataError: annotations that cannot be used. `download_and_prepare` raises it for images that
        cannot be used, all of them together.
    """
    self.crops = crops
    self.category = category
    self.splits = splits
    self.processes = processes
    self.annotations = self._read_all()
    for name, split in splits.items():
      annotations = self.annotations[name]
      if annotations.test_set and name == 'train':
        raise errors.DataError(
          f'{split.annotation_file}: annotates nobody; a test set cannot be trained on'
        )
      if not annotations.test_set and not annotations.num_people:
        raise errors.DataError(
          f'{split.annotation_file}: no person with keypoints is left '
          f'(left out: {annotations.left_out() or "nobody, because nobody is annotated"}); each '
          'person needs keypoints with a visibility of 1 or 2, and bbox as x, y, width, height in '
          'pixels'
        )
    self._match_skeletons()
    self.skeleton = next(iter(self.annotations.values())).skeleton
    # Kept apart from info.metadata, which TFDS replaces by the metadata of an earlier preparation.
    self.settings = {
      'skeleton': dataclasses.asdict(self.skeleton),
      'crops': dataclasses.asdict(crops),
      'test_sets': [name for name, annotations in self.annotations.items() if annotations.test_set],
      'annotation_files': {name: split.annotation_file.name for name, split in splits.items()},
      # Distinguishes the prepared file from another file of the same name.
      'annotation_sha256': {name: _sha256(split.annotation_file) for name, split in splits.items()},
      'num_people': {
        name: annotations.num_people for name, annotations in self.annotations.items()
      },
    }
    if category is not None:
      self.settings['category'] = category
    parts = {name: split.part for name, split in splits.items() if split.part != (0, 1)}
    if parts:
      self.settings['parts'] = parts
    super().__init__(file_format='array_record', **kwargs)

  def _read_all(self):
    """Reads the annotations of all splits; one DataError reports the problems of all of them."""
    annotations, problems, files = {}, [], set()
    for name, split in self.splits.items():
      try:
        annotations[name] = self.read(split.annotation_file).part(*split.part)
      except errors.DataError as error:
        problems.append(error)
        continue
      if split.annotation_file not in files:  # two splits may be parts of one file
        skeletons.log_assumptions(annotations[name].skeleton, split.annotation_file)
        files.add(split.annotation_file)
      for doubt in plausibility.doubts(annotations[name]):
        log.warning('%s: %s', split.annotation_file, doubt)
    if problems:
      raise errors.DataError('; '.join(map(str, problems))) from problems[0]
    return annotations

  def _match_skeletons(self):
    """Brings the keypoints of all splits into the order of the first one.

    Raises:
      DataError: two splits differ in their keypoints' names, OKS sigmas or flip pairs.
    """
    first, *others = self.annotations
    skeleton = self.annotations[first].skeleton
    for name in others:
      annotations = self.annotations[name]
      if annotations.test_set:  # COCO's lists of test images name no keypoints
        self.annotations[name] = dataclasses.replace(annotations, skeleton=skeleton)
        continue
      for what in ('keypoints', 'sigmas', 'flip_pairs'):
        here, there = (_by_name(s)[what] for s in (skeleton, annotations.skeleton))
        if set(here) != set(there):
          raise errors.DataError(
            f'{self.splits[name].annotation_file}: the {what} of the splits differ: {first} has '
            f'{", ".join(here) or "none"}; {name} has {", ".join(there) or "none"}; '
            'give both files the same category'
          )
      if annotations.skeleton.keypoints != skeleton.keypoints:
        log.warning(
          '%s: its keypoints are brought into the order of split %s',
          *(self.splits[name].annotation_file, first),
        )
        self.annotations[name] = annotations.with_skeleton(skeleton)

  def read(self, path) -> annotation_types.Annotations:
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
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(self.settings),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    # Here self.data_dir is a temporary folder, which TFDS renames once all is written.
    folder = pathlib.Path(self.data_dir)
    for name, split in self.splits.items():
      coco_json.write(self.annotations[name], folder / coco_json.NORMALISED.format(name))
      for file in split.keep:
        if file.exists():
          (folder / file.name).write_bytes(file.read_bytes())
    return {name: self._examples(name) for name in self.splits}

  def _generate_examples(self):
    raise NotImplementedError('the splits have generators of their own')

  def _examples(self, name):
    """Yields a split's records to TFDS; after the first problem, only looks for further ones."""
    problems, digest, num_turned = [], hashlib.sha256(), 0
    for records, problem, turned in self._read_images(name):
      num_turned += turned
      if problem:
        problems.append(problem)
      elif not problems:
        for _, record in records:
          digest.update(record['image'])
        yield from records
    if problems:
      # The same report includes the problems of the splits that follow.
      later = list(self.splits)[list(self.splits).index(name) + 1 :]
      for other in later:
        problems += [problem for _, problem, _ in self._read_images(other) if problem]
      count = sum(len(self._entries(split)) for split in self.splits)
      raise errors.DataError(
        f'{len(problems)} of {count} images cannot be used: {_first_few(problems)}'
      )
    if num_turned:
      log.warning(
        '%s: %d images have an EXIF orientation, which is ignored; their annotations must refer to '
        'the pixels as stored',
        *(self.splits[name].annotation_file, num_turned),
      )
    # TFDS writes the metadata after the records.
    self.info.metadata.setdefault(IMAGES_SHA256, {})[name] = digest.hexdigest()

  def _read_images(self, name):
    """Yields (records, problem, whether an EXIF orientation is ignored) of each image in order."""
    read = functools.partial(
      _READERS[name], self.splits[name].image_folder, self.crops, self.skeleton
    )
    return workers.in_order(read, self._entries(name), self.processes)

  def _entries(self, name):
    """The images of a split; for training, only those with people."""
    entries = self.annotations[name].images
    return [entry for entry in entries if entry.people] if name == 'train' else entries

  def report(self) -> str:
    """Returns one line per split: its people, its images, and the annotations left out."""
    lines = []
    for name, split in self.annotations.items():
      lines.append(
        f'{name}: {split.num_people} people in {len(split.images)} images'
        + (f' (left out: {split.left_out()})' if split.dropped else '')
      )
    return '\n'.join(lines)


def train_patch(
  image: np.ndarray,
  person: annotation_types.Person,
  crops: CropSettings,
  skeleton: skeletons.Skeleton,
) -> image_files.Patch:
  """Cuts the part of an image that training crops of this person can reach.

  The zoom fits the whole reach on the canvas, whether or not all of it lies in the image, so people
  of equal size have patches of equal resolution wherever they stand. Therefore neighbouring pixels
  of a height x width crop lie at most canvas / hypot(height, width) patch pixels apart.
  """
  center, size = geometry.box_to_region(person.box, crops.aspect, crops.padding)
  centers, sizes = [center], [size]
  if crops.half_body:
    labelled, lower = person.visible > 0, np.array(skeleton.lower_body())
    for chosen in (labelled & lower, labelled & ~lower):
      if chosen.any():
        half = geometry.keypoint_region(person.keypoints, chosen, size, augment.HALF_BODY_PADDING)
        centers.append(half[0])
        sizes.append(half[1])
  low, high = geometry.reach(
    np.array(centers), np.array(sizes), crops.scale, rotated=True, shift=crops.shift
  )
  low, high = low.min(0), high.max(0)
  zoom = crops.canvas / ((high - low).max() + image_files.MARGIN)
  return image_files.cut_patch(image, low, high, crops.canvas, max_zoom=min(1.0, zoom))


# The worker processes run these functions on one image at a time. A problem is returned instead of
# raised, so that all of them are found.


def _read_people(folder, crops, skeleton, entry):
  """Reads an image of split train; returns (one record per person, problem or None, turned)."""
  _, image, turned, problem = _read(folder, entry)
  if problem:
    return None, problem, turned
  records = []
  for person in entry.people:
    patch = train_patch(image, person, crops, skeleton)
    data = image_files.encode_jpeg(patch.pixels, JPEG_QUALITY)
    records.append((person.id, _record(entry, data, [person], patch.origin, patch.zoom)))
  return records, None, turned


def _read_image(folder, crops, skeleton, entry):
  """Reads an image of split validation; returns (its record, problem or None, turned)."""
  del crops, skeleton  # evaluation cuts its own patches
  data, _, turned, problem = _read(folder, entry)
  if problem:
    return None, problem, turned
  return [(entry.id, _record(entry, data, entry.people, np.zeros(2), np.ones(2)))], None, turned


_READERS = {'train': _read_people, 'validation': _read_image}


def _read(folder, entry):
  """Returns an image's bytes, its pixels, whether an EXIF orientation is ignored, and a problem."""
  path = folder / entry.file_name
  data = image = None
  turned = False
  try:
    data = image_files.read_bytes(path)
    image = image_files.decode(data, str(path))
    turned = image_files.orientation(data) != 1
    height, width = image.shape[:2]
    if entry.size and entry.size != (width, height):
      exif = 'its EXIF orientation is ignored: store its pixels upright'
      raise errors.DataError(
        f'{entry.file_name}: {width}x{height} pixels, but {entry.size[0]}x{entry.size[1]} in the '
        'annotation file' + turned * f' ({exif})'
      )
  except errors.DataError as error:
    return data, image, turned, str(error)
  return data, image, turned, None


def _by_name(skeleton):
  """What must agree between splits, by the names of the keypoints."""
  names = skeleton.keypoints
  return {
    'keypoints': names,
    'sigmas': [f'{name} {sigma:g}' for name, sigma in zip(names, skeleton.sigmas)],
    'flip_pairs': [' - '.join(sorted(names[i] for i in pair)) for pair in skeleton.flip_pairs],
  }


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
