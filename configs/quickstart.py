"""Synthetic people, which the first run draws, for a quick training on a CPU.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

Arguments: network, depth, width.

Cost: 3 min 14 s on two CPU cores, including installation, drawing and compilation. Outcome: AP 69.7
on the 200 validation images (see README.md).
"""

from mrpose_jax import defaults


def get_config(argument=None):
  given = defaults.parse_argument(argument, network='mrfeanet2', depth=18, width=32)
  config = defaults.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  config.model.width = given.width
  config.data.name = 'synthetic_people'
  config.data.image_size = (128, 96)
  # Half of the paper's, because the resolution is half.
  config.data.sigma = 1.0
  # Less than the paper, because the people are mostly upright and there are only a few epochs.
  config.augment.rotation = 15.0
  config.augment.scale = 0.2
  config.train.batch_size = 16
  config.train.epochs = 8.0
  config.train.drop_epochs = (6.0, 7.5)
  config.train.log_every = 50
  config.train.evaluate_every = 4.0
  config.eval.batch_size = 32
  config.eval.canvas = 384
  return config
