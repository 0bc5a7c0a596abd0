"""Leeds Sports Pose Extended (Johnson & Everingham, CVPR 2011), 128x128, on two CPU cores.

  python -m mrpose_jax.input_pipeline.prepare --dataset=coco --source=LSPET --train=train \
      --validation=val --data_dir=runs/lsp_data --aspect=1 --scale=0.5 --shift=0.15 --half_body
  python main.py --config=configs/lsp.py --workdir=runs/lsp --config.data.data_dir=runs/lsp_data

LSPET in COCO's format; `python -m mrpose_jax.input_pipeline.convert` makes it of joints.mat.
Arguments: recipe ('strong', or 'baseline', which is the paper's at this size), network, depth,
width. docs/recipe.md has the source of each part, and results of the baseline beside PyTorch.
Cost: 83 minutes on two CPU cores. Outcome: PCK@0.2 59.4, PCK@0.1 35.8, EPE 16.1 pixels. With
width=16 and five epochs, PCK@0.2 is 37.3, and that of 'baseline' 28.4.
"""

from mrpose_jax import defaults


def get_config(argument=None):
  given = defaults.parse_argument(
    argument, recipe='strong', network='mrfeanet2', depth=18, width=32
  )
  defaults.check_recipe(given.recipe, ('strong', 'baseline'))
  config = defaults.get_config()
  config.model.network = given.network
  config.model.depth = given.depth
  config.model.width = given.width
  config.data.image_size = (128, 128)
  # Half of the paper's, because the resolution is half.
  config.data.sigma = 1.0
  config.train.batch_size = 16
  config.train.epochs = 44.0
  config.train.drop_epochs = (33.0, 40.0)
  config.train.evaluate_every = 22.0
  config.train.log_every = 100
  config.eval.batch_size = 32
  config.eval.metrics = ('PCK@0.2', 'PCK@0.1', 'EPE')
  if given.recipe == 'strong':
    config.data.codec = 'udp'
    config.train.optimizer = 'adamw'
    config.train.learning_rate = 2e-3
    config.train.schedule = 'cosine'
    config.train.warmup_epochs = 0.5
    config.train.ema = 0.999
    # Boxes of LSPET reach 15 % beyond the keypoints on each side, and a crop is 25 % larger again:
    # closer crops show people larger and still hold all keypoints of most (95 % of them at 0.7).
    config.augment.scale_range = (0.7, 1.0)
    config.augment.rotation_probability = 0.6
    config.eval.scales = (0.75, 0.85, 0.95)
  return config
