"""--mode=predict with a video: the video with the skeletons drawn, and the people of each frame.

Needs PyAV, which brings FFmpeg along: pip install 'mrpose_jax[video]'.
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
from mrpose_jax.runtime import progress_bar

log = logging.getLogger(__name__)

EXTENSIONS = (
  *('.avi', '.flv', '.gif', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv'),
  *('.ts', '.webm', '.wmv'),
)


class Frame(NamedTuple):
  """One picture of a video, as it is to be shown.

  Attributes:
    index: of the frame, from 0.
    seconds: since the first frame.
    pixels: uint8 [H, W, 3] RGB, turned upright where the file says so.
  """

  index: int
  seconds: float
  pixels: np.ndarray


def predict_video(workdir, source, output, boxes_file=None, detector=None) -> pathlib.Path:
  """Predicts the people in every frame; however long the video is, only one batch is in memory.

  Writes OUTPUT/NAME.mp4 (H.264, the frames at their own times, without sound) and
  OUTPUT/predictions.json, a list with an object a line for each frame: {'frame' (from 0),
  'seconds', 'people': [{'bbox', 'keypoints' (x, y, score, ...), 'score'}]}. The people of several
  frames go through the network together, in batches that are all of `eval.batch_size`, so that one
  program is compiled.

  Args:
    workdir: of a training run, or a checkpoint's folder.
    source: file of a video.
    output: folder, made if it is not there.
    boxes_file: JSON list of {'bbox' [x, y, width, height], and 'frame' or 'image_id' (number of
      the frame, from 0)}; frames that it does not name have no people.
    detector: see `detectors.load`; finds the people. With neither, each whole frame is taken for
      one person.

  Returns:
    The video.

  Raises:
    ConfigError: PyAV is missing, or the output is the input.
    DataError: not a video, no frames, or boxes that cannot be used; or, when all before is done,
      a video that is damaged or cut off.
    CheckpointError: no usable checkpoint, or a detector that cannot be used.
  """
  source, output = pathlib.Path(source).expanduser(), pathlib.Path(output).expanduser()
  target = output / f'{source.stem}.mp4'
  if target.exists() and target.samefile(source):
    raise errors.ConfigError(f'--output={output}: {target.name} there is the input; choose another')
  detect = None if detector is None else detectors.load(detector)
  with contextlib.ExitStack() as stack:
    reader = stack.enter_context(contextlib.closing(Reader(source)))
    boxes = None if boxes_file is None else _read_boxes(boxes_file)
    if boxes is None and detect is None:
      log.warning('no --boxes and no --detector: each whole frame is taken for one person')

    def boxes_of(frame):
      if boxes is not None:
        return boxes.get(frame.index, np.zeros((0, 4), np.float32))
      if detect is not None:
        return detect(frame.pixels)[0]
      height, width = frame.pixels.shape[:2]
      return np.array([[0, 0, width, height]], np.float32)

    predictor = predictors.load_predictor(workdir)
    output.mkdir(parents=True, exist_ok=True)
    add_row = stack.enter_context(_json_list(output / 'predictions.json'))
    writer = stack.enter_context(contextlib.closing(_Writer(target, reader)))
    count = stack.enter_context(
      contextlib.closing(progress_bar.Counter(reader.expected_frames, 'frames'))
    )
    frames = num_people = 0
    pairs = ((frame, boxes_of(frame)) for frame in reader)
    for batch in _batches(pairs, predictor.config.eval.batch_size):
      for frame, found, people in zip(*zip(*batch), _predict(predictor, batch)):
        add_row(_row(frame, found, people))
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
      '%s: %d frames, but by its duration %d; is it cut off?',
      *(source, frames, reader.expected_frames),
    )
  return target


class Reader:
  """The frames of a video file, decoded as they are asked for.

  Attributes:
    expected_frames: how many the file says that it has, or None.
    damage: what ended the reading too early, or ''.

  Raises:
    ConfigError: PyAV is missing.
    DataError: not a video, or, when reading it, no frames.
  """

  def __init__(self, path: pathlib.Path):
    self._av = _pyav()
    self._path = path
    self.damage = ''
    try:
      self._container = self._av.open(str(path))
    except (self._av.FFmpegError, OSError) as error:
      raise errors.DataError(f'{path}: not a readable video ({error.strerror})') from error
    streams = self._container.streams.video
    if not streams or self._container.format.name == 'tty':  # FFmpeg shows a text as a video
      raise errors.DataError(f'{path}: not a video')
    self._stream = streams[0]
    self._stream.thread_type = 'AUTO'
    self.rate = self._stream.average_rate or 25
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
      # A telephone stores what its sensor saw, and how to turn it.
      pixels = np.rot90(pixels, round(frame.rotation / 90))
      yield Frame(index, float(seconds - first), np.ascontiguousarray(pixels))
    if not self.damage and index < 0.95 * self._stream.frames:
      self.damage = f'it says that it has {self._stream.frames}'
    if first is None:
      raise errors.DataError(f'{self._path}: no frames in it ({self.damage or "an empty video"})')

  def close(self):
    self._container.close()


class _Writer:
  """H.264 in an MP4 file, which players and browsers show; each frame at its own time."""

  TICKS = 90_000  # a second's, of which every usual frame rate is a whole number of

  def __init__(self, path, reader):
    self._av, self._path, self._rate = _pyav(), path, reader.rate
    self._container = self._stream = None
    self._last = -1

  def write(self, pixels, seconds):
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
    if self._container is None:
      self._container = self._av.open(str(self._path), 'w')
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


def _batches(pairs, batch_size):
  """Lists of (Frame, boxes) with at most `batch_size` frames, and people where more than one.

  A list is valid until the next one is asked for.
  """
  batch, num_people = [], 0
  for frame, boxes in pairs:
    if batch and (len(batch) == batch_size or num_people + len(boxes) > batch_size):
      yield batch
      batch.clear()  # the caller's, too, so that one batch is in memory
      num_people = 0
    batch.append((frame, boxes))
    num_people += len(boxes)
  if batch:
    yield batch


def _predict(predictor, batch) -> list[np.ndarray]:
  """The people of each frame; the batch is filled up, so that its program is the same each time."""
  frames, boxes = map(list, zip(*batch))
  counts = [len(found) for found in boxes]
  missing = -sum(counts) % predictor.config.eval.batch_size
  if sum(counts):
    height, width = frames[-1].pixels.shape[:2]
    filler = np.tile(np.array([0, 0, width, height], np.float32), (missing, 1))
    boxes[-1] = np.concatenate([boxes[-1], filler])
  people = predictor([frame.pixels for frame in frames], boxes)
  return [found[:count] for found, count in zip(people, counts)]


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
  """Yields a function that adds an element to a list in a file, whole whenever this is left."""
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


def _read_boxes(path) -> dict[int, np.ndarray]:
  """Frame -> boxes [N, 4]."""
  try:
    content = json.loads(pathlib.Path(path).expanduser().read_text(encoding='utf-8'))
    content = content['annotations'] if isinstance(content, dict) else content
    found = {}
    for row in content:
      index = int(row['frame'] if 'frame' in row else row['image_id'])
      found.setdefault(index, []).append(np.array(row['bbox'], np.float32))
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise errors.DataError(
      f"--boxes={path}: for a video it needs a list of {{'frame' (from 0), 'bbox'}} ({error!r})"
    ) from error
  for index, boxes in found.items():
    for box in boxes:
      if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > 0).all():
        raise errors.DataError(f'--boxes={path}: box {box.tolist()} of frame {index} is not usable')
  return {index: np.stack(boxes) for index, boxes in found.items()}
