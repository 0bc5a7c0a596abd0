"""--mode=predict for a folder of images: writes predictions.json and pictures."""

import collections
import itertools
import logging
import pathlib

import numpy as np
from PIL import Image

from mrpose_jax import errors
from mrpose_jax import predictors
from mrpose_jax import visualize
from mrpose_jax.inference import detectors
from mrpose_jax.inference import outputs
from mrpose_jax.inference import video
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.runtime import checkpoint

log = logging.getLogger(__name__)

TOGETHER = 8  # images in memory at once; their people share batches
PREDICTIONS = 'predictions.json'
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def predict_folder(
  workdir,
  source,
  output,
  boxes_file=None,
  detector=None,
  box_threshold: float = 0.0,
  batch_size: int | None = None,
):
  """Predicts the keypoints of the people in every image, turned upright by its EXIF orientation.

  Writes OUTPUT/predictions.json, a list of {'file_name', 'bbox', 'keypoints' (x, y, score, ...),
  'score' (mean of the keypoints' scores)}, and a picture with the skeletons drawn for each image:
  OUTPUT/a.jpg for a.png, or OUTPUT/a.png.jpg if there is another image a. A video as `source` is
  passed on to `video.predict_video`.

  Args:
    workdir: folder of a training run or of one checkpoint.
    source: a folder of images, or one image.
    output: folder to write to; it is created if missing.
    boxes_file: file of boxes, see `detection_files.read_by_file`.
    detector: name of a person detector, or a function, see `detectors.load_detector`. Without boxes
      and detector, each whole image is taken as the bounding box of one person.
    box_threshold: boxes of `boxes_file` with a lower score are left out.
    batch_size: number of people in a batch; by default the run's `eval.batch_size`.

  Raises:
    ConfigError: both boxes and a detector are given, or the output would overwrite the input.
    DataError: there are no images, the boxes are invalid, or some images could not be read; the
      last is raised after all other images are done.
    CheckpointError: there is no usable checkpoint, or the detector is unusable.
  """
  if boxes_file is not None and detector is not None:
    raise errors.ConfigError('--boxes and --detector: give one of the two')
  if pathlib.Path(source).suffix.lower() in video.EXTENSIONS:
    return video.predict_video(
      workdir, source, output, boxes_file, detector, box_threshold, batch_size
    )
  files = _find_images(pathlib.Path(source).expanduser())
  output = pathlib.Path(output).expanduser()
  pictures = _picture_names(files)
  inputs = [*files, files[0].parent]
  boxes = None
  if boxes_file is not None:
    names = [file.name for file in files]
    boxes = detection_files.read_by_file(boxes_file, names, box_threshold)
    inputs.append(pathlib.Path(boxes_file).expanduser())
  outputs.check(output, [*pictures.values(), PREDICTIONS], inputs)
  detect = None if detector is None else detectors.load_detector(detector)
  if boxes is None and detect is None:
    log.warning('no --boxes and no --detector: each whole image is taken for one person')
  predictor = predictors.load_predictor(workdir, batch_size=batch_size)
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
      if detect is not None:
        yield file, image, detect(image)[0]
      elif boxes is not None:
        yield file, image, boxes[file.name]
      else:
        yield file, image, np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)

  stream = read()
  while group := list(itertools.islice(stream, TOGETHER)):
    _, group_images, group_boxes = zip(*group)
    group_people = predictor(list(group_images), list(group_boxes))
    for (file, image, image_boxes), people in zip(group, group_people):
      rows += [_row(file.name, box, person) for box, person in zip(image_boxes, people)]
      drawn = visualize.draw_people(image, people, predictor.skeleton)
      Image.fromarray(drawn).save(output / pictures[file], quality=92)
  checkpoint.write_json(output / PREDICTIONS, rows)
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
