"""COCO keypoints with a stronger recipe than the paper's, for the same networks.

  python -m mrpose_jax.input_pipeline.prepare --dataset=coco --source=/data/coco \
      --data_dir=/data/strong --scale=0.5 --shift=0.16 --half_body
  python main.py --config=configs/coco_strong.py:mrfeanet2,depth=50 --workdir=runs/coco_strong_50 \
      --config.data.data_dir=/data/strong --config.model.pretrained=resnet50.pth

Arguments: network, depth (50, 101, 152), size ('256x192' or '384x288', which needs --canvas=768 and
a data set of its own). docs/recipe.md names the source of each part, and shows what the parts bring
on another data set.

Cost, worked out and not measured: 210 epochs of 149,813 people are 31.5 million. At 115 TFLOP/s,
the rate that XLA reaches elsewhere with ResNet-50 on one H100, mrfeanet2 (78, 98 and 119 GFLOP a
person with ResNet-50, 101 and 152) trains 1,490, 1,180 and 970 people/s: 5.9, 7.4 and 9.0 hours of
one H100. simple_baseline R50 (31 GFLOP) takes 2.4 hours.
Outcome: not measured. With part of this recipe (DARK, half-body), MMPose reports AP 72.4, 73.3 and
74.3 on val2017 for simple_baseline R50, R101 and R152 with a detector of person AP 56.4.
"""

from mrpose_jax import defaults


def get_config(argument=None):
  given = defaults.parse_argument(argument, network='mrfeanet2', depth=50, size='256x192')
  config = defaults.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  height, width = defaults.parse_size(given.size)
  config.data.image_size = (height, width)
  config.data.sigma = 2.0 * height / 256
  config.data.codec = 'udp'
  config.augment.scale_range = (0.5, 1.5)
  config.augment.rotation = 80.0
  config.augment.rotation_probability = 0.6
  config.augment.shift = 0.16
  config.augment.half_body = 0.3
  config.augment.brightness = 0.2
  config.augment.contrast = 0.2
  config.augment.saturation = 0.2
  config.augment.hue = 0.02
  config.augment.dropout = 0.5
  # Groups of 64 people have separate batch statistics, as in the paper.
  config.train.batch_size = 512
  config.model.norm_groups = 8
  config.train.optimizer = 'adamw'
  config.train.learning_rate = 2e-3
  config.train.schedule = 'cosine'
  config.train.warmup_epochs = 2.0
  config.train.ema = 0.999
  config.train.epochs = 210.0
  config.train.evaluate_every = 10.0
  config.eval.canvas = 640 if height <= 256 else 1024
  return config
