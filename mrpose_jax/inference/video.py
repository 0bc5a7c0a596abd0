"""--mode=predict for videos, cameras and streams: pictures with skeletons, and people by frame."""

import contextlib
import json
import logging
import pathlib

import numpy as np

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import predictors
from mrpose_jax import visualize
from mrpose_jax.inference import outputs
from mrpose_jax.inference import prediction_settings
from mrpose_jax.inference import smoothing
from mrpose_jax.inference import tracking
from mrpose_jax.inference import video_files
from mrpose_jax.inference import window
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.runtime import preemption
from mrpose_jax.runtime import progress_bar

log = logging.getLogger(__name__)

# Most bytes of decoded frames in memory: 172 frames of 1920x1080, or 43 of 3840x2160.
FRAME_MEMORY = 2**30
PREDICTIONS = 'predictions.json'


def predict_video(
  workdir,
  source,
  output=None,
  settings: prediction_settings.Settings = prediction_settings.DEFAULT,
) -> pathlib.Path | None:
  """Predicts the keypoints of the people in every frame, with only one batch in memory.

  Writes OUTPUT/NAME.mp4 (H.264, original frame times, no sound) and OUTPUT/predictions.json, a
  list with one object and one line per frame: {'frame' (from 0), 'seconds', 'people': [{'bbox',
  'keypoints' (x, y, score, ...), 'score', and 'track_id' with `settings.track`}]}. The people of
  several frames share batches. Every batch is padded to the same number of people, so that only one
  program is compiled.

  The frames of a camera or of a stream without an end are predicted one by one, and those that
  arrive meanwhile are skipped. NAME is then 'stream'.

  SIGINT or SIGTERM ends the prediction after the batch at hand, and the files are complete.

  Args:
    workdir: folder of a training run or of one checkpoint.
    source: a video file, the number of a camera, or the URL of a video or stream.
    output: folder to write to; it is created if missing. None shows the frames in a window instead.
    settings: see `Settings`. Frames that a file of boxes does not list contain no people. A batch
      has fewer people if that many frames do not fit in FRAME_MEMORY.

  Returns:
    Path of the written video, or None.

  Raises:
    ConfigError: PyAV is missing, the output would overwrite the input or an earlier recording, no
      window can be opened, or a live source is given a file of boxes.
    DataError: the source is not a video or holds no frames, the boxes are invalid, or the video is
      damaged or cut off; the last is raised after all readable frames are done.
    CheckpointError: there is no usable checkpoint, or the detector is unusable.
    Stopped: a signal ended the prediction.
  """
  if video_files.is_path(source):
    source = paths.parse_local(source, '--input')
  target = (
    None
    if output is None
    else _target(source, paths.parse_local(output, '--output', written=True), settings)
  )
  boxes = None
  if settings.boxes is not None:
    boxes = detection_files.read_by_frame(settings.boxes, settings.box_threshold)
  find_boxes = settings.box_finder(boxes)
  with contextlib.ExitStack() as stack:
    signals = stack.enter_context(preemption.StopSignals())
    screen = None
    if target is None:
      screen = stack.enter_context(contextlib.closing(window.Window(str(source))))

    def stopped():
      return signals.asked() is not None or (screen is not None and screen.closed)

    reader = stack.enter_context(contextlib.closing(video_files.Reader(source, stopped)))
    if reader.live and boxes is not None:
      raise errors.ConfigError(f'--boxes: {reader.name} is live; name a --detector instead')
    predictor = _load_predictor(workdir, settings, reader)
    if target is None:
      writer, add_row = screen, lambda row: None
    else:
      target.parent.mkdir(parents=True, exist_ok=True)
      add_row = stack.enter_context(_json_list(target.parent / PREDICTIONS))
      writer = video_files.Writer(target, reader.rate, reader.live)
      stack.enter_context(contextlib.closing(writer))
    follow = _follower(settings)
    count = stack.enter_context(
      contextlib.closing(progress_bar.Counter(reader.expected_frames, 'frames'))
    )
    frames = num_people = 0
    pairs = ((frame, find_boxes(frame.index, frame.pixels)) for frame in reader)
    batch_size = predictor.config.eval.batch_size
    for batch in ([pair] for pair in pairs) if reader.live else _batches(pairs, batch_size):
      for (frame, frame_boxes), people in zip(batch, _predict(predictor, batch, reader.live)):
        people, numbers = follow(people, frame_boxes, frame.seconds)
        add_row(_row(frame, frame_boxes, people, numbers))
        drawn = visualize.draw_people(frame.pixels, people, predictor.skeleton, numbers=numbers)
        writer.write(drawn, frame.seconds)
        num_people += len(people)
      frames += len(batch)
      count.advance(len(batch))
    signal_name = signals.asked()
  skipped = f', {reader.skipped} frames skipped' if reader.skipped else ''
  print(f'{num_people} people in {frames} frames: {"shown" if screen else target.parent}{skipped}')
  if signal_name:
    raise errors.Stopped(f'{signal_name} after {frames} frames of {reader.name}; these are done')
  if screen is None or not screen.closed:
    _check_end(reader, frames, settings, boxes)
  return target


def _target(source, output, settings):
  """Returns the path of the video to write; raises ConfigError if it would overwrite something."""
  if isinstance(source, pathlib.Path):
    target = output / f'{source.stem}.mp4'
    inputs = [source, source.parent]
    if settings.boxes is not None:
      inputs.append(paths.parse_local(settings.boxes, '--boxes'))
    outputs.check(output, [target.name, PREDICTIONS], inputs)
    return target
  target = output / 'stream.mp4'
  for path in (target, output / PREDICTIONS):
    if path.exists():  # what a camera saw does not come again
      raise errors.ConfigError(f'--output={output}: {path} is there already; choose another folder')
  return target


def _load_predictor(workdir, settings, reader):
  """Returns the predictor, with batches of frames that fit in FRAME_MEMORY."""
  predictor = predictors.load_predictor(workdir, batch_size=settings.batch_size)
  most_frames = max(1, FRAME_MEMORY // max(1, reader.frame_bytes))
  predictor.config.eval.batch_size = min(predictor.config.eval.batch_size, most_frames)
  if reader.live:
    predictor(np.zeros((64, 64, 3), np.uint8))  # compiles before the first frame is read
  return predictor


def _check_end(reader, frames, settings, boxes):
  """Raises DataError if the boxes belong to none of the frames, or if frames are missing."""
  if boxes is not None and not any(index < frames for index in boxes):
    raise errors.DataError(f'--boxes={settings.boxes}: names none of the {frames} frames')
  if reader.damage:
    raise errors.DataError(
      f'{reader.name}: damaged or cut off after {frames} frames ({reader.damage}); these are done'
    )
  if frames < 0.95 * (reader.expected_frames or 0):
    log.warning(
      '%s: found %d frames, expected %d from its duration; is the file cut off?',
      *(reader.name, frames, reader.expected_frames),
    )


def _follower(settings):
  """Returns the function (people, boxes, seconds) -> people, their identities or None."""
  if not (settings.track or settings.smooth):
    return lambda people, boxes, seconds: (people, None)
  tracker, smoother = tracking.Tracker(), smoothing.Smoother()

  def follow(people, boxes, seconds):
    numbers = tracker(boxes, seconds)
    return smoother(people, boxes, numbers, seconds) if settings.smooth else people, numbers

  return follow


def _batches(pairs, batch_size):
  """Yields lists of (Frame, boxes) with at most `batch_size` frames and `batch_size` people.

  A single frame with more people is a list of its own. A list is emptied when the next one is
  requested.
  """
  batch, num_people = [], 0
  for frame, boxes in pairs:
    if batch and (len(batch) == batch_size or num_people + len(boxes) > batch_size):
      yield batch
      batch.clear()  # empties the caller's list, too: only one batch stays in memory
      num_people = 0
    batch.append((frame, boxes))
    num_people += len(boxes)
  if batch:
    yield batch


def _predict(predictor, batch, live=False) -> list[np.ndarray]:
  """Returns the people of each frame.

  Batches are padded so that one compiled program serves all, but those of a live source are as
  small as possible.
  """
  frames, boxes = map(list, zip(*batch))
  if live:
    return predictor([frame.pixels for frame in frames], boxes)
  counts = [len(frame_boxes) for frame_boxes in boxes]
  missing = -sum(counts) % predictor.config.eval.batch_size
  if sum(counts):
    height, width = frames[-1].pixels.shape[:2]
    filler = np.tile(np.array([0, 0, width, height], np.float32), (missing, 1))
    boxes[-1] = np.concatenate([boxes[-1], filler])
  people = predictor([frame.pixels for frame in frames], boxes)
  return [frame_people[:count] for frame_people, count in zip(people, counts)]


def _row(frame, boxes, people, numbers):
  """The object of a frame in predictions.json; `numbers` are the people's identities or None."""
  rows = [
    {
      'bbox': [float(value) for value in box],
      'keypoints': [round(float(value), 4) for value in person.ravel()],
      'score': float(person[:, 2].mean()),
    }
    for box, person in zip(boxes, people)
  ]
  if numbers is not None:
    rows = [{'track_id': number, **row} for number, row in zip(numbers, rows)]
  return {'frame': frame.index, 'seconds': round(frame.seconds, 6), 'people': rows}


@contextlib.contextmanager
def _json_list(path):
  """Yields a function that appends an element to a JSON list; the file is valid JSON on exit."""
  with open(path, 'w', encoding='utf-8') as file:
    separator = '[\n'

    def add(element):
      nonlocal separator
      file.write(separator + json.dumps(element))
      file.flush()  # so that other programs can follow a stream
      separator = ',\n'

    try:
      yield add
    finally:
      file.write('[]\n' if separator == '[\n' else '\n]\n')
