"""MPII human pose, 256x256 (paper section IV-B, table III).

  python main.py --config=configs/mpii.py:mrfeanet1,depth=152 --workdir=runs/mpii

Arguments: network, depth, recipe ('paper' draws uniformly; 'released' draws from normals and turns
with probability 0.6; both +-30 degrees and +-25 %).

The rows of table III are the keys below: --config=configs/mpii.py:NETWORK,depth=DEPTH.
"""

from mrpose_jax import defaults


def get_config(argument=None):
  given = defaults.parse_argument(argument, network='mrfeanet1', depth=50, recipe='paper')
  config = defaults.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  config.data.name = 'mpii'
  config.data.image_size = (256, 256)
  defaults.check_recipe(given.recipe)
  config.augment.scale = 0.25
  if given.recipe == 'released':
    config.augment.draw = 'normal'
  config.train.epochs = 140.0
  config.train.drop_epochs = (90.0, 120.0)
  config.eval.canvas = 1280
  return config
