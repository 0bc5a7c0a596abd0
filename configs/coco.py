"""COCO keypoints, 256x192 (paper section IV-A, tables I and II).

  python main.py --config=configs/coco.py:mrfeanet2,depth=50 --workdir=runs/coco

Arguments: network (simple_baseline, mrheatnet1, mrheatnet2, mrfeanet1, mrfeanet2), depth (50, 101,
152), recipe ('paper': rotation +-30 degrees and scale +-40 % as the text says; 'released': +-40
degrees and +-30 %, normal draws, as the authors' code has it).

The rows of tables I and II are the keys below: --config=configs/coco.py:NETWORK,depth=DEPTH.
"""

from mrpose_jax import defaults


def get_config(argument=None):
  given = defaults.parse_argument(argument, network='mrfeanet2', depth=50, recipe='paper')
  config = defaults.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  defaults.check_recipe(given.recipe)
  if given.recipe == 'released':
    config.augment.rotation = 40.0
    config.augment.scale = 0.3
    config.augment.draw = 'normal'
  return config
