"""The training records of one or several prepared data sets as one, and their order.

Row n of a run is row n % batch_size of step n // batch_size. Which person it is follows from the
seed and n alone.
"""

import bisect
import collections.abc
import itertools
import pathlib

import grain
import numpy as np

from mrpose_jax.input_pipeline.host import prepared_data


class TrainingRecords(collections.abc.Sequence):
  """The records of split 'train' of all data sets of a mix, one data set after the other.

  Each record is one person with the K keypoints of the mix's skeleton. Keypoints that the person's
  data set does not have are 0, and so is their visibility.

  Attributes:
    sizes: number of people in each data set.

  Raises:
    DataError: records that cannot be read, on opening or on reading one.
  """

  def __init__(self, dataset: prepared_data.Dataset):
    members = dataset.members
    self._sources = [member.dataset.source('train') for member in members]
    self._folders = [member.dataset.folder for member in members]
    self._weights = [member.weight for member in members]
    self._positions = [np.array(member.positions) for member in members]
    self.sizes = [len(source) for source in self._sources]
    self._ends = list(itertools.accumulate(self.sizes))

  def __len__(self) -> int:
    """Number of people in all data sets, which is the number of rows in an epoch."""
    return self._ends[-1]

  def __getitem__(self, number) -> dict:
    index = self._member(number)
    record = self._sources[index][number - self._ends[index] + self.sizes[index]]
    people, positions = record['people'], self._positions[index]
    missing = positions < 0  # position -1 reads the last keypoint, which is replaced by 0
    people['keypoints'] = np.where(missing[:, None], 0, people['keypoints'][:, positions])
    people['visible'] = np.where(missing, 0, people['visible'][:, positions])
    return record

  def folder_of(self, number: int) -> pathlib.Path:
    """Folder of the data set that a record belongs to."""
    return self._folders[self._member(number)]

  def in_order(self, seed: int, batch_size: int) -> grain.MapDataset:
    """Returns the record numbers in training order, without end.

    Each data set is read epoch by epoch; each of its epochs is a new shuffle that holds every
    person once. A mix of M data sets gives each of them its share of every step, to within fewer
    than M - 1 people (none for M = 2 if the share is a whole number), in rows of random order. The
    shares are those of Grain's `MapDataset.mix`, which rounds the weights down to hundredths of the
    smallest one.
    """
    streams = [
      # Data sets of equal size need different seeds, or the same people would always meet.
      grain.MapDataset.range(end - size, end).shuffle(seed=(seed + index) % 2**32).repeat()
      for index, (size, end) in enumerate(zip(self.sizes, self._ends))
    ]
    if len(streams) == 1:
      return streams[0]
    mixed = grain.MapDataset.mix(streams, self._weights)
    return grain.MapDataset.range(len(mixed)).map(_ShuffledSteps(mixed, batch_size))

  def _member(self, number):
    return bisect.bisect_right(self._ends, number)


class _ShuffledSteps:
  """Maps a row to the element of a mix that it reads: the rows of each step are shuffled.

  The data sets of a mix alternate regularly. Without the shuffle, every second row could come from
  one data set, and so could a whole part of `train.accumulate`.
  """

  def __init__(self, mixed: grain.MapDataset, batch_size: int):
    self.mixed = mixed
    self.batch_size = batch_size

  def __call__(self, row: int) -> int:
    step, row_of_step = divmod(row, self.batch_size)
    # The numbers of a RandomState stay the same in all versions of NumPy. Grain's own shuffle takes
    # milliseconds for a number in so small a range.
    shuffled = np.random.RandomState(step).permutation(self.batch_size)
    return self.mixed[step * self.batch_size + int(shuffled[row_of_step])]
