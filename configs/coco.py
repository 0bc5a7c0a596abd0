"""COCO keypoints, 256x192 (paper section IV-A, tables I and II).

  python main.py --config=configs/coco.py:mrfeanet2,depth=50 --workdir=runs/coco

Arguments: network (simple_baseline, mrheatnet1, mrheatnet2, mrfeanet1, mrfeanet2), depth (50, 101,
152), recipe ('paper': rotation +-30 degrees and scale +-40 % as the text says; 'released': +-40
degrees and +-30 %, normal draws, as the authors' code has it).

The rows of tables I and II are the keys below: --config=configs/coco.py:NETWORK,depth=DEPTH.
"""

from configs import common

# The paper's numbers in per cent, (network, depth) -> one for each of PAPER_COLUMNS.
PAPER_COLUMNS = ('AP', 'AP50', 'AP75', 'APM', 'APL', 'AR', 'AR50', 'AR75', 'ARM', 'ARL')

# Table I, val2017, boxes of a detector with person AP 56.4.
PAPER_VAL = {
  ('simple_baseline', 50): (70.4, 88.6, 78.3, 67.1, 77.2, 76.3, 92.9, 83.4, 72.1, 82.4),
  ('mrheatnet1', 50): (70.2, 88.5, 77.6, 66.8, 77.2, 76.2, 92.8, 83.0, 71.8, 82.4),
  ('mrheatnet2', 50): (70.3, 88.5, 78.0, 67.2, 77.0, 76.4, 92.9, 83.1, 72.1, 82.4),
  ('mrfeanet1', 50): (70.6, 88.7, 78.1, 67.3, 77.5, 76.5, 92.9, 83.3, 72.1, 82.7),
  ('mrfeanet2', 50): (70.9, 88.8, 78.3, 67.2, 78.1, 76.8, 93.0, 83.6, 72.2, 83.4),
  ('simple_baseline', 101): (71.4, 89.3, 79.3, 68.1, 78.1, 77.1, 93.4, 84.0, 73.0, 83.2),
  ('mrfeanet2', 101): (71.8, 89.1, 79.6, 68.5, 78.8, 77.8, 93.5, 84.5, 73.5, 84.0),
  ('simple_baseline', 152): (72.0, 89.3, 79.8, 68.7, 78.9, 77.8, 93.4, 84.6, 73.6, 83.9),
  ('mrfeanet2', 152): (72.6, 89.4, 80.4, 69.4, 79.3, 78.2, 93.4, 85.2, 74.1, 84.2),
}

# Table II, test-dev, boxes of a detector with person AP 60.9; scored by COCO's server only.
PAPER_TEST_DEV = {
  ('simple_baseline', 50): (70.0, 90.9, 77.9, 66.8, 75.8, 75.6, 94.5, 83.0, 71.5, 81.3),
  ('simple_baseline', 101): (70.9, 91.1, 79.3, 67.9, 76.7, 76.7, 94.9, 84.2, 72.7, 82.2),
  ('simple_baseline', 152): (71.6, 91.2, 80.1, 68.7, 77.2, 77.2, 94.9, 85.0, 73.4, 82.6),
  ('mrheatnet1', 50): (69.7, 90.8, 77.8, 66.6, 75.4, 75.4, 94.4, 82.9, 71.3, 81.1),
  ('mrheatnet2', 50): (69.9, 90.8, 78.3, 66.9, 75.6, 75.6, 94.5, 83.3, 71.6, 81.2),
  ('mrfeanet1', 50): (70.1, 90.7, 78.4, 67.0, 75.9, 75.8, 94.3, 83.3, 71.7, 81.3),
  ('mrfeanet2', 50): (70.4, 90.9, 78.7, 67.3, 76.3, 76.2, 94.6, 83.7, 72.0, 81.9),
  ('mrfeanet2', 101): (71.2, 91.0, 79.6, 68.2, 76.9, 77.0, 94.7, 84.5, 72.9, 82.5),
  ('mrfeanet2', 152): (71.8, 91.2, 80.1, 68.9, 77.5, 77.4, 94.8, 84.9, 73.5, 82.8),
}


def get_config(argument=None):
  given = common.parse_argument(argument, network='mrfeanet2', depth=50, recipe='paper')
  config = common.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  common.check_recipe(given.recipe)
  if given.recipe == 'released':
    config.augment.rotation = 40.0
    config.augment.scale = 0.3
    config.augment.draw = 'normal'
  return config
