"""Every damaged file raises one DataError that names the file and says what to do."""

import itertools
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from mrpose_jax import errors
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import prepared_data
from tests.helpers import tiny_coco

CANVAS = 64


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """Folder of data sets that no test changes."""
  folder = tmp_path_factory.mktemp('records')
  prepare.prepare('coco', tiny_coco.write(folder / 'source'), folder / 'data', canvas=CANVAS)
  return folder / 'data'


@pytest.fixture
def data_dir(prepared, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(prepared, tmp_path / 'data')


def folder_of(data_dir):
  (info,) = data_dir.glob('coco/*/dataset_info.json')
  return info.parent


def shard_of(data_dir, split):
  (shard,) = folder_of(data_dir).glob(f'*-{split}.array_record*')
  return shard


def read_training(data_dir, num_workers=0):
  dataset = prepared_data.open_dataset('coco', data_dir)
  return list(itertools.islice(loader.train_batches(dataset, 6, 0, num_workers=num_workers), 1))


def read_evaluation(data_dir):
  dataset = prepared_data.open_dataset('coco', data_dir)
  return list(loader.evaluation_batches(dataset, 4, CANVAS))


READERS = {'train': read_training, 'validation': read_evaluation}


def the_error(read, data_dir, **options):
  with pytest.raises(errors.DataError) as caught:
    read(data_dir, **options)
  assert str(caught.value).endswith('; prepare the data again with --overwrite')
  assert '\n' not in str(caught.value)
  return str(caught.value)


def flip_bit(path, at):
  content = bytearray(path.read_bytes())
  content[at] ^= 16
  path.write_bytes(content)


DAMAGES = {
  'a flipped bit': lambda shard: flip_bit(shard, 1000),
  'cut in the middle': lambda shard: shard.write_bytes(shard.read_bytes()[:65536]),
  'cut by a byte': lambda shard: shard.write_bytes(shard.read_bytes()[:-1]),
  'empty': lambda shard: shard.write_bytes(b''),
  'deleted': lambda shard: shard.unlink(),
}


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('split', READERS)
def test_a_damaged_shard_is_named(data_dir, split, damage):
  shard = shard_of(data_dir, split)
  DAMAGES[damage](shard)
  assert the_error(READERS[split], data_dir).startswith(f'{shard}: ')


def test_damage_that_a_worker_meets_is_named(data_dir):
  shard = shard_of(data_dir, 'train')
  flip_bit(shard, 1000)
  message = the_error(read_training, data_dir, num_workers=1)
  assert message.startswith(f'{shard}: record ')


def truncate_images(data_dir, split):
  """Rewrites the split's records with each image cut in half."""
  builder = tfds.builder_from_directory(folder_of(data_dir))
  features = builder.info.features
  source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
  records = list(source)
  writer = array_record_module.ArrayRecordWriter(str(shard_of(data_dir, split)), 'group_size:1')
  for record in records:
    record['image'] = record['image'][: len(record['image']) // 2]
    writer.write(features.serialize_example(features.encode_example(record)))
  writer.close()


@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_truncated_training_image_is_named(data_dir, num_workers):
  truncate_images(data_dir, 'train')
  message = the_error(read_training, data_dir, num_workers=num_workers)
  folder = folder_of(data_dir)
  assert message.startswith('person 1') and f'.png in {folder}: not a readable image' in message


def test_a_truncated_evaluation_image_is_named(data_dir):
  truncate_images(data_dir, 'validation')
  assert '.png: not a readable image' in the_error(read_evaluation, data_dir)


@pytest.mark.parametrize('content', [None, '', '{"a": ', '[]', '{}', '\xff'])
@pytest.mark.parametrize('name', ['metadata.json', 'features.json', 'dataset_info.json'])
def test_a_damaged_description_is_named(data_dir, name, content):
  path = folder_of(data_dir) / name
  path.unlink()
  if content is not None:
    path.write_text(content, encoding='latin-1')
  for read in READERS.values():
    message = the_error(read, data_dir)
    assert message.startswith(str(path.parent)) and name in message


KEYS = ('skeleton', 'crops', 'annotation_files', 'test_sets', 'images_sha256')


def test_data_of_an_older_version_are_recognised(data_dir):
  path = folder_of(data_dir) / 'metadata.json'
  complete = json.loads(path.read_text())
  without = [(complete, key) for key in KEYS]
  without += [(complete['crops'], key) for key in prepared_data.CROPS]
  for where, key in without:
    value = where.pop(key)
    path.write_text(json.dumps(complete))
    where[key] = value
    message = the_error(read_training, data_dir)
    assert message.startswith(f"{path}: has no '{key}', so it was prepared by an older version")


def test_records_are_a_sequence(prepared):
  source = prepared_data.open_dataset('coco', prepared).source('train')
  assert len(source) == len(list(source)) == 6
  with pytest.raises(IndexError):
    source[6]


@pytest.mark.parametrize('split', READERS)
def test_records_are_what_tfds_reads(prepared, split):
  builder = tfds.builder_from_directory(folder_of(prepared))
  expected = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
  people = 0
  for found, other in zip(prepared_data.open_dataset('coco', prepared).source(split), expected):
    assert found.keys() == other.keys()
    for name, value in other.items():
      if name != 'people':
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert found['people'].keys() == other['people'].keys()
    number = len(other['people']['person_id'])
    people += number
    for name, rows in other['people'].items():
      array = found['people'][name]
      info = builder.info.features['people'][name]
      assert array.shape == (number, *info.shape) and array.dtype == info.np_dtype, name
      np.testing.assert_array_equal(array, np.reshape(rows, array.shape), err_msg=name)
  assert people == {'train': 6, 'validation': 5}[split]


@pytest.mark.parametrize('split', READERS)
def test_a_missing_copy_of_the_annotations_is_named(data_dir, split):
  path = folder_of(data_dir) / f'annotations_{split}.json'
  path.unlink()
  for read in READERS.values():
    assert the_error(read, data_dir).startswith(f'{path}: there is no such file')
