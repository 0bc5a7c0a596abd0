"""COCO keypoints, 256x192 (paper section IV-A, tables I and II).

  python main.py --config=configs/coco.py:mrfeanet2,depth=50 --workdir=runs/coco_mrfeanet2_50 \
      --config.data.data_dir=/data/tfds --config.model.pretrained=resnet50.pth

README.md says how to prepare the data. Arguments: network (simple_baseline, mrheatnet1, mrheatnet2,
mrfeanet1, mrfeanet2), depth (50, 101, 152), recipe ('paper': rotation +-30 degrees and scale
+-40 %, as in the paper's text; 'released': +-40 degrees and +-30 % with normal draws, as in the
authors' code). Each row of tables I and II is one NETWORK,depth=DEPTH.

The network computes in bfloat16 on TPUs and recent GPUs and in float32 on CPUs; docs/training.md
says why, and how to choose.

Cost: the time of its 170 epochs was not measured; docs/planning.md lists the memory and the
arithmetic of a training step on TPUs and on an H100.
Outcome: not measured with this code; the paper reports AP 70.9 on val2017 for this network, with
the boxes of a detector of person AP 56.4.
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
