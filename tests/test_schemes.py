"""Every argument that takes a path: s3:// is refused, and gs:// where only a local path will do."""

import pathlib

import pytest
from PIL import Image

from examples import mice
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import predictors
from mrpose_jax import train
from mrpose_jax.inference import detectors
from mrpose_jax.inference import export
from mrpose_jax.inference import image_folder
from mrpose_jax.inference import prediction_settings
from mrpose_jax.inference import video
from mrpose_jax.input_pipeline import browse
from mrpose_jax.input_pipeline import convert
from mrpose_jax.input_pipeline import prepare
from mrpose_jax.input_pipeline import sigmas
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.report import comparison
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import configuration
from mrpose_jax.weights import importing
from mrpose_jax.weights import publishing
from mrpose_jax.weights import torch_files
from tests.helpers import tiny_people

HERE = pathlib.Path('.')


def config(**fields):
  """The tests' configuration with these fields, as section__name."""
  values = tiny_people.config()
  for name, value in fields.items():
    section, field = name.split('__')
    values[section][field] = value
  return values


def predict(call, address=None, output='out', **fields):
  """Calls `predict_folder` or `predict_video`."""
  source = address or {image_folder.predict_folder: HERE, video.predict_video: 'a.mp4'}[call]
  call('workdir', source, output, prediction_settings.Settings(**fields))


# Arguments that may be in a bucket, or have a scheme of their own, such as hf://.
ANYWHERE = {
  'train --workdir': lambda x: train.train_and_evaluate(config(), x),
  'eval --workdir': lambda x: evaluate.evaluate(config(), x),
  'predict --workdir': predictors.load_predictor,
  'Path of a workdir': lambda x: predictors.load_predictor(pathlib.Path(x)),
  'workdir of a checkpoint': lambda x: checkpoint.locate(f'{x}/checkpoints/7'),
  'export --workdir': lambda x: export.export(x, 'pose.stablehlo'),
  'publish --workdir': lambda x: publishing.publish(x, HERE),
  'import --workdir': lambda x: importing.import_weights(config(), {}, x),
  'import --input': lambda x: importing.import_weights(config(), x, 'workdir'),
  'report WORKDIR': lambda x: comparison.write([x], 'out'),
  'report --data_dir': lambda x: comparison.write([HERE], 'out', x),
  'model.pretrained': lambda x: configuration.check(config(model__pretrained=x)),
  'data.data_dir': lambda x: configuration.open_dataset(config(data__data_dir=x)),
  'data.data_dir of drawn people': lambda x: configuration.open_dataset(
    config(data__data_dir=x, data__name='synthetic_people')
  ),
  'data.mix': lambda x: configuration.open_mix(
    config(data__mix=(('coco', x, 1),)), configuration.open_dataset(config())
  ),
  '--detector with a kind': lambda x: detectors.load_detector(f'rtmdet:{x}'),
}
# Arguments that have to be local, and are read.
READ = {
  'prepare --source': lambda x: prepare.prepare('coco', x, 'out'),
  'convert --source': lambda x: convert.convert(x, 'out'),
  'convert --images': lambda x: convert.convert(HERE, 'out', images=x),
  'sigmas FILE': lambda x: sigmas.estimate([x]),
  'open_dataset': lambda x: prepared_data.open_dataset('coco', x),
  'predict --input': lambda x: predict(image_folder.predict_folder, x),
  'predict --input=VIDEO': lambda x: predict(video.predict_video, f'{x}.mp4'),
  'predict --boxes': lambda x: predict(image_folder.predict_folder, boxes=x),
  'predict --boxes of a video': lambda x: predict(video.predict_video, boxes=x),
  'predict --detector': lambda x: predict(image_folder.predict_folder, detector=x),
  'load_detector': detectors.load_detector,
  'eval.detections': lambda x: configuration.check(config(eval__detections=x)),
  'detections': lambda x: detection_files.read(x, 0.0, [1], {}),
  'image of a predictor': lambda x: image_files.read(x, exif=True),
  'torch weights': torch_files.read,
}
# Arguments that have to be local, and are written.
WRITTEN = {
  'prepare --data_dir': lambda x: prepare.prepare('coco', HERE, x),
  'prepare --data_dir of drawn people': lambda x: prepare.prepare('synthetic_people', None, x),
  'convert --output': lambda x: convert.convert(HERE, x),
  'browse --output': lambda x: browse.browse(config(), x),
  'predict --output': lambda x: predict(image_folder.predict_folder, output=x),
  'predict --output of a video': lambda x: predict(video.predict_video, output=x),
  'export --output': lambda x: export.export('workdir', x),
  'publish --output': lambda x: publishing.publish('workdir', x),
  'report --output': lambda x: comparison.write([HERE], x),
  'mice FOLDER': mice.write,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current folder, with one image, in which nothing may be made."""
  Image.new('RGB', (8, 8)).save(tmp_path / 'a.jpg')
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  assert [path.name for path in tmp_path.rglob('*')] == ['a.jpg']


@pytest.mark.parametrize(
  'call', (ANYWHERE | READ | WRITTEN).values(), ids=ANYWHERE | READ | WRITTEN
)
@pytest.mark.parametrize('scheme', ['s3', 'az'])
def test_other_schemes_are_refused(folder, scheme, call):
  with pytest.raises(errors.ConfigError, match=f"{scheme}://? cannot be used|kind '.*{scheme}'"):
    call(f'{scheme}://bucket/x')


@pytest.mark.parametrize('call', READ.values(), ids=READ)
def test_what_has_to_be_copied_from_a_bucket(folder, call):
  command = r'gcloud storage (rsync -r gs://bucket/x FOLDER|cp gs://bucket/x\.mp4 FILE)'
  with pytest.raises(errors.ConfigError, match=command):
    call('gs://bucket/x')


@pytest.mark.parametrize('call', WRITTEN.values(), ids=WRITTEN)
def test_what_has_to_be_copied_to_a_bucket(folder, call):
  with pytest.raises(errors.ConfigError, match='gcloud storage rsync -r FOLDER gs://bucket/x'):
    call('gs://bucket/x')
