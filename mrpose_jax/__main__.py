"""Train, evaluate, predict, export, publish: `python -m mrpose_jax --config=FILE --workdir=DIR`.

In a checkout, `python main.py` is the same command.

Exit codes: 0 done, 143 stopped by a signal after saving, 2 invalid configuration, 3 invalid data,
4 missing, damaged or unfitting checkpoint or a bucket that cannot be reached, 5 diverged.
"""

from absl import flags

from mrpose_jax import command_line
from mrpose_jax import errors

_config = command_line.define_config()
_start = command_line.define_machines()
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run. predict, export: also a published folder or hf://owner/name.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'eval', 'predict', 'import', 'export', 'publish', 'show', 'plan'],
  'Task to run.',
)
_INPUT = flags.DEFINE_string(
  'input',
  None,
  "predict: images, a video, a camera's number or a URL. import: weights, a published folder or "
  'hf://owner/name.',
)
_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'predict: folder to write to [videos: a window]. publish: folder to write to. export: FILE.onnx '
  'or FILE.stablehlo.',
)
_BOXES = flags.DEFINE_string('boxes', None, 'predict: COCO-format boxes of people in the input.')
_BOX_THRESHOLD = flags.DEFINE_float(
  'box_threshold', 0.0, 'predict: boxes of --boxes with a lower score are left out.'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', None, "predict: people in a batch [the run's eval.batch_size].", lower_bound=1
)
_DETECTOR = flags.DEFINE_string(
  'detector', None, 'predict: detector of people: FILE.onnx, rtmdet:FILE.onnx or rtmlib:balanced.'
)
_TRACK = flags.DEFINE_bool('track', False, 'predict: give the people of a video identities.')
_SMOOTH = flags.DEFINE_bool(
  'smooth', False, 'predict: smooth the keypoints of a video over time; includes --track.'
)
_CHANNEL_ORDER = flags.DEFINE_enum(
  'channel_order',
  None,
  ['rgb', 'bgr'],
  'import: channel order of the weights [derived from the file].',
)
_EXPORT_DECODE = flags.DEFINE_bool(
  'export_decode', False, 'export to .onnx: keypoints and scores rather than heatmaps.'
)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'plan: v5e:2x4, v5p:2x2x1, v6e:16x16, h100:8.')


def run(arguments):
  """Runs the mode that the flags select."""
  command_line.no_arguments(arguments)
  if _MODE.value == 'show':
    from mrpose_jax.runtime import show

    return print(show.show(_config()))
  if _MODE.value == 'plan':
    from mrpose_jax.planning import plan

    topology = command_line.given(_TOPOLOGY, 'accelerators, such as v5e:2x4 or h100:8')
    return print(plan.plan(_config(), topology))
  workdir = command_line.given(_WORKDIR, 'the folder of the run')
  if workdir.startswith('hf://') and _MODE.value not in ('predict', 'export'):
    raise errors.ConfigError(
      f'--workdir={workdir}: --mode={_MODE.value} needs the folder of a run; start training from '
      f'these weights with --config.model.pretrained={workdir}, or make them a run with '
      f'--mode=import --input={workdir}'
    )
  if not _start(together=_MODE.value in ('train', 'eval')):
    return None  # process 0 alone predicts, exports and imports
  if _MODE.value == 'predict':
    _predict(workdir, command_line.given(_INPUT, 'images, a video, a camera or a stream'))
  elif _MODE.value == 'export':
    from mrpose_jax.inference import export

    output = command_line.given(_OUTPUT, 'a file to write to, FILE.onnx or FILE.stablehlo')
    export.export(workdir, output, _EXPORT_DECODE.value)
  elif _MODE.value == 'publish':
    from mrpose_jax.weights import publishing

    publishing.publish(workdir, command_line.given(_OUTPUT, 'a folder to write to'))
  elif _MODE.value == 'import':
    from mrpose_jax.weights import importing

    weights = command_line.given(_INPUT, 'a file of PyTorch weights')
    importing.import_weights(_config(), weights, workdir, _CHANNEL_ORDER.value)
  elif _MODE.value == 'eval':
    from mrpose_jax import evaluate

    evaluate.evaluate(_config(), workdir)
  else:
    from mrpose_jax import train

    train.train_and_evaluate(_config(), workdir)


def _predict(workdir, source):
  from mrpose_jax.inference import image_folder
  from mrpose_jax.inference import prediction_settings
  from mrpose_jax.inference import video
  from mrpose_jax.inference import video_files

  settings = prediction_settings.Settings(
    boxes=_BOXES.value,
    detector=_DETECTOR.value,
    box_threshold=_BOX_THRESHOLD.value,
    batch_size=_BATCH_SIZE.value,
    track=_TRACK.value,
    smooth=_SMOOTH.value,
  )
  if video_files.is_video(source):
    video.predict_video(workdir, source, _OUTPUT.value, settings)
  else:
    output = command_line.given(_OUTPUT, 'a folder to write to')
    image_folder.predict_folder(workdir, source, output, settings)


if __name__ == '__main__':
  command_line.run(run)
