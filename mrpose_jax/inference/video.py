"""--mode=predict for a video: writes the video with skeletons, and the people of each frame.

It needs PyAV, which includes FFmpeg: pip install 'mrpose_jax[video]'.
"""

import contextlib
import fractions
import itertools
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mrpose_jax import errors
from mrpose_jax import predictors
from mrpose_jax import visualize
from mrpose_jax.inference import detectors
from mrpose_jax.inference import outputs
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.runtime import progress_bar

log = logging.getLogger(__name__)

# Most bytes of decoded frames in memory: 172 frames of 1920x1080, or 43 of 3840x2160.
FRAME_MEMORY = 2**30
EXTENSIONS = (
  *('.avi', '.flv', '.gif', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv'),
  *('.ts', '.webm', '.wmv'),
)


class Frame(NamedTuple):
  """One frame of a video.

  Attributes:
    index: number of the frame, from 0.
    seconds: time since the first frame.
    pixels: uint8 [H, W, 3] RGB, rotated as the file specifies.
  """

  index: int
  seconds: float
  pixels: np.ndarray


def predict_video(
  workdir,
  source,
  output,
  boxes_file=None,
  detector=None,
  box_threshold: float = 0.0,
  batch_size: int | None = None,
) -> pathlib.Path:
  """Predicts the keypoints of the people in every frame, with only one batch in memory.

  Writes OUTPUT/NAME.mp4 (H.264, original frame times, no sound) and OUTPUT/predictions.json, a
  list with one object and one line per frame: {'frame' (from 0), 'seconds', 'people': [{'bbox',
  'keypoints' (x, y, score, ...), 'score'}]}. The people of several frames share batches. Every
  batch is padded to the same number of people, so that only one program is compiled.

  Args:
    workdir: folder of a training run or of one checkpoint.
    source: video file.
    output: folder to write to; it is created if missing.
    boxes_file: file of boxes, see `detection_files.read_by_frame`; frames that are not listed
      contain no people.
    detector: name of a person detector, or a function, see `detectors.load_detector`. Without boxes
      and detector, each whole frame is taken as the bounding box of one person.
    box_threshold: boxes of `boxes_file` with a lower score are left out.
    batch_size: number of people in a batch, by default the run's `eval.batch_size`. There are fewer
      if that many frames do not fit in FRAME_MEMORY.

  Returns:
    Path of the written video.

  Raises:
    ConfigError: PyAV is missing, or the output would overwrite the input.
    DataError: the file is not a video or holds no frames, the boxes are invalid, or the video is
      damaged or cut off; the last is raised after all readable frames are done.
    CheckpointError: there is no usable checkpoint, or the detector is unusable.
  """
  source, output = pathlib.Path(source).expanduser(), pathlib.Path(output).expanduser()
  target = output / f'{source.stem}.mp4'
  inputs = [source, source.parent]
  if boxes_file is not None:
    inputs.append(pathlib.Path(boxes_file).expanduser())
  outputs.check(output, [target.name, 'predictions.json'], inputs)
  detect = None if detector is None else detectors.load_detector(detector)
  with contextlib.ExitStack() as stack:
    reader = stack.enter_context(contextlib.closing(Reader(source)))
    boxes = None
    if boxes_file is not None:
      boxes = detection_files.read_by_frame(boxes_file, box_threshold)
    if boxes is None and detect is None:
      log.warning('no --boxes and no --detector: each whole frame is taken for one person')

    def boxes_of(frame):
      if boxes is not None:
        return boxes.get(frame.index, np.zeros((0, 4), np.float32))
      if detect is not None:
        return detect(frame.pixels)[0]
      height, width = frame.pixels.shape[:2]
      return np.array([[0, 0, width, height]], np.float32)

    predictor = predictors.load_predictor(workdir, batch_size=batch_size)
    settings = predictor.config.eval
    settings.batch_size = min(
      settings.batch_size, max(1, FRAME_MEMORY // max(1, reader.frame_bytes))
    )
    output.mkdir(parents=True, exist_ok=True)
    add_row = stack.enter_context(_json_list(output / 'predictions.json'))
    writer = stack.enter_context(contextlib.closing(_Writer(target, reader)))
    count = stack.enter_context(
      contextlib.closing(progress_bar.Counter(reader.expected_frames, 'frames'))
    )
    frames = num_people = 0
    pairs = ((frame, boxes_of(frame)) for frame in reader)
    for batch in _batches(pairs, settings.batch_size):
      for (frame, frame_boxes), people in zip(batch, _predict(predictor, batch)):
        add_row(_row(frame, frame_boxes, people))
        drawn = visualize.draw_people(frame.pixels, people, predictor.skeleton)
        writer.write(drawn, frame.seconds)
        num_people += len(people)
      frames += len(batch)
      count.advance(len(batch))
  print(f'{num_people} people in {frames} frames: {output}')
  if boxes is not None and not any(index < frames for index in boxes):
    raise errors.DataError(f'--boxes={boxes_file}: names none of the {frames} frames')
  if reader.damage:
    raise errors.DataError(
      f'{source}: damaged or cut off after {frames} frames ({reader.damage}); these are done'
    )
  if frames < 0.95 * (reader.expected_frames or 0):
    log.warning(
      '%s: found %d frames, expected %d from its duration; is the file cut off?',
      *(source, frames, reader.expected_frames),
    )
  return target


class Reader:
  """Iterator over the frames of a video file, which are decoded on demand.

  Attributes:
    rate: average number of frames per second.
    frame_bytes: size of a decoded frame in memory.
    expected_frames: number of frames according to the file's header, or None.
    damage: reason why reading stopped early, or ''.

  Raises:
    ConfigError: PyAV is missing.
    DataError: the file is not a video or, on iteration, holds no frames.
  """

  def __init__(self, path: pathlib.Path):
    self._av = _pyav()
    self._path = path
    self.damage = ''
    try:
      self._container = self._av.open(_ffmpeg_name(path))
    except (self._av.FFmpegError, OSError) as error:
      raise errors.DataError(f'{path}: not a readable video ({error.strerror})') from error
    streams = self._container.streams.video
    if not streams or self._container.format.name == 'tty':  # FFmpeg opens text files as videos
      raise errors.DataError(f'{path}: not a video')
    self._stream = streams[0]
    self._stream.thread_type = 'AUTO'
    self.rate = self._stream.average_rate or 25
    self.frame_bytes = 3 * self._stream.width * self._stream.height
    self.expected_frames = self._stream.frames or None
    if not self.expected_frames and self._container.duration:
      seconds = self._container.duration / self._av.time_base
      self.expected_frames = round(seconds * self.rate)

  def __iter__(self) -> Iterator[Frame]:
    first = None
    frames = self._container.decode(self._stream)
    for index in itertools.count():
      try:
        frame = next(frames)
      except StopIteration:
        break
      except self._av.FFmpegError as error:
        self.damage = error.strerror
        break
      seconds = index / self.rate if frame.time is None else frame.time
      first = seconds if first is None else first
      pixels = frame.to_ndarray(format='rgb24')
      # Telephones store the sensor's image together with its rotation.
      pixels = np.rot90(pixels, round(frame.rotation / 90))
      yield Frame(index, float(seconds - first), np.ascontiguousarray(pixels))
    if not self.damage and index < 0.95 * self._stream.frames:
      self.damage = f'its header promises {self._stream.frames}'
    if first is None:
      raise errors.DataError(f'{self._path}: no frames in it ({self.damage or "an empty video"})')

  def close(self):
    self._container.close()


class _Writer:
  """Writes frames at their times to an MP4 file (H.264, for players and browsers)."""

  TICKS = 90_000  # per second; all common frame rates divide it

  def __init__(self, path, reader):
    self._av, self._path, self._rate = _pyav(), path, reader.rate
    self._container = self._stream = None
    self._last = -1

  def write(self, pixels, seconds):
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
    if self._container is None:
      self._container = self._av.open(_ffmpeg_name(self._path), 'w')
      self._stream = self._container.add_stream('h264', rate=self._rate)
      self._stream.height, self._stream.width = pixels.shape[:2]
      self._stream.pix_fmt = 'yuv420p'
      self._stream.codec_context.time_base = fractions.Fraction(1, self.TICKS)
    frame = self._av.VideoFrame.from_ndarray(pixels, format='rgb24')
    self._last = max(self._last + 1, round(seconds * self.TICKS))
    frame.pts, frame.time_base = self._last, fractions.Fraction(1, self.TICKS)
    self._container.mux(self._stream.encode(frame))

  def close(self):
    if self._container is not None:
      self._container.mux(self._stream.encode())
      self._container.close()


def _pyav():
  try:
    import av
  except ImportError as error:
    raise errors.ConfigError("PyAV is missing: pip install 'mrpose_jax[video]'") from error
  return av


def _ffmpeg_name(path: pathlib.Path) -> str:
  """The path as FFmpeg reads it: in a relative one, a colon would end the name of a protocol."""
  return str(path.absolute())


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


def _predict(predictor, batch) -> list[np.ndarray]:
  """Returns the people of each frame; pads the batch so that one compiled program serves all."""
  frames, boxes = map(list, zip(*batch))
  counts = [len(frame_boxes) for frame_boxes in boxes]
  missing = -sum(counts) % predictor.config.eval.batch_size
  if sum(counts):
    height, width = frames[-1].pixels.shape[:2]
    filler = np.tile(np.array([0, 0, width, height], np.float32), (missing, 1))
    boxes[-1] = np.concatenate([boxes[-1], filler])
  people = predictor([frame.pixels for frame in frames], boxes)
  return [frame_people[:count] for frame_people, count in zip(people, counts)]


def _row(frame, boxes, people):
  return {
    'frame': frame.index,
    'seconds': round(frame.seconds, 6),
    'people': [
      {
        'bbox': [float(value) for value in box],
        'keypoints': [round(float(value), 4) for value in person.ravel()],
        'score': float(person[:, 2].mean()),
      }
      for box, person in zip(boxes, people)
    ],
  }


@contextlib.contextmanager
def _json_list(path):
  """Yields a function that appends an element to a JSON list; the file is valid JSON on exit."""
  with open(path, 'w', encoding='utf-8') as file:
    separator = '[\n'

    def add(element):
      nonlocal separator
      file.write(separator + json.dumps(element))
      separator = ',\n'

    try:
      yield add
    finally:
      file.write('[]\n' if separator == '[\n' else '\n]\n')
