"""Opens a prepared data set: its folder, and the metadata that describe it."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.host import records

# Metadata keys of the crop settings that the patches were cut for.
CROPS = ('aspect', 'padding', 'scale', 'canvas')
# Settings that older preparations do not have, and what their patches were cut for.
NEWER_CROPS = {'shift': 0.0, 'half_body': False}


class People(NamedTuple):
  """The P people of a split with at least one labelled keypoint, in the records' order.

  Attributes:
    records: [P] index of the image's record.
    image_ids, person_ids: [P].
    boxes: [P, 4] x, y, width, height in image pixels, as they are cropped.
    sizes: [P, 2] width and height of the boxes as annotated, not clipped to the image.
    keypoints: [P, K, 2] xy in image pixels.
    visible: [P, K], above 0 where annotated.
  """

  records: np.ndarray
  image_ids: np.ndarray
  person_ids: np.ndarray
  boxes: np.ndarray
  sizes: np.ndarray
  keypoints: np.ndarray
  visible: np.ndarray


@dataclasses.dataclass(frozen=True)
class Member:
  """A data set that is trained on.

  Attributes:
    dataset: the data set; its own `mix` is not used.
    weight: its part of the people of a step, relative to the other members.
    positions: [K] position of each predicted keypoint in this data set's keypoints, -1 where it has
      none; see `skeletons.match`.
  """

  dataset: 'Dataset'
  weight: float
  positions: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set: its folder and its metadata.

  `annotation_files` holds the name of the file that each split was prepared from, `test_sets` names
  the splits whose keypoints are unpublished, and `images_sha256` holds a hash of the images of each
  split. If there is a `mix`, its members are trained on in place of this data set, which is then
  evaluated on and names the keypoints.
  """

  folder: pathlib.Path
  skeleton: skeletons.Skeleton
  crops: dict[str, float]
  annotation_files: dict[str, str]
  test_sets: list[str]
  images_sha256: dict[str, str]
  mix: tuple[Member, ...] = ()

  @property
  def members(self) -> tuple[Member, ...]:
    """The data sets that are trained on: those of the mix, by default this one alone."""
    return self.mix or (Member(self, 1.0, tuple(range(self.skeleton.num_keypoints))),)

  @property
  def training_canvas(self) -> int:
    """Side in pixels of the square array that holds any training patch."""
    return max(int(member.dataset.crops['canvas']) for member in self.members)

  def source(self, split: str) -> records.Records:
    """Random access to the records of 'train' or 'validation'."""
    return records.Records(self.folder, split)

  def annotation_file(self, split: str) -> pathlib.Path:
    """Path of the split's normalised annotations; of the original's copy in older data."""
    path = self.folder / coco_json.NORMALISED.format(split)
    original = self.folder / self.annotation_files[split]
    return original if original.exists() and not path.exists() else path

  @property
  def kind(self) -> str:
    """Kind of data set: 'coco', 'mpii' or 'synthetic_people'."""
    return self.folder.parent.name

  def image_set(self, split: str) -> str:
    """Name of the set that the split was prepared from, e.g. 'val2017'."""
    name = pathlib.PurePath(self.annotation_files[split]).stem
    return name.removeprefix(coco_json.PERSON_KEYPOINTS).removeprefix(coco_json.IMAGE_INFO)

  @functools.cached_property
  def category_ids(self) -> list[int]:
    """Category ids of the validation split's annotations; 1 (a person) for other formats."""
    content = json.loads(self.annotation_file('validation').read_text(encoding='utf-8-sig'))
    categories = content['categories'] if 'categories' in content else []
    return [int(c['id']) for c in categories if c.get('keypoints')] or [1]

  def categories_of(self, person_ids) -> list[int]:
    """Category ids of validation people."""
    if len(self.category_ids) == 1:
      return self.category_ids * len(person_ids)
    return [self._category_of_person[int(person_id)] for person_id in person_ids]

  @functools.cached_property
  def _category_of_person(self):
    content = json.loads(self.annotation_file('validation').read_text(encoding='utf-8-sig'))
    return {int(row['id']): int(row['category_id']) for row in content.get('annotations', ())}

  @functools.cached_property
  def image_ids(self) -> dict[str, int]:
    """Validation image id of each file name; empty for MPII data of an older preparation."""
    content = json.loads(self.annotation_file('validation').read_text(encoding='utf-8-sig'))
    images = content['images'] if 'images' in content else []
    return {image['file_name']: int(image['id']) for image in images}

  @functools.cached_property
  def people_of_images(self) -> dict[int, int]:
    """Number of annotated people by validation image id, in the records' order."""
    records_of_images = self.source('validation')
    return {int(record['image_id']): len(record['people']['box']) for record in records_of_images}

  @functools.cached_property
  def people(self) -> People:
    """The annotated people of split validation."""
    content = json.loads(self.annotation_file('validation').read_text(encoding='utf-8-sig'))
    rows = content['annotations'] if 'annotations' in content else []
    sizes = {int(row['id']): row['bbox'][2:] for row in rows}
    return read_people(self.source('validation'), self.skeleton.num_keypoints, sizes)

  def fingerprint(self, split: str = '') -> str:
    """Hash of what was prepared, or of the images and annotations of one split.

    That of all covers the images, the names and sizes of all files, the JSON files' contents, and
    the members of the mix with their weights.
    """
    if split:
      digest = hashlib.sha256(self.images_sha256[split].encode())
      digest.update(self.annotation_file(split).read_bytes())
      return digest.hexdigest()[:16]
    digest = hashlib.sha256(str(sorted(self.images_sha256.items())).encode())
    for path in sorted(self.folder.iterdir()):
      digest.update(f'{path.name} {path.stat().st_size}'.encode())
      if path.suffix == '.json':
        digest.update(path.read_bytes())
    for member in self.mix:
      digest.update(f'{member.weight} {member.dataset.fingerprint()}'.encode())
    return digest.hexdigest()[:16]


def read_people(source, num_keypoints: int, sizes=None) -> People:
  """Reads the people with labelled keypoints from the records of split validation.

  Args:
    source: the records, one per image.
    num_keypoints: K.
    sizes: {person id: (width, height)} of the annotated boxes; those of the records by default.
  """
  rows = []
  for number, record in enumerate(source):
    people = {name: np.asarray(values) for name, values in record['people'].items()}
    for n in np.flatnonzero((people['visible'] > 0).any(-1) if len(people['box']) else []):
      person_id, box = int(people['person_id'][n]), people['box'][n]
      size = (sizes or {}).get(person_id, box[2:])
      row = number, int(record['image_id']), person_id, box, size
      rows.append((*row, people['keypoints'][n], people['visible'][n]))
  shapes = ((), (), (), (4,), (2,), (num_keypoints, 2), (num_keypoints,))
  types = (*(np.int64,) * 3, np.float32, np.float64, np.float32, np.int32)
  columns = list(zip(*rows)) or [()] * len(shapes)
  return People(*(np.array(c, t).reshape(-1, *s) for c, t, s in zip(columns, types, shapes)))


def newest(names: Iterable[str]) -> str | None:
  """The newest version of a data set among the names in its folder; None if there is none."""
  # The pattern excludes folders of killed preparations, such as 1.0.0.incomplete.4R7K2P.
  versions = [name for name in names if re.fullmatch(r'\d+\.\d+\.\d+', name)]
  return max(versions, key=lambda name: tuple(map(int, name.split('.'))), default=None)


def open_dataset(name: str, data_dir) -> Dataset:
  """Opens the newest prepared version of a data set.

  Raises:
    DataError: it was not prepared, it was prepared by an older version of the code, or its metadata
      are damaged or missing.
  """
  root = paths.parse_local(data_dir, '--data_dir') / name
  version = newest(path.name for path in root.glob('*'))
  if not version:
    raise errors.DataError(
      f'{root}: no prepared data; run: python -m mrpose_jax.input_pipeline.prepare '
      f'--dataset={name} --source=FOLDER --data_dir={data_dir}'
    )
  folder = root / version
  file = folder / 'metadata.json'
  metadata = records.read_json(file)
  try:
    dataset = Dataset(
      folder=folder,
      skeleton=skeletons.from_dict(metadata['skeleton']),
      crops={key: float((NEWER_CROPS | metadata['crops'])[key]) for key in (*CROPS, *NEWER_CROPS)},
      annotation_files=metadata['annotation_files'],
      test_sets=metadata['test_sets'],
      images_sha256=metadata['images_sha256'],
    )
    copies = [dataset.annotation_file(split) for split in dataset.annotation_files]
  except KeyError as error:
    raise errors.DataError(
      f'{file}: has no {error}, so it was prepared by an older version; {records.PREPARE_AGAIN}'
    ) from error
  except (TypeError, ValueError) as error:
    raise errors.DataError(f'{file}: damaged ({error}); {records.PREPARE_AGAIN}') from error
  for copy in copies:
    if not copy.exists():
      raise errors.DataError(f'{copy}: there is no such file; {records.PREPARE_AGAIN}')
  return dataset
