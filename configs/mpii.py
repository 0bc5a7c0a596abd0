"""MPII human pose, 256x256 (paper section IV-B, table III).

  python main.py --config=configs/mpii.py:mrfeanet1,depth=152 --workdir=runs/mpii_mrfeanet1_152 \
      --config.data.data_dir=/data/tfds --config.model.pretrained=resnet152.pth

README.md says how to prepare the data. Arguments: network, depth, recipe ('paper' uses uniform
draws; 'released' uses normal draws and rotates with probability 0.6; both with +-30 degrees and
+-25 %). Each row of table III is one NETWORK,depth=DEPTH.

The network computes in bfloat16 on TPUs and recent GPUs and in float32 on CPUs; docs/training.md
says why, and how to choose.

Cost: the time of its 140 epochs was not measured.
Outcome: not measured with this code; the paper reports a mean PCKh@0.5 of 89.8 for this network.
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
