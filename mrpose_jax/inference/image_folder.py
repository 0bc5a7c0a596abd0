"""--mode=predict for a folder of images: writes predictions.json and pictures."""

import collections
import itertools
import logging

from PIL import Image

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import predictors
from mrpose_jax import visualize
from mrpose_jax.inference import outputs
from mrpose_jax.inference import prediction_settings
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.host import image_files

log = logging.getLogger(__name__)

TOGETHER = 8  # images in memory at once; their people share batches
PREDICTIONS = 'predictions.json'
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def predict_folder(
  workdir,
  source,
  output,
  settings: prediction_settings.Settings = prediction_settings.DEFAULT,
):
  """Predicts the keypoints of the people in every image, turned upright by its EXIF orientation.

  Writes OUTPUT/predictions.json, a list of {'file_name', 'bbox', 'keypoints' (x, y, score, ...),
  'score' (mean of the keypoints' scores)}, and a picture with the skeletons drawn for each image:
  OUTPUT/a.jpg for a.png, or OUTPUT/a.png.jpg if there is another image a.

  Args:
    workdir: folder of a training run or of one checkpoint.
    source: a folder of images, or one image.
    output: folder to write to; it is created if missing.
    settings: see `Settings`. Images that a file of boxes does not list are left out.

  Raises:
    ConfigError: the output would overwrite the input, or the settings are those of videos.
    DataError: there are no images, the boxes are invalid, or some images could not be read; the
      last is raised after all other images are done.
    CheckpointError: there is no usable checkpoint, or the detector is unusable.
  """
  if settings.track or settings.smooth:
    raise errors.ConfigError(f'--track and --smooth need a video, but --input={source} is none')
  files = _find_images(paths.parse_local(source, '--input'))
  output = paths.parse_local(output, '--output', written=True)
  pictures = _picture_names(files)
  inputs = [*files, files[0].parent]
  boxes = None
  if settings.boxes is not None:
    names = [file.name for file in files]
    boxes = detection_files.read_by_file(settings.boxes, names, settings.box_threshold)
    inputs.append(paths.parse_local(settings.boxes, '--boxes'))
  outputs.check(output, [*pictures.values(), PREDICTIONS], inputs)
  find_boxes = settings.box_finder(boxes)
  predictor = predictors.load_predictor(workdir, batch_size=settings.batch_size)
  output.mkdir(parents=True, exist_ok=True)
  rows, unreadable = [], []

  def read():
    """Yields the file, pixels and boxes of each readable image."""
    for file in files:
      if boxes is not None and file.name not in boxes:
        log.info('%s: no boxes, left out', file.name)
        continue
      try:
        image = image_files.read(file, exif=True)
      except errors.DataError as error:
        log.warning('%s', error)
        unreadable.append(file.name)
        continue
      yield file, image, find_boxes(file.name, image)

  stream = read()
  while group := list(itertools.islice(stream, TOGETHER)):
    _, group_images, group_boxes = zip(*group)
    group_people = predictor(list(group_images), list(group_boxes))
    for (file, image, image_boxes), people in zip(group, group_people):
      rows += [_row(file.name, box, person) for box, person in zip(image_boxes, people)]
      drawn = visualize.draw_people(image, people, predictor.skeleton)
      Image.fromarray(drawn).save(output / pictures[file], quality=92)
  paths.write_json(output / PREDICTIONS, rows)
  print(f'{len(rows)} people in {len(files) - len(unreadable)} images: {output}')
  if unreadable:
    raise errors.DataError(
      f'{len(unreadable)} of {len(files)} images could not be read, the others are done: '
      f'{", ".join(unreadable[:5])}'
    )


def _row(file_name, box, person):
  return {
    'file_name': file_name,
    'bbox': [float(value) for value in box],
    'keypoints': [round(float(value), 4) for value in person.ravel()],
    'score': float(person[:, 2].mean()),
  }


def _picture_names(files):
  """Returns {file: name of its picture}; a.png and A.jpg count as the same name."""
  stems = collections.Counter(name.casefold() for file in files for name in {file.stem, file.name})
  return {
    file: f'{file.stem if stems[file.stem.casefold()] == 1 else file.name}.jpg' for file in files
  }


def _find_images(source):
  if source.is_file():
    return [source]
  if not source.is_dir():
    raise errors.DataError(f'--input={source}: there is no such file or folder')
  files = sorted(file for file in source.iterdir() if file.suffix.lower() in EXTENSIONS)
  if not files:
    raise errors.DataError(f'--input={source}: no images ({", ".join(EXTENSIONS)}) in this folder')
  return files
