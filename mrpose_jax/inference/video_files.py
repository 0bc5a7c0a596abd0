"""Reads videos, cameras and streams, and writes videos.

It needs PyAV, which includes FFmpeg: pip install 'mrpose_jax[video]'.
"""

import fractions
import itertools
import os
import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
from typing import ClassVar
from typing import NamedTuple

import numpy as np

from mrpose_jax import errors

EXTENSIONS = (
  *('.avi', '.flv', '.gif', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv'),
  *('.ts', '.webm', '.wmv'),
)
TIMEOUT = 10  # seconds without data after which a stream counts as broken
POLL_SECONDS = 0.1  # between two questions whether to stop, while a live source sends nothing
MAX_RATE = 240  # frames per second
# Schemes of URLs that FFmpeg reads a video or a stream from.
STREAMS = ('http', 'https', 'rtmp', 'rtmps', 'rtp', 'rtsp', 'rtsps', 'srt', 'tcp', 'udp')
# Cameras by platform: FFmpeg's format, the name of number {}, and options.
CAMERAS = {
  'linux': ('v4l2', '/dev/video{}', {}),
  'darwin': ('avfoundation', '{}', {'framerate': '30'}),
}


class Frame(NamedTuple):
  """One frame of a video.

  Attributes:
    index: number of the frame, from 0.
    seconds: time since the first frame that was not skipped; it never decreases.
    pixels: uint8 [H, W, 3] RGB, rotated as the file specifies.
  """

  index: int
  seconds: float
  pixels: np.ndarray


def is_video(source: str) -> bool:
  """Whether `source` is a video file by its name, or a camera or stream."""
  return not is_path(source) or pathlib.Path(source).suffix.lower() in EXTENSIONS


def is_path(source) -> bool:
  """Whether `source` is a path; otherwise it is a camera's number or a stream's URL."""
  text = str(source)
  is_url = '://' in text and text.partition('://')[0].lower() in STREAMS
  return not (text.isdecimal() or is_url) or os.path.exists(source)


class Reader:
  """Iterator over the frames of a video, which are decoded on demand.

  A camera or a stream without an end is live: a thread reads it, and frames that nobody waited for
  are skipped, so that the frames are current and memory does not grow.

  Attributes:
    name: the source, for messages; without the password of a URL.
    live: whether the source is a camera or has no known length.
    rate: average number of frames per second.
    frame_bytes: size of a decoded frame in memory.
    expected_frames: number of frames according to the file's header, or None.
    skipped: number of frames of a live source that were skipped.
    damage: reason why reading stopped early, or ''.

  Raises:
    ConfigError: PyAV is missing, or cameras have no numbers on this platform.
    DataError: the source cannot be opened, is not a video or, on iteration, holds no frames.
  """

  def __init__(self, source, stopped: Callable[[], bool] = lambda: False):
    """Opens a video file, a camera by its number, or a URL; iteration ends once `stopped()`."""
    self._av = _pyav()
    self._stopped = stopped
    self._executor = futures.ThreadPoolExecutor(1)
    self._closing = threading.Event()
    is_camera = not is_path(source) and str(source).isdecimal()
    self.name = f'camera {source}' if is_camera else re.sub('//[^/@]*@', '//', str(source))
    self.damage, self.skipped = '', 0
    try:
      self._container = self._open(source)
    except (self._av.FFmpegError, OSError) as error:
      raise errors.DataError(f'{self.name}: not a readable video ({error.strerror})') from error
    streams = self._container.streams.video
    if not streams or self._container.format.name == 'tty':  # FFmpeg opens text files as videos
      raise errors.DataError(f'{self.name}: not a video')
    self._stream = streams[0]
    self.live = not is_path(source) and not self._container.duration
    self._stream.thread_type = 'SLICE' if self.live else 'AUTO'  # AUTO holds frames back
    self.rate = self._stream.average_rate or 25
    self.frame_bytes = 3 * self._stream.width * self._stream.height
    self.expected_frames = self._stream.frames or None
    if not self.expected_frames and self._container.duration:
      seconds = self._container.duration / self._av.time_base
      self.expected_frames = round(seconds * self.rate)

  def _open(self, source):
    if is_path(source):
      return self._av.open(_ffmpeg_name(source))
    if not str(source).isdecimal():
      return self._av.open(source, timeout=TIMEOUT)
    if sys.platform not in CAMERAS:
      raise errors.ConfigError(
        f'--input={source}: cameras have numbers on Linux and macOS only; name the URL of a stream'
      )
    kind, name, options = CAMERAS[sys.platform]
    return self._av.open(name.format(source), format=kind, options=options)

  def __iter__(self) -> Iterator[Frame]:
    first = None
    for index, seconds, frame in self._newest() if self.live else self._decoded():
      first = seconds if first is None else first
      # Telephones store the sensor's image together with its rotation.
      pixels = np.rot90(frame.to_ndarray(format='rgb24'), round(frame.rotation / 90))
      yield Frame(index, seconds - first, np.ascontiguousarray(pixels))
      if self._stopped():
        return
    if first is None and not self._stopped():
      raise errors.DataError(f'{self.name}: no frames in it ({self.damage or "an empty video"})')

  def close(self):
    self._closing.set()
    self._executor.shutdown()
    self._container.close()

  def _decoded(self):
    """Yields index, seconds since frame 0, and the frame."""
    frames = self._container.decode(self._stream)
    seconds = last = None
    for index in itertools.count():
      try:
        frame = next(frames)
      except StopIteration:
        break
      except self._av.FFmpegError as error:
        self.damage = error.strerror
        break
      now = self._clock(index, frame)
      if last is None:
        seconds = 0.0
      else:  # a sender may set its clock back
        seconds += float(now - last if now >= last else 1 / self.rate)
      last = now
      yield index, seconds, frame
    if not self.damage and index < 0.95 * self._stream.frames:
      self.damage = f'its header promises {self._stream.frames}'

  def _clock(self, index, frame):
    if self._container.format.name == 'mpjpeg':  # single JPEGs over HTTP, without times
      return time.monotonic()
    return index / self.rate if frame.time is None else frame.time

  def _newest(self):
    """Yields the newest item of `_decoded` each time; a thread reads on and skips older ones."""
    newest, condition = [], threading.Condition()

    def read():
      for item in self._decoded():
        with condition:
          self.skipped += len(newest)
          newest[:] = [item]
          condition.notify()
        if self._closing.is_set():
          break

    reading = self._executor.submit(read)
    while not self._stopped():
      ended = reading.done()
      with condition:
        condition.wait_for(lambda: newest, 0 if ended else POLL_SECONDS)
        items = [newest.pop()] if newest else []
      yield from items
      if ended and not items:
        return reading.result()  # raises what the thread raised


class Writer:
  """Writes frames at their times to an MP4 file (H.264, for players and browsers)."""

  TICKS = 90_000  # per second; all common frame rates divide it
  # A file in fragments, here of a second, can be played after each of them, and needs no index of
  # all frames in memory.
  FRAGMENTS: ClassVar = {
    'movflags': 'empty_moov+default_base_moof',
    'frag_duration': '1000000',
    'flush_packets': '1',
  }

  def __init__(self, path: pathlib.Path, rate, live: bool = False):
    """`rate` is in frames per second; a `live` video is written in fragments."""
    self._av, self._path = _pyav(), path
    self._live = live
    self._rate = rate if rate <= MAX_RATE else 25  # some streams give their clock's rate
    self._container = self._stream = None
    self._last = -1

  def write(self, pixels: np.ndarray, seconds: float):
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
    if self._container is None:
      options = self.FRAGMENTS if self._live else {}
      self._container = self._av.open(_ffmpeg_name(self._path), 'w', options=options)
      self._stream = self._container.add_stream('h264', rate=self._rate)
      self._stream.height, self._stream.width = pixels.shape[:2]
      self._stream.pix_fmt = 'yuv420p'
      if self._live:
        self._stream.codec_context.max_b_frames = 0  # they would be written later than they came
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


def _ffmpeg_name(path) -> str:
  """The path as FFmpeg reads it: in a relative one, a colon would end the name of a protocol."""
  return str(pathlib.Path(path).absolute())
