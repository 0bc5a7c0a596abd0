"""Cameras, streams and windows: a server in this process sends, and no test needs a camera."""

import contextlib
import http.server
import io
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

from mrpose_jax import errors
from mrpose_jax.inference import prediction_settings
from mrpose_jax.inference import smoothing
from mrpose_jax.inference import video
from mrpose_jax.inference import video_files
from mrpose_jax.inference import window
from tests.helpers import tiny_run
from tests.inference import test_video

FRAMES = 19
CAMERA = ('lavfi', 'testsrc=rate=10:size=64x96,realtime', {})  # FFmpeg's own moving picture


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.write(tmp_path_factory.mktemp('streams') / 'run')


@contextlib.contextmanager
def served(parts, kind, length=None):
  """Serves bytes over HTTP and yields the URL; functions among the `parts` are called in turn."""

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
      self.send_response(200)
      self.send_header('Content-Type', kind)
      header = ('Content-Length', str(length)) if length else ('Transfer-Encoding', 'chunked')
      self.send_header(*header)
      self.end_headers()
      with contextlib.suppress(OSError):  # the reader has left
        for part in parts:
          self._send((part() or b'') if callable(part) else part)
        if not length:
          self.wfile.write(b'0\r\n\r\n')

    def _send(self, data):
      if length:
        self.wfile.write(data)
      elif data:
        self.wfile.write(b'%x\r\n%s\r\n' % (len(data), data))

    def log_message(self, *arguments):
      del arguments

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f'http://127.0.0.1:{server.server_port}/live'
  finally:
    server.shutdown()
    server.server_close()


@pytest.fixture
def live_file(tmp_path):
  """Bytes of an MPEG transport stream, which has no length."""
  return test_video.write_video(tmp_path / 'live.ts', FRAMES).read_bytes()


@pytest.fixture
def camera(monkeypatch):
  monkeypatch.setitem(video_files.CAMERAS, sys.platform, CAMERA)


def wait_until(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def read_output(folder, name='stream.mp4'):
  rows = json.loads((folder / 'predictions.json').read_text())
  times, frames = test_video.read_video(folder / name)
  assert len(rows) == len(frames)
  np.testing.assert_allclose([row['seconds'] for row in rows], times, atol=1e-3)
  return rows


def test_a_stream(workdir, tmp_path, live_file, capsys):
  with served([live_file], 'video/mp2t') as url:
    target = video.predict_video(workdir, url, tmp_path / 'out')
  assert target == tmp_path / 'out' / 'stream.mp4'
  rows = read_output(tmp_path / 'out')
  indices = [row['frame'] for row in rows]
  assert indices == sorted(set(indices)) and indices[-1] == FRAMES - 1
  seconds = (np.array(indices) - indices[0]) / 10
  np.testing.assert_allclose([row['seconds'] for row in rows], seconds, atol=1e-6)
  skipped = FRAMES - len(rows)
  assert f'{len(rows)} people in {len(rows)} frames: {tmp_path / "out"}' in (
    line := capsys.readouterr().out
  )
  assert (f', {skipped} frames skipped' in line) == (skipped > 0)


def test_frames_that_arrive_meanwhile_are_skipped(live_file):
  with served([live_file], 'video/mp2t') as url:
    with contextlib.closing(video_files.Reader(url)) as reader:
      assert reader.live
      iterator = iter(reader)
      first = next(iterator)
      wait_until(lambda: reader.skipped >= FRAMES - 2)
      *_, last = frames = [first, *iterator]  # one frame if all had arrived before the first
  assert last.index == FRAMES - 1
  assert len(frames) == FRAMES - reader.skipped
  np.testing.assert_allclose(last.seconds, (last.index - first.index) / 10, atol=1e-6)


def test_a_video_over_http_is_read_whole(workdir, tmp_path):
  file = test_video.write_video(tmp_path / 'a.mp4', FRAMES, movflags='faststart').read_bytes()
  with served([file], 'video/mp4', len(file)) as url:
    video.predict_video(workdir, url, tmp_path / 'out')
  assert [row['frame'] for row in read_output(tmp_path / 'out')] == list(range(FRAMES))


def test_a_camera_that_sends_single_jpegs(monkeypatch):
  """These have no times, so that the time of their arrival counts."""
  content = io.BytesIO()
  Image.new('RGB', (64, 48), 'navy').save(content, 'jpeg')
  header = f'--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {content.tell()}\r\n\r\n'
  part = header.encode() + content.getvalue() + b'\r\n'
  with served([part] * FRAMES, 'multipart/x-mixed-replace;boundary=frame') as url:
    with contextlib.closing(video_files.Reader(url)) as reader:
      assert reader.live
      clock = iter((1000.0, 1000.25, 1000.25, 1003.0))
      monkeypatch.setattr(video_files, 'time', types.SimpleNamespace(monotonic=lambda: next(clock)))
      decoded = list(itertools.islice(reader._decoded(), 4))
  assert [(frame.width, frame.height) for _, _, frame in decoded] == [(64, 48)] * 4
  assert [seconds for _, seconds, _ in decoded] == [0, 0.25, 0.25, 3]


def test_a_clock_that_is_set_back(camera, monkeypatch):
  """Times go on by one frame's duration; ten frames per second."""
  clock = iter((7.0, 7.5, 0.0, 0.25, 0.25))
  monkeypatch.setattr(video_files.Reader, '_clock', lambda self, index, frame: next(clock))
  with contextlib.closing(video_files.Reader('0')) as reader:
    seconds = [seconds for _, seconds, _ in itertools.islice(reader._decoded(), 5)]
  np.testing.assert_allclose(seconds, (0, 0.5, 0.6, 0.85, 0.85))


def test_people_of_a_camera_have_identities(workdir, tmp_path, camera):
  """The detector finds two people in changing order; the sixth frame is the last one."""
  calls = []

  def detect(image):
    calls.append(image)
    if len(calls) == 6:
      os.kill(os.getpid(), signal.SIGINT)
    boxes = [[2 + len(calls), 10, 20, 60], [30, 5, 25, 80]]
    return boxes if len(calls) % 2 else boxes[::-1]

  settings = prediction_settings.Settings(detector=detect, track=True)
  with pytest.raises(errors.Stopped, match='SIGINT after 6 frames of camera 0; these are done'):
    video.predict_video(workdir, '0', tmp_path / 'out', settings)
  rows = read_output(tmp_path / 'out')
  numbers = [[person['track_id'] for person in row['people']] for row in rows]
  assert numbers == [[1, 2], [2, 1]] * 3


def test_keypoints_are_smoothed(workdir, tmp_path):
  """The first frame is as without smoothing, and the others are between it and their own."""
  source = test_video.write_video(tmp_path / 'a.mp4', 3)
  rows = {}
  for smooth in (False, True):
    settings = prediction_settings.Settings(smooth=smooth)
    video.predict_video(workdir, source, tmp_path / 'out', settings)
    rows[smooth] = [row['people'][0] for row in read_output(tmp_path / 'out', 'a.mp4')]
  assert 'track_id' not in rows[False][0]
  assert [person['track_id'] for person in rows[True]] == [1, 1, 1]
  plain, smooth = (np.array([p['keypoints'] for p in rows[s]]) for s in (False, True))
  plain, smooth = plain.reshape(3, 17, 3), smooth.reshape(3, 17, 3)
  smoother = smoothing.Smoother()
  for i in range(3):
    box = np.array([[0, 0, 64, 96]])
    expected = smoother(plain[i][None], box, [1], i / 10)
    np.testing.assert_allclose(smooth[i], expected[0], atol=1e-3)
  assert np.abs(smooth - plain)[1:].max() > 0.01


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_video(workdir, tmp_path, number, capsys):
  """The frame at hand is the last one, and the files are complete."""
  calls = []

  def detect(image):
    calls.append(image)
    if len(calls) == 6:
      os.kill(os.getpid(), number)
    return [[5, 5, 30, 40]]

  source = test_video.write_video(tmp_path / 'a.mp4', FRAMES)
  settings = prediction_settings.Settings(detector=detect)
  message = rf'{signal.Signals(number).name} after 6 frames of .*a\.mp4; these are done'
  with pytest.raises(errors.Stopped, match=message) as raised:
    video.predict_video(workdir, source, tmp_path / 'out', settings)
  assert raised.value.exit_code == 143
  assert len(read_output(tmp_path / 'out', 'a.mp4')) == 6
  assert '6 people in 6 frames' in capsys.readouterr().out


def test_a_signal_ends_a_stream(workdir, tmp_path, live_file):
  """The signal comes while the reader waits for the sender, who is silent for a while."""

  def wait():
    file = tmp_path / 'out' / 'predictions.json'
    wait_until(lambda: file.exists() and '"frame"' in file.read_text())
    os.kill(os.getpid(), signal.SIGINT)
    return live_file

  with served([live_file, live_file, wait], 'video/mp2t') as url:
    with pytest.raises(errors.Stopped, match='SIGINT after'):
      video.predict_video(workdir, url, tmp_path / 'out')
  assert read_output(tmp_path / 'out')


class Screen:
  """In place of a window: keeps what it shows, and is closed after three frames."""

  def __init__(self, title):
    self.title, self.frames, self.is_open = title, [], True

  @property
  def closed(self):
    return len(self.frames) >= 3

  def write(self, pixels, seconds):
    self.frames.append(pixels)

  def close(self):
    self.is_open = False


@pytest.mark.parametrize('source', ['0', 'a.mp4'])
def test_without_output_a_window_shows_it(workdir, tmp_path, monkeypatch, camera, capsys, source):
  screens = []
  monkeypatch.setattr(window, 'Window', lambda title: screens.append(Screen(title)) or screens[0])
  monkeypatch.chdir(tmp_path)
  test_video.write_video(tmp_path / 'a.mp4', FRAMES)
  settings = prediction_settings.Settings(batch_size=1)
  assert video.predict_video(workdir, source, settings=settings) is None
  (screen,) = screens
  assert (screen.is_open, screen.title) == (False, source)
  assert 3 <= len(screen.frames) <= 4  # the frame at hand
  assert screen.frames[0].shape == (96, 64, 3)
  assert re.search('([34]) people in \\1 frames: shown', capsys.readouterr().out)
  assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_a_window_where_there_is_a_display():
  """Skipped without a display; frames that are larger than the screen are made smaller."""
  tkinter = pytest.importorskip('tkinter')
  try:
    tkinter.Tk().destroy()
  except tkinter.TclError as error:
    pytest.skip(str(error))
  screen = window.Window('a title')
  screen.write(np.full((60, 80, 3), 90, np.uint8), 0)
  assert (screen._photo.width(), screen._photo.height()) == (80, 60)
  screen.write(np.full((30_000, 100, 3), 90, np.uint8), 0)
  assert screen._photo.height() <= screen._root.winfo_screenheight()
  assert not screen.closed
  screen._root.event_generate('q', when='tail')
  screen._root.focus_force()
  screen._root.event_generate('<Escape>')
  screen._root.update()
  assert screen.closed
  screen.close()


def test_without_a_display(workdir, tmp_path, monkeypatch):
  tkinter = pytest.importorskip('tkinter')

  def fail():
    raise tkinter.TclError('no display name and no $DISPLAY environment variable')

  monkeypatch.setattr(tkinter, 'Tk', fail)
  source = test_video.write_video(tmp_path / 'a.mp4', 2)
  with pytest.raises(errors.ConfigError, match=r'no window can be opened: no display.*--output'):
    video.predict_video(workdir, source)
  monkeypatch.setitem(sys.modules, 'tkinter', None)
  with pytest.raises(errors.ConfigError, match=r'no window can be opened: .*--output'):
    video.predict_video(workdir, source)


@pytest.mark.parametrize('name', ['stream.mp4', 'predictions.json'])
def test_a_recording_is_not_written_over(workdir, tmp_path, camera, name):
  (tmp_path / name).write_bytes(b'recorded')
  with pytest.raises(errors.ConfigError, match=f'{name} is there already; choose another folder'):
    video.predict_video(workdir, '0', tmp_path)
  assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b'recorded')]


def test_a_recording_can_be_played_before_it_is_complete(tmp_path):
  writer = video_files.Writer(tmp_path / 'a.mp4', 10, live=True)
  for i in range(100):
    writer.write(np.full((48, 64, 3), i, np.uint8), i / 10)
  times, _ = test_video.read_video(tmp_path / 'a.mp4')
  assert 2 < len(times) < 100  # the encoder keeps some frames
  np.testing.assert_allclose(times, np.arange(len(times)) / 10, atol=1e-3)
  writer.close()
  times, _ = test_video.read_video(tmp_path / 'a.mp4')
  np.testing.assert_allclose(times, np.arange(100) / 10, atol=1e-3)


def test_a_live_source_has_no_boxes(workdir, tmp_path, camera):
  (tmp_path / 'boxes.json').write_text('[{"frame": 0, "bbox": [1, 2, 30, 40]}]')
  settings = prediction_settings.Settings(boxes=tmp_path / 'boxes.json')
  with pytest.raises(errors.ConfigError, match='--boxes: camera 0 is live; name a --detector'):
    video.predict_video(workdir, '0', tmp_path / 'out', settings)
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ('97', 'camera 97: not a readable video'),
    ('rtsp://user:secret@127.0.0.1:1/live', r'^rtsp://127.0.0.1:1/live: not a readable video'),
    ('HTTP://127.0.0.1:1/live', '^HTTP://127.0.0.1:1/live: not a readable video'),
  ],
)
def test_sources_that_are_not_there(workdir, tmp_path, source, message):
  with pytest.raises(errors.DataError, match=message) as raised:
    video.predict_video(workdir, source, tmp_path / 'out')
  assert 'secret' not in str(raised.value) and '\n' not in str(raised.value)
  assert not (tmp_path / 'out').exists()


def test_cameras_without_numbers(monkeypatch):
  monkeypatch.setattr(sys, 'platform', 'win32')
  with pytest.raises(errors.ConfigError, match='cameras have numbers on Linux and macOS only'):
    video_files.Reader('0')


def test_what_is_a_video(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for source in (
    'a.mp4',
    'folder/A.MKV',
    '0',
    '12',
    'rtsp://host/live',
    'https://host/' + 'a' * 5000,
  ):
    assert video_files.is_video(source), source
  (tmp_path / '12').mkdir()
  for source in ('a.jpg', 'photos', '12', '.'):
    assert not video_files.is_video(source), source
