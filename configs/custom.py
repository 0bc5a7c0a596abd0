"""Your own COCO-format folder, with any keypoints, on any machine.

  python main.py --config=configs/custom.py:mrfeanet2,depth=18,width=32 --workdir=runs/custom \
      --config.data.data_dir=runs/custom_data

Arguments: network, depth, width, augment (0 trains on crops without augmentation). The recipe is
COCO's at 128x96, with target Gaussians of half the width in heatmap pixels; for 256x192 add
--config.data.image_size='(256,192)' --config.data.sigma=2. Names, flip pairs, limbs and OKS sigmas
come from the annotation file. --config.SECTION.FIELD=VALUE sets a field; --mode=show lists all.

Cost and outcome depend on the data. On two CPU cores, training on 370 drawn mice (see README.md)
reached a mean error of 0.98 pixels in 38 s; 86 people in 28 COCO photographs, trained without
augmentation and evaluated on the same ones (see docs/data.md), reached AP 92.7 in 6 min 33 s while
other jobs ran.
"""

from mrpose_jax import defaults


def get_config(argument=None):
  given = defaults.parse_argument(argument, network='mrfeanet2', depth=18, width=32, augment=1)
  config = defaults.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  config.model.width = given.width
  config.data.image_size = (128, 96)
  # Half of the paper's, because the resolution is half.
  config.data.sigma = 1.0
  if not given.augment:
    config.augment.rotation = 0.0
    config.augment.scale = 0.0
    config.augment.flip = 0.0
  config.train.batch_size = 32
  config.train.log_every = 20
  config.train.evaluate_every = 10.0
  config.eval.batch_size = 32
  return config
