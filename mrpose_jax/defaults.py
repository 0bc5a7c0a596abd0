"""The fields of every configuration, and the one typed string argument that a config file takes."""

import difflib

import ml_collections

from mrpose_jax import errors

RECIPES = ('paper', 'released')


def get_config() -> ml_collections.ConfigDict:
  """The paper's COCO recipe; the other files change what differs."""
  config = ml_collections.ConfigDict()
  # Of parameters, shuffling and augmentation.
  config.seed = 0

  config.model = ml_collections.ConfigDict()
  # simple_baseline, mrheatnet1, mrheatnet2, mrfeanet1 or mrfeanet2.
  config.model.network = 'mrfeanet2'
  # Layers of the ResNet: 18, 34, 50, 101 or 152.
  config.model.depth = 50
  # Channels of the stem; 64 in the paper.
  config.model.width = 64
  # Of the computation: 'float32' or 'bfloat16'.
  config.model.dtype = 'float32'
  # Parts of a batch with batch norm statistics of their own: batch_size / 64 is as in the paper.
  config.model.norm_groups = 1
  # Compute each stage again in the backward pass: less memory, a third more arithmetic.
  config.model.remat = False
  # A max-pool that XLA's deterministic mode for GPUs takes.
  config.model.deterministic = False
  # 'rgb', or 'bgr' for released weights that were trained so.
  config.model.channel_order = 'rgb'
  # Weights to start from: a PyTorch file of an ImageNet ResNet or a whole network, or the workdir
  # of a run; a head for another number of keypoints starts afresh. '' for none.
  config.model.pretrained = ''

  config.data = ml_collections.ConfigDict()
  # Prepared data set: coco, mpii or synthetic_people.
  config.data.name = 'coco'
  # Folder of prepared data.
  config.data.data_dir = 'runs/data'
  # (height, width) of the network's input, multiples of 32.
  config.data.image_size = (256, 192)
  # Pairs of keypoint names that mirroring swaps, e.g. (('left_ear', 'right_ear'),); () keeps what
  # the prepared data say.
  config.data.flip_pairs = ()
  # OKS sigmas, one for each keypoint; () keeps what the prepared data say.
  config.data.sigmas = ()
  # Standard deviation of the target Gaussians, in heatmap pixels.
  config.data.sigma = 2.0
  # Processes that decode; 0 decodes in threads.
  config.data.num_workers = 0

  config.augment = ml_collections.ConfigDict()
  # Degrees.
  config.augment.rotation = 30.0
  # Fraction of the region's size.
  config.augment.scale = 0.4
  # Probability.
  config.augment.flip = 0.5
  # 'uniform' or 'normal', see input_pipeline/augment.py.
  config.augment.draw = 'uniform'

  config.train = ml_collections.ConfigDict()
  # People a step, over all devices.
  config.train.batch_size = 64
  # Parts that a batch is computed in, one after the other, where it does not fit at once.
  config.train.accumulate = 1
  # How often each person is seen.
  config.train.epochs = 170.0
  # Of Adam, before the first drop.
  config.train.learning_rate = 1e-3
  # Epochs after which the learning rate drops.
  config.train.drop_epochs = (120.0, 150.0)
  # What it is then multiplied by.
  config.train.drop_factor = 0.1
  # Steps between two lines of metrics.
  config.train.log_every = 100
  # Steps between two checkpoints, besides those that are evaluated.
  config.train.checkpoint_every = 1000
  # Go on in a workdir whose run had another data set, seed or batch size.
  config.train.allow_other_data = False
  # Project of Weights & Biases to log to as well (pip install 'mrpose_jax[wandb]'); '' for none.
  config.train.wandb = ''
  # Epochs between two evaluations, each with a checkpoint.
  config.train.evaluate_every = 1.0

  config.eval = ml_collections.ConfigDict()
  # People a step, over all devices.
  config.eval.batch_size = 64
  # Side in pixels of the patches; a region that shows more of its image is scaled down to it.
  config.eval.canvas = 640
  # Average with the mirrored image's heatmaps.
  config.eval.flip_test = True
  # Of a peak: 'quarter' or 'none'.
  config.eval.offset = 'quarter'
  # COCO detection file to take boxes from; '' takes the annotated boxes.
  config.eval.detections = ''
  # Detections below this score are left out.
  config.eval.detection_threshold = 0.0
  # Keypoints above this score count in a person's score.
  config.eval.keypoint_threshold = 0.2
  # Of two people more similar than this, the lower one goes.
  config.eval.oks_threshold = 0.9
  return config


def parse_argument(argument: str | None, **defaults) -> ml_collections.ConfigDict:
  """'mrfeanet2,depth=152' -> {'network': 'mrfeanet2', 'depth': 152}, typed by the defaults.

  Args:
    argument: what follows the colon in --config=FILE:ARGUMENT; a part without '=' is the network.
    **defaults: the arguments that the config takes.

  Raises:
    ConfigError: an argument that is not there, or a value of another type.
  """
  values = dict(defaults)
  for part in filter(None, (argument or '').split(',')):
    name, value = part.split('=', 1) if '=' in part else ('network', part)
    if name not in defaults:
      near = difflib.get_close_matches(name, defaults, n=1, cutoff=0.0)[0]
      raise errors.ConfigError(
        f'unknown config argument {name!r}: did you mean {near!r}? '
        f'(there are {", ".join(defaults)})'
      )
    try:
      values[name] = type(defaults[name])(value)
    except ValueError as error:
      kind = type(defaults[name]).__name__
      raise errors.ConfigError(f'config argument {name}={value}: not of type {kind}') from error
  return ml_collections.ConfigDict(values)


def check_recipe(recipe: str):
  """Raises ConfigError for a recipe that is neither the paper's text nor the released code's."""
  if recipe not in RECIPES:
    raise errors.ConfigError(f'unknown recipe {recipe!r}: use one of {", ".join(RECIPES)}')
