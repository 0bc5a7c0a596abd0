"""MPII human pose, 256x256 (paper section IV-B, table III).

  python main.py --config=configs/mpii.py:mrfeanet1,depth=152 --workdir=runs/mpii

Arguments: network, depth, recipe ('paper' draws uniformly; 'released' draws from normals and turns
with probability 0.6; both +-30 degrees and +-25 %).

The rows of table III are the keys below: --config=configs/mpii.py:NETWORK,depth=DEPTH.
"""

from configs import common

# Table III, PCKh@0.5 in per cent, (network, depth) -> one for each of PAPER_COLUMNS.
PAPER_COLUMNS = ('Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle', 'Mean')
PAPER = {
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
}


def get_config(argument=None):
  given = common.parse_argument(argument, network='mrfeanet1', depth=50, recipe='paper')
  config = common.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  config.data.name = 'mpii'
  config.data.image_size = (256, 256)
  common.check_recipe(given.recipe)
  config.augment.scale = 0.25
  if given.recipe == 'released':
    config.augment.draw = 'normal'
  config.train.epochs = 140.0
  config.train.drop_epochs = (90.0, 120.0)
  config.eval.canvas = 1280
  return config
