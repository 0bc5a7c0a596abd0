"""The paper's published results, in per cent."""

from typing import NamedTuple

WIDTH = 64  # number of channels in the stem of all the paper's networks


class PaperTable(NamedTuple):
  """One table of the paper.

  Attributes:
    data: name of the data set in the paper.
    name: number of the table in the paper.
    image_size: (height, width) of the network's input.
    columns: names of the metrics.
    rows: {(network, depth): one number per column}.
  """

  data: str
  name: str
  image_size: tuple[int, int]
  columns: tuple[str, ...]
  rows: dict[tuple[str, int], tuple[float, ...]]

  def metrics(self, network: str, depth: int) -> dict[str, float]:
    """Returns one row as {metric: per cent}."""
    return dict(zip(self.columns, self.rows[network, depth]))


_COCO_COLUMNS = ('AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL')

# The bounding boxes come from a detector with person AP 56.4.
COCO_VAL = PaperTable(
  'COCO val2017',
  'table I',
  (256, 192),
  _COCO_COLUMNS,
  {
    ('simple_baseline', 50): (70.4, 88.6, 78.3, 67.1, 77.2, 76.3, 92.9, 83.4, 72.1, 82.4),
    ('mrheatnet1', 50): (70.2, 88.5, 77.6, 66.8, 77.2, 76.2, 92.8, 83.0, 71.8, 82.4),
    ('mrheatnet2', 50): (70.3, 88.5, 78.0, 67.2, 77.0, 76.4, 92.9, 83.1, 72.1, 82.4),
    ('mrfeanet1', 50): (70.6, 88.7, 78.1, 67.3, 77.5, 76.5, 92.9, 83.3, 72.1, 82.7),
    ('mrfeanet2', 50): (70.9, 88.8, 78.3, 67.2, 78.1, 76.8, 93.0, 83.6, 72.2, 83.4),
    ('simple_baseline', 101): (71.4, 89.3, 79.3, 68.1, 78.1, 77.1, 93.4, 84.0, 73.0, 83.2),
    ('mrfeanet2', 101): (71.8, 89.1, 79.6, 68.5, 78.8, 77.8, 93.5, 84.5, 73.5, 84.0),
    ('simple_baseline', 152): (72.0, 89.3, 79.8, 68.7, 78.9, 77.8, 93.4, 84.6, 73.6, 83.9),
    ('mrfeanet2', 152): (72.6, 89.4, 80.4, 69.4, 79.3, 78.2, 93.4, 85.2, 74.1, 84.2),
  },
)

# The bounding boxes come from a detector with person AP 60.9. Only COCO's server can score this
# split.
COCO_TEST_DEV = PaperTable(
  'COCO test-dev2017',
  'table II',
  (256, 192),
  _COCO_COLUMNS,
  {
    ('simple_baseline', 50): (70.0, 90.9, 77.9, 66.8, 75.8, 75.6, 94.5, 83.0, 71.5, 81.3),
    ('simple_baseline', 101): (70.9, 91.1, 79.3, 67.9, 76.7, 76.7, 94.9, 84.2, 72.7, 82.2),
    ('simple_baseline', 152): (71.6, 91.2, 80.1, 68.7, 77.2, 77.2, 94.9, 85.0, 73.4, 82.6),
    ('mrheatnet1', 50): (69.7, 90.8, 77.8, 66.6, 75.4, 75.4, 94.4, 82.9, 71.3, 81.1),
    ('mrheatnet2', 50): (69.9, 90.8, 78.3, 66.9, 75.6, 75.6, 94.5, 83.3, 71.6, 81.2),
    ('mrfeanet1', 50): (70.1, 90.7, 78.4, 67.0, 75.9, 75.8, 94.3, 83.3, 71.7, 81.3),
    ('mrfeanet2', 50): (70.4, 90.9, 78.7, 67.3, 76.3, 76.2, 94.6, 83.7, 72.0, 81.9),
    ('mrfeanet2', 101): (71.2, 91.0, 79.6, 68.2, 76.9, 77.0, 94.7, 84.5, 72.9, 82.5),
    ('mrfeanet2', 152): (71.8, 91.2, 80.1, 68.9, 77.5, 77.4, 94.8, 84.9, 73.5, 82.8),
  },
)

# The metric is PCKh@0.5.
MPII = PaperTable(
  'MPII',
  'table III',
  (256, 256),
  ('Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle', 'Mean'),
  {
    ('simple_baseline', 50): (96.4, 95.3, 89.0, 83.2, 88.4, 84.0, 79.6, 88.5),
    ('mrheatnet1', 50): (96.7, 95.2, 88.9, 83.8, 88.1, 83.6, 78.6, 88.4),
    ('mrheatnet2', 50): (96.8, 95.5, 88.6, 83.8, 88.5, 83.6, 78.7, 88.5),
    ('mrfeanet1', 50): (96.5, 95.5, 89.6, 84.3, 88.6, 84.6, 80.6, 89.1),
    ('mrfeanet2', 50): (96.6, 95.4, 88.9, 83.9, 88.5, 84.6, 80.9, 88.9),
    ('simple_baseline', 101): (96.9, 95.9, 89.5, 84.4, 88.4, 84.5, 80.7, 89.1),
    ('mrheatnet1', 101): (96.7, 95.7, 89.7, 84.4, 89.1, 84.7, 81.4, 89.3),
    ('mrheatnet2', 101): (97.4, 95.6, 89.3, 84.2, 89.0, 84.9, 81.2, 89.3),
    ('mrfeanet1', 101): (96.8, 95.6, 89.4, 84.6, 89.2, 85.2, 81.2, 89.4),
    ('mrfeanet2', 101): (96.6, 95.2, 89.3, 84.2, 89.2, 85.9, 81.6, 89.3),
    ('simple_baseline', 152): (97.0, 95.9, 90.0, 85.0, 89.2, 85.3, 81.3, 89.6),
    ('mrheatnet1', 152): (96.8, 96.0, 90.1, 84.4, 88.9, 85.3, 81.4, 89.5),
    ('mrheatnet2', 152): (96.9, 95.6, 89.9, 84.6, 88.9, 86.0, 81.2, 89.5),
    ('mrfeanet1', 152): (97.2, 95.9, 90.2, 85.3, 89.3, 85.4, 82.0, 89.8),
    ('mrfeanet2', 152): (96.7, 95.4, 89.9, 85.1, 88.8, 85.7, 81.8, 89.5),
  },
)

# The paper's table for the validation split of each prepared data set.
VALIDATION = {'coco': COCO_VAL, 'mpii': MPII}
