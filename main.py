"""Train, evaluate and predict: `python main.py --config=configs/quickstart.py --workdir=DIR`.

Exit codes: 0 done, 2 bad configuration, 3 bad data, 4 checkpoint trouble, 5 diverged.
"""

import logging
import sys

from absl import app
from absl import flags
from ml_collections import config_flags

from mrpose_jax import errors

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE or FILE:ARGUMENTS', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval', 'predict'], 'What to do.')
_INPUT = flags.DEFINE_string('input', None, 'Folder of images, or one image (predict).')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for predictions.json and pictures (predict).')
_BOXES = flags.DEFINE_string('boxes', None, 'COCO-format boxes of people in the input (predict).')


def run():
  """One call; everything else is in the package."""
  if _WORKDIR.value is None:
    raise errors.ConfigError('--workdir is missing: name the folder of the run')
  if _MODE.value == 'predict':
    from mrpose_jax import predict_folder

    if _INPUT.value is None or _OUTPUT.value is None:
      raise errors.ConfigError('--mode=predict needs --input=FOLDER and --output=FOLDER')
    predict_folder.predict_folder(_WORKDIR.value, _INPUT.value, _OUTPUT.value, _BOXES.value)
    return
  if _CONFIG.value is None:
    raise errors.ConfigError('--config is missing: e.g. --config=configs/quickstart.py')
  try:
    config = _CONFIG.value.copy_and_resolve_references()
  except OSError as error:  # ml_collections keeps a file that did not load until it is used
    raise errors.ConfigError(f'--config: {str(error).splitlines()[-1].strip()}') from error
  from mrpose_jax import evaluate
  from mrpose_jax import train

  if _MODE.value == 'eval':
    evaluate.evaluate(config, _WORKDIR.value)
  else:
    train.train_and_evaluate(config, _WORKDIR.value)


def main(argv):
  if len(argv) > 1:
    _fail(errors.ConfigError(f'unknown argument {argv[1]!r}: every option starts with --'))
  logging.basicConfig(
    level=logging.WARNING, format='%(asctime)s %(message)s', datefmt='%H:%M:%S', force=True
  )
  logging.getLogger('absl').setLevel(logging.WARNING)  # Orbax, TFDS and Grain tell a lot
  logging.getLogger('mrpose_jax').setLevel(logging.INFO)
  try:
    run()
  except errors.UserError as error:
    _fail(error)


def parse_flags(argv):
  """absl's parser, with one line and exit code 2 for a flag or key that is not there."""
  try:
    return flags.FLAGS(argv)
  except errors.UserError as error:
    _fail(error)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    while isinstance(error.args[0], Exception):  # ml_collections wraps a KeyError
      error = error.args[0]
    _fail(errors.ConfigError(' '.join(str(error.args[0]).split())))


def _fail(error):
  print(f'{type(error).__name__}: {error}', file=sys.stderr)
  sys.exit(error.exit_code)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
