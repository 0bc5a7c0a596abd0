"""Random access to prepared records; the error for an unreadable record names its file."""

import bisect
import collections.abc
import itertools
import json
import operator
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mrpose_jax import errors
from mrpose_jax.input_pipeline.host import image_files

PREPARE_AGAIN = 'prepare the data again with --overwrite'


class Records(collections.abc.Sequence):
  """The records of one split, in the order in which they were written.

  Raises:
    DataError: on opening, and on reading a record whose file is damaged or gone.
  """

  def __init__(self, folder: pathlib.Path, split: str):
    """Opens split 'train' or 'validation' of a prepared data set's folder."""
    for name in ('dataset_info.json', 'features.json'):
      read_json(folder / name)
    try:
      builder = tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises various errors for malformed files
      raise errors.DataError(
        f'{folder}: dataset_info.json and features.json do not describe prepared data '
        f'({_brief(error)}); {PREPARE_AGAIN}'
      ) from error
    if split not in builder.info.splits:
      raise errors.DataError(
        f'{folder}: has no split {split!r}; prepare it with --{split}=NAME_OF_THE_SET'
      )
    shards = builder.info.splits[split].file_instructions
    self._files = [pathlib.Path(shard.filename) for shard in shards]
    missing = [file for file in self._files if not file.exists()]
    if missing:
      raise errors.DataError(
        f'{missing[0]}: there is no such file ({len(missing)} of {len(shards)} are missing); '
        f'{PREPARE_AGAIN}'
      )
    self._ends = list(itertools.accumulate(shard.take for shard in shards))
    self._features = builder.info.features.get_tensor_info()
    serialized = tfds.decode.DeserializeMethod.RAW_BYTES
    self._source = builder.as_data_source(split, deserialize_method=serialized)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index) -> dict:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    try:
      return _parse(self._source[index], self._features)
    except Exception as error:  # their own errors name neither file nor record
      shard = bisect.bisect_right(self._ends, index)
      number = index - (self._ends[shard - 1] if shard else 0)
      raise errors.DataError(
        f'{self._files[shard]}: record {number} cannot be read ({_brief(error)}); {PREPARE_AGAIN}'
      ) from error


def _parse(serialized, features) -> dict:
  """Parses a tf.train.Example as TFDS does, without decoding images, in a fifth of its time."""
  example = tf_example_pb2.Example.FromString(serialized)
  return _values(example.features.feature, features)


def _values(feature, infos, prefix=''):
  values = {}
  for name, info in infos.items():
    key = prefix + name
    if isinstance(info, dict):
      values[name] = _values(feature, info, f'{key}/')
    elif feature[key].HasField('bytes_list'):
      (values[name],) = feature[key].bytes_list.value
    else:
      numbers = feature[key].float_list if info.np_dtype.kind == 'f' else feature[key].int64_list
      shape = [-1 if side is None else side for side in info.shape]
      values[name] = np.array(numbers.value, info.np_dtype).reshape(shape)
  return values


def decode_image(record: dict, where: str):
  """Decodes the record's image to uint8 [H, W, 3] RGB; `where` names it in a DataError."""
  try:
    return image_files.decode(record['image'], where)
  except errors.DataError as error:
    raise errors.DataError(f'{error}; {PREPARE_AGAIN}') from error


def read_json(path: pathlib.Path) -> dict:
  """Returns the JSON object in a file of the data set; raises DataError."""
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(content, dict):
      raise ValueError('not a JSON object')
    return content
  except (OSError, ValueError) as error:
    raise errors.DataError(f'{path}: cannot be read ({_brief(error)}); {PREPARE_AGAIN}') from error


def _brief(error):
  """First line of the error, without its path, which our messages begin with anyway."""
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text.splitlines()[0].partition('; opening ')[0]
