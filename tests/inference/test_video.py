"""Prediction on generated videos: frames and people, constant memory, and damaged files."""

import json
import logging
import pathlib
import sys
import weakref

import av
import ml_collections
import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import predictors
from mrpose_jax import skeletons
from mrpose_jax.inference import detectors
from mrpose_jax.inference import prediction_settings
from mrpose_jax.inference import video
from mrpose_jax.inference import video_files
from tests.helpers import tiny_run

BATCH_SIZE = 8  # as in tiny_run


def write_video(path, num_frames=19, height=97, width=65, rotation=0, **options):
  """Writes ten frames per second; frame i is grey with a bright square at (i, 2 i)."""
  with av.open(str(path), 'w', options=options) as container:
    stream = container.add_stream('h264' if path.suffix != '.avi' else 'mpeg4', rate=10)
    stream.height, stream.width, stream.pix_fmt = height // 2 * 2, width // 2 * 2, 'yuv420p'
    if rotation:
      stream.set_display_rotation(rotation)
    for i in range(num_frames):
      pixels = np.full((stream.height, stream.width, 3), 60, np.uint8)
      pixels[2 * i : 2 * i + 20, i : i + 20] = (250, 240, 20)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
    container.mux(stream.encode())
  return path


def boxes_of(file):
  return prediction_settings.Settings(boxes=file)


def read_video(path):
  with av.open(str(path)) as container:
    frames = [(frame.time, frame.to_ndarray(format='rgb24')) for frame in container.decode(video=0)]
  return [time for time, _ in frames], [pixels for _, pixels in frames]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.write(tmp_path_factory.mktemp('video') / 'run')


@pytest.fixture
def loaded(monkeypatch):
  """List of the predictors that are loaded during the test."""
  loaded_predictors, load = [], predictors.load_predictor

  def keep(workdir, **settings):
    loaded_predictors.append(load(workdir, **settings))
    return loaded_predictors[-1]

  monkeypatch.setattr(predictors, 'load_predictor', keep)
  return loaded_predictors


def test_every_frame_is_a_person_drawn_and_in_the_file(workdir, tmp_path, loaded, caplog, capsys):
  source = write_video(tmp_path / 'walk.mkv')
  video.predict_video(workdir, source, tmp_path / 'out')
  assert 'each whole image is taken for one person' in caplog.text
  assert '19 people in 19 frames' in capsys.readouterr().out
  times, frames = read_video(source)
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [row['frame'] for row in rows] == list(range(19))
  np.testing.assert_allclose([row['seconds'] for row in rows], times, atol=1e-6)
  (predictor,) = loaded
  assert predictor._predict.func._cache_size() == 1  # batches of 8, 8 and 3
  expected = np.concatenate(predictor(frames[:4]))
  keypoints = [row['people'][0]['keypoints'] for row in rows[:4]]
  np.testing.assert_allclose(np.reshape(keypoints, (4, 17, 3)), expected, atol=1e-3)
  assert rows[0]['people'][0]['bbox'] == [0, 0, 64, 96]

  drawn_times, drawn = read_video(tmp_path / 'out' / 'walk.mp4')
  np.testing.assert_allclose(drawn_times, times, atol=1e-3)
  assert len(drawn) == 19


def test_skeletons_are_drawn_where_they_are(tmp_path, monkeypatch):
  class Predictor:
    """Predicts the centre of the square for all keypoints."""

    skeleton = skeletons.COCO
    config = ml_collections.ConfigDict({'eval': {'batch_size': 4}})

    def __call__(self, images, boxes):
      assert sum(map(len, boxes)) == 4
      middle = [np.argwhere(pixels[..., 0] > 200).mean(0)[::-1] for pixels in images]
      people = [
        np.concatenate([np.broadcast_to(xy, (17, 2)), np.ones((17, 1))], 1) for xy in middle
      ]
      return [np.stack([p] * len(frame_boxes)) for p, frame_boxes in zip(people, boxes)]

  monkeypatch.setattr(predictors, 'load_predictor', lambda workdir, batch_size: Predictor())
  target = video.predict_video('', write_video(tmp_path / 'a.mp4'), tmp_path / 'out')
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  for i, (row, picture) in enumerate(zip(rows, read_video(target)[1], strict=True)):
    x, y = row['people'][0]['keypoints'][:2]
    np.testing.assert_allclose((x, y), (i + 9.5, 2 * i + 9.5), atol=1)
    assert picture[round(y), round(x), 0] > 150 > picture[round(y), round(x) + 2, 2]


def test_boxes_by_frame(workdir, tmp_path, loaded):
  source = write_video(tmp_path / 'walk.mp4')
  boxes = [{'frame': 2, 'bbox': [4, 4, 30, 40]}, {'image_id': 9, 'bbox': [9, 9, 30, 50]}]
  boxes += [{'frame': 9, 'bbox': [i + 1, 5, 30, 40]} for i in range(11)]  # more than a batch
  (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
  target = video.predict_video(workdir, source, tmp_path / 'out', boxes_of(tmp_path / 'boxes.json'))
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [len(row['people']) for row in rows] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 12, *[0] * 9]
  assert len(read_video(target)[1]) == 19
  (predictor,) = loaded
  assert predictor._predict.func._cache_size() == 1
  frame = read_video(source)[1][9]
  expected = predictor(frame, [[9, 9, 30, 50], [1, 5, 30, 40]])
  people = [np.reshape(rows[9]['people'][n]['keypoints'], (17, 3)) for n in (0, 1)]
  np.testing.assert_allclose(people, expected, atol=1e-3)


def test_people_of_a_detector(workdir, tmp_path, monkeypatch):
  def detect(pixels):
    assert pixels.dtype == np.uint8 and pixels.shape == (96, 64, 3)
    return np.array([[5, 5, 30, 40], [10, 20, 30, 40]], np.float32), np.ones(2, np.float32)

  monkeypatch.setattr(detectors, 'load_detector', {'people.onnx': detect}.get)
  source = write_video(tmp_path / 'a.mp4', 5)
  settings = prediction_settings.Settings(detector='people.onnx')
  video.predict_video(workdir, source, tmp_path / 'out', settings)
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [len(row['people']) for row in rows] == [2] * 5


def test_only_one_batch_of_frames_is_in_memory(workdir, tmp_path, monkeypatch):
  alive, most = set(), 0
  read = video_files.Reader.__iter__

  def counted(self):
    nonlocal most
    for frame in read(self):
      alive.add(frame.index)
      weakref.finalize(frame.pixels, alive.discard, frame.index)
      most = max(most, len(alive))
      yield frame

  monkeypatch.setattr(video_files.Reader, '__iter__', counted)
  source = write_video(tmp_path / 'long.mp4', 70)
  video.predict_video(workdir, source, tmp_path / 'out')
  assert len(json.loads((tmp_path / 'out' / 'predictions.json').read_text())) == 70
  assert BATCH_SIZE <= most <= BATCH_SIZE + 2


@pytest.mark.parametrize(('frames', 'batch_size'), [(3, None), (100, 3)])
def test_frames_in_memory_are_limited(workdir, tmp_path, monkeypatch, loaded, frames, batch_size):
  monkeypatch.setattr(video, 'FRAME_MEMORY', frames * 96 * 64 * 3)
  lengths, predict = [], video._predict
  monkeypatch.setattr(
    video, '_predict', lambda p, batch, live: lengths.append(len(batch)) or predict(p, batch)
  )
  source = write_video(tmp_path / 'a.mp4', 7)
  settings = prediction_settings.Settings(batch_size=batch_size)
  video.predict_video(workdir, source, tmp_path / 'out', settings)
  assert lengths == [3, 3, 1]
  assert loaded[0]._predict.func._cache_size() == 1


def test_a_turned_telephone(tmp_path):
  upright = next(iter(video_files.Reader(write_video(tmp_path / 'a.mp4', 3)))).pixels
  turned = next(iter(video_files.Reader(write_video(tmp_path / 'b.mp4', 3, rotation=90)))).pixels
  assert turned.shape == (64, 96, 3)
  np.testing.assert_allclose(turned, np.rot90(upright), atol=2)


def test_a_relative_name_with_a_colon(workdir, tmp_path, monkeypatch):
  """FFmpeg would take what stands before the colon for a protocol."""
  name = '2026-01-02T10:30:00.mp4'
  source = write_video(tmp_path / name, num_frames=3)
  (tmp_path / 'out').mkdir()
  monkeypatch.chdir(tmp_path / 'out')
  assert video.predict_video(workdir, source, '.').name == name
  assert len(list(video_files.Reader(pathlib.Path(name)))) == 3


def test_odd_sizes_and_uneven_times(tmp_path):
  writer = video_files.Writer(tmp_path / 'a.mp4', 25)
  for seconds in (0.0, 0.04, 0.5, 0.5, 2.0):
    writer.write(np.full((31, 45, 3), 80, np.uint8), seconds)
  writer.close()
  times, frames = read_video(tmp_path / 'a.mp4')
  np.testing.assert_allclose(times, (0.0, 0.04, 0.5, 0.5, 2.0), atol=1e-3)
  assert frames[0].shape == (32, 46, 3)


def test_cut_off(workdir, tmp_path, caplog):
  whole = write_video(tmp_path / 'whole.mp4', 30, movflags='faststart').read_bytes()
  (tmp_path / 'cut.mp4').write_bytes(whole[: len(whole) * 8 // 10])
  with pytest.raises(errors.DataError, match=r'cut off after \d+ frames .*; these are done'):
    video.predict_video(workdir, tmp_path / 'cut.mp4', tmp_path / 'out')
  rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert 0 < len(rows) < 30
  assert len(read_video(tmp_path / 'out' / 'cut.mp4')[1]) == len(rows)

  whole = write_video(tmp_path / 'whole.mkv', 30).read_bytes()
  (tmp_path / 'cut.mkv').write_bytes(whole[: len(whole) * 7 // 10])
  video.predict_video(workdir, tmp_path / 'cut.mkv', tmp_path / 'out')
  assert 'frames, expected 30 from its duration; is the file cut off?' in caplog.text


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('a.mp4', b'no video at all', 'not a readable video'),
    ('a.mp4', b'', 'not a readable video'),
    ('a.avi', b'a text\n' * 900, 'not a'),
    ('a.mp4', 'cut', 'not a readable video'),
    ('a.wav', 'sound', 'not a video'),
    ('a.avi', 'empty', 'no frames in it'),
    ('absent.mp4', None, 'No such file'),
  ],
)
def test_what_is_no_video(workdir, tmp_path, name, content, message):
  path = tmp_path / name
  if content == 'cut':
    whole = write_video(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the index of the frames is lost
  elif content == 'sound':
    with av.open(str(path), 'w') as container:
      stream = container.add_stream('pcm_s16le', rate=8000, layout='mono')
      sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), 's16', 'mono')
      sound.sample_rate = 8000
      container.mux(stream.encode(sound))
  elif content == 'empty':
    with av.open(str(path), 'w') as container:
      stream = container.add_stream('mpeg4', rate=10)
      stream.pix_fmt = 'yuv420p'
      stream.height = stream.width = 32
      container.start_encoding()
  elif content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.DataError, match=message) as caught:
    video.predict_video(workdir, path, tmp_path / 'out')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'not a readable JSON file'),
    ('{}', 'needs a list of boxes'),
    ('[]', 'no box is left'),
    ('[{"bbox": [1, 2, 3, 4]}]', "'frame"),
    ('[{"frame": 0, "bbox": [1, 2, 3]}]', 'not usable'),
    ('[{"frame": 0, "bbox": [1, 2, 3, -4]}]', 'not usable'),
    ('[{"frame": 99, "bbox": [1, 2, 30, 40]}]', 'names none of the 2 frames'),
  ],
)
def test_boxes_that_cannot_be_used(workdir, tmp_path, content, message):
  source = write_video(tmp_path / 'a.mp4', 2)
  (tmp_path / 'boxes.json').write_text(content)
  with pytest.raises(errors.DataError, match=message):
    video.predict_video(workdir, source, tmp_path / 'out', boxes_of(tmp_path / 'boxes.json'))


def test_the_input_is_not_written_over(workdir, tmp_path):
  source = write_video(tmp_path / 'a.mp4', 2)
  before = source.read_bytes()
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'a.mp4').symlink_to(source)
  for output in (tmp_path, tmp_path / 'out'):
    with pytest.raises(errors.ConfigError, match='is the input'):
      video.predict_video(workdir, source, output)
    assert source.read_bytes() == before
  boxes = tmp_path / 'boxes' / 'predictions.json'
  boxes.parent.mkdir()
  boxes.write_text('[{"frame": 0, "bbox": [1, 2, 30, 40]}]')
  with pytest.raises(errors.ConfigError, match=r'predictions\.json there is the input'):
    video.predict_video(workdir, source, boxes.parent, boxes_of(boxes))


def test_without_pyav(workdir, tmp_path, monkeypatch):
  source = write_video(tmp_path / 'a.mp4', 2)
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(errors.ConfigError, match=r"pip install 'mrpose_jax\[video\]'"):
    video.predict_video(workdir, source, tmp_path / 'out')


def test_it_says_how_far_it_is(workdir, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr('mrpose_jax.runtime.progress_bar.LINE_SECONDS', 0)
  caplog.set_level(logging.INFO)
  video.predict_video(workdir, write_video(tmp_path / 'a.mp4', 10), tmp_path / 'out')
  logger = 'mrpose_jax.runtime.progress_bar'
  lines = [record.message for record in caplog.records if record.name == logger]
  assert [line.split(',')[0] for line in lines] == ['8 of 10 frames', '10 of 10 frames']
