"""The fields of every configuration, and the parser of the argument of a config file."""

import difflib

import ml_collections
from ml_collections import config_dict

from mrpose_jax import errors

RECIPES = ('paper', 'released')


def get_config() -> ml_collections.ConfigDict:
  """Returns the paper's COCO recipe; the config files override the fields that differ."""
  config = ml_collections.ConfigDict()
  # Random seed for initialisation, shuffling and augmentation.
  config.seed = 0

  config.model = ml_collections.ConfigDict()
  # Network: simple_baseline, mrheatnet1, mrheatnet2, mrfeanet1 or mrfeanet2.
  config.model.network = 'mrfeanet2'
  # Number of layers of the ResNet: 18, 34, 50, 101 or 152.
  config.model.depth = 50
  # Number of channels of the stem; the paper uses 64.
  config.model.width = 64
  # Number type of the network's computation: 'float32', 'bfloat16', or 'auto', which is bfloat16 on
  # TPUs and recent GPUs and float32 elsewhere; the run logs and stores its choice, and keeps it.
  config.model.dtype = 'auto'
  # Precision of float32 products on accelerators: 'default' is TF32 on recent GPUs and bfloat16 on
  # TPUs, 'high' is more exact, 'highest' is float32. A CPU always computes in float32.
  config.model.precision = 'default'
  # Number of groups of a batch with separate batch norm statistics; batch_size / 64 gives groups of
  # 64 people, as in the paper.
  config.model.norm_groups = 1
  # Recompute each stage in the backward pass: less memory, a third more arithmetic.
  config.model.remat = False
  # Use a max-pool whose gradient XLA's deterministic mode for GPUs supports.
  config.model.deterministic = False
  # Channel order of the network's input: 'rgb', or 'bgr' for released weights trained on BGR.
  config.model.channel_order = 'rgb'
  # Initial weights: a PyTorch file of an ImageNet ResNet or a whole network, the workdir of a run,
  # a published folder or hf://owner/name; with another number of keypoints the heatmap head is
  # initialised anew. '' for none.
  config.model.pretrained = ''

  config.data = ml_collections.ConfigDict()
  # Prepared data set: coco, mpii or synthetic_people.
  config.data.name = 'coco'
  # Folder of the prepared data; one in a bucket, gs://BUCKET/FOLDER, is copied to this machine.
  config.data.data_dir = 'runs/data'
  # Data sets to train on together, each as (name, folder of the prepared data, weight), e.g.
  # (('coco', 'runs/data', 3), ('mpii', 'runs/data', 1)); () trains on data.name alone. The network
  # predicts the keypoints of data.name and is evaluated on it.
  config.data.mix = ()
  # Groups of names that mean the same keypoint in data.mix, e.g. (('upper_neck', 'neck'),).
  config.data.synonyms = ()
  # (height, width) of the network's input in pixels, multiples of 32.
  config.data.image_size = (256, 192)
  # Pairs of keypoint names that mirroring swaps, e.g. (('left_ear', 'right_ear'),); () keeps those
  # of the prepared data.
  config.data.flip_pairs = ()
  # OKS sigmas, one per keypoint; () keeps those of the prepared data, which may have none.
  config.data.sigmas = ()
  # Standard deviation of the target Gaussians in heatmap pixels.
  config.data.sigma = 2.0
  # Codec, which draws target heatmaps and decodes heatmaps: 'paper', 'dark' or 'udp', see
  # mrpose_jax/codecs.py. The network learns the codec's geometry, so a workdir keeps its codec.
  config.data.codec = 'paper'
  # Number of processes that decode images; 0 decodes in threads.
  config.data.num_workers = 0

  config.augment = ml_collections.ConfigDict()
  # Rotation in degrees: the maximum if augment.draw is 'uniform', the standard deviation if
  # 'normal'.
  config.augment.rotation = 30.0
  # Change of the region's size as a fraction: the maximum or standard deviation, as for rotation.
  config.augment.scale = 0.4
  # Probability of mirroring; None is 0.5 where flip pairs are known, else 0.
  config.augment.flip = config_dict.placeholder(float)
  # Distribution of rotation and scale: 'uniform' or 'normal', see
  # input_pipeline/device/augment.py, also for the fields that follow.
  config.augment.draw = 'uniform'
  # Probability that a crop is rotated at all; None is 1 for 'uniform' and 0.6 for 'normal'.
  config.augment.rotation_probability = config_dict.placeholder(float)
  # (smallest, largest) factor on the region's size, in the place of augment.scale; () for none.
  config.augment.scale_range = ()
  # Largest shift of the region along each axis, as a fraction of its size.
  config.augment.shift = 0.0
  # Probability of cropping only the upper or lower half of a person.
  config.augment.half_body = 0.0
  # Largest change of the factor on the brightness.
  config.augment.brightness = 0.0
  # Largest change of the factor on the contrast.
  config.augment.contrast = 0.0
  # Largest change of the factor on the saturation.
  config.augment.saturation = 0.0
  # Largest turn of the hue, as a fraction of the colour circle.
  config.augment.hue = 0.0
  # Probability of dropping a rectangle of the crop.
  config.augment.dropout = 0.0

  config.train = ml_collections.ConfigDict()
  # Number of people per training step, over all devices.
  config.train.batch_size = 64
  # Number of parts of a batch that are computed one after the other, to save memory.
  config.train.accumulate = 1
  # Number of epochs of training.
  config.train.epochs = 170.0
  # Optimizer: 'adam' or 'adamw'.
  config.train.optimizer = 'adam'
  # AdamW's weight decay of kernels; biases and batch norm have none.
  config.train.weight_decay = 0.05
  # The optimizer's initial learning rate, after the warm-up.
  config.train.learning_rate = 1e-3
  # Epochs in which the learning rate rises linearly from 0; 0 for none.
  config.train.warmup_epochs = 0.0
  # Schedule of the learning rate: 'piecewise' (drops) or 'cosine' (falls to 0 at the end).
  config.train.schedule = 'piecewise'
  # Epochs after which the learning rate drops.
  config.train.drop_epochs = (120.0, 150.0)
  # Factor that each drop multiplies the learning rate by.
  config.train.drop_factor = 0.1
  # Largest norm of the gradient, to which larger ones are scaled down; 0 for no limit.
  config.train.gradient_clip = 0.0
  # Number of keypoints of each person with the largest errors that the loss counts (OHKM); 0 for
  # all of them.
  config.train.hard_keypoints = 0
  # Decay per step of an exponential moving average of the network's variables, which is kept beside
  # them; 0 for none.
  config.train.ema = 0.0
  # Steps between two logged lines of metrics.
  config.train.log_every = 100
  # Number of early steps to record in a profiler trace below WORKDIR/profile; 0 records none.
  config.train.profile_steps = 0
  # Steps between two checkpoints; each evaluation also saves one.
  config.train.checkpoint_every = 1000
  # Allow resuming in a workdir whose run used another data set, seed or batch size.
  config.train.allow_other_data = False
  # Weights & Biases project to log to as well (pip install 'mrpose_jax[wandb]'); '' for none.
  config.train.wandb = ''
  # Epochs between two evaluations, each with a checkpoint.
  config.train.evaluate_every = 1.0

  config.eval = ml_collections.ConfigDict()
  # Number of people per evaluation step, over all devices.
  config.eval.batch_size = 64
  # Side in pixels of the square image patches; a larger region is scaled down to it.
  config.eval.canvas = 640
  # Metrics to compute, e.g. AP,PCK@0.2,PCK@0.1:box,PCKh@0.5,AUC,EPE,NME (see docs/metrics.md); ()
  # computes AP for data with OKS sigmas, PCKh and PCK@0.2 for MPII, and else PCK@0.2 and EPE.
  config.eval.metrics = ()
  # Metric that picks the best checkpoint; '' is the first of eval.metrics.
  config.eval.primary = ''
  # Average the heatmaps with those of the mirrored image; None does so where flip pairs are known.
  config.eval.flip_test = config_dict.placeholder(bool)
  # Evaluate and predict with the moving average of the variables; None does so where there is one.
  config.eval.ema = config_dict.placeholder(bool)
  # Factors on the region's size; the heatmaps of all are averaged (multi-scale test).
  config.eval.scales = (1.0,)
  # Offset that decoding adds to a heatmap's peak: 'quarter' of a pixel, 'dark' (a Taylor step), or
  # 'none'; None is that of the codec, 'quarter' for 'paper' and 'dark' for 'dark' and 'udp'.
  config.eval.offset = config_dict.placeholder(str)
  # COCO detection file whose boxes are used; '' uses the annotated boxes.
  config.eval.detections = ''
  # Detections with a score below this are ignored.
  config.eval.detection_threshold = 0.0
  # Only keypoints with a score above this count in a person's score.
  config.eval.keypoint_threshold = 0.2
  # OKS above which the lower-scored one of two people is removed as a duplicate.
  config.eval.oks_threshold = 0.9
  return config


def parse_argument(argument: str | None, **defaults) -> ml_collections.ConfigDict:
  """Parses 'mrfeanet2,depth=152' to {'network': 'mrfeanet2', 'depth': 152}, typed by the defaults.

  Args:
    argument: text after the colon in --config=FILE:ARGUMENT; a part without '=' is the network.
    **defaults: default value of each argument of the config file.

  Raises:
    ConfigError: an unknown argument, or a value of another type.
  """
  values = dict(defaults)
  for part in filter(None, (argument or '').split(',')):
    name, value = part.split('=', 1) if '=' in part else ('network', part)
    if name not in defaults:
      nearest = difflib.get_close_matches(name, defaults, n=1, cutoff=0.0)[0]
      raise errors.ConfigError(
        f'unknown config argument {name!r}: did you mean {nearest!r}? '
        f'(possible: {", ".join(defaults)})'
      )
    try:
      values[name] = type(defaults[name])(value)
    except ValueError as error:
      type_name = type(defaults[name]).__name__
      raise errors.ConfigError(
        f'config argument {name}={value}: not of type {type_name}'
      ) from error
  return ml_collections.ConfigDict(values)


def parse_size(text: str) -> tuple[int, int]:
  """Parses '384x288' to (384, 288), height and width; raises ConfigError for other texts."""
  try:
    height, width = map(int, text.split('x'))
  except ValueError as error:
    raise errors.ConfigError(f'config argument size={text}: give HEIGHTxWIDTH') from error
  return height, width


def check_recipe(recipe: str, possible: tuple[str, ...] = RECIPES):
  """Raises ConfigError for a recipe that a config file does not have."""
  if recipe not in possible:
    raise errors.ConfigError(f'unknown recipe {recipe!r}: use one of {", ".join(possible)}')
