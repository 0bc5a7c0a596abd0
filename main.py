"""Train, evaluate, predict, import: `python main.py --config=configs/quickstart.py --workdir=DIR`.

Exit codes: 0 done, 2 bad configuration, 3 bad data, 4 checkpoint trouble, 5 diverged.
"""

from absl import flags
from ml_collections import config_flags

from mrpose_jax import command_line
from mrpose_jax import errors

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE or FILE:ARGUMENTS', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval', 'predict', 'import'], 'What to do.')
_INPUT = flags.DEFINE_string('input', None, 'predict: folder of images, or one. import: weights.')
_OUTPUT = flags.DEFINE_string('output', None, 'predict: folder for predictions.json and pictures.')
_BOXES = flags.DEFINE_string('boxes', None, 'predict: COCO-format boxes of people in the input.')
_CHANNEL_ORDER = flags.DEFINE_enum(
  'channel_order', None, ['rgb', 'bgr'], 'import: what the weights were trained on [by their kind].'
)


def run(arguments):
  """One call; everything else is in the package."""
  command_line.no_arguments(arguments)
  workdir = _given(_WORKDIR, 'the folder of the run')
  if _MODE.value == 'predict':
    from mrpose_jax import predict_folder

    source, output = _given(_INPUT, 'a folder of images'), _given(_OUTPUT, 'a folder to write to')
    predict_folder.predict_folder(workdir, source, output, _BOXES.value)
  elif _MODE.value == 'import':
    from mrpose_jax import import_weights

    weights = _given(_INPUT, 'a file of PyTorch weights')
    import_weights.import_weights(_config(), weights, workdir, _CHANNEL_ORDER.value)
  elif _MODE.value == 'eval':
    from mrpose_jax import evaluate

    evaluate.evaluate(_config(), workdir)
  else:
    from mrpose_jax import train

    train.train_and_evaluate(_config(), workdir)


def _given(flag, what):
  if flag.value is None:
    raise errors.ConfigError(f'--{flag.name} is missing: name {what}')
  return flag.value


def _config():
  _given(_CONFIG, 'a configuration, e.g. configs/quickstart.py')
  try:
    return _CONFIG.value.copy_and_resolve_references()
  except OSError as error:  # ml_collections keeps a file that did not load until it is used
    raise errors.ConfigError(f'--config: {str(error).splitlines()[-1].strip()}') from error


if __name__ == '__main__':
  command_line.run(run)
