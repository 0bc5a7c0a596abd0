"""--mode=predict for a folder of images: writes predictions.json and pictures."""

import itertools
import json
import logging
import pathlib

import numpy as np
from PIL import Image

from input_pipeline.host import image_files
from mrpose_jax import errors
from mrpose_jax import predictors
from mrpose_jax import visualize
from mrpose_jax.inference import detectors
from mrpose_jax.inference import video
from mrpose_jax.runtime import checkpoint

log = logging.getLogger(__name__)

TOGETHER = 8  # images in memory at once; their people share batches
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def predict_folder(workdir, source, output, boxes_file=None, detector=None):
  """Predicts the keypoints of the people in every image.

  Writes OUTPUT/predictions.json, a list of {'file_name', 'bbox', 'keypoints' (x, y, score, ...),
  'score' (mean of the keypoints' scores)}, and OUTPUT/NAME.jpg with the skeletons drawn. A video
  as `source` is passed on to `video.predict_video`.

  Args:
    workdir: folder of a training run or of one checkpoint.
    source: a folder of images, or one image.
    output: folder to write to; it is created if missing.
    boxes_file: JSON list of {'bbox' [x, y, width, height], and 'file_name' or 'image_id' (the
      number in the file's name)}.
    detector: name of a person detector, see `detectors.load`. Without boxes and detector, each
      whole image is taken as the bounding box of one person.

  Raises:
    ConfigError: both boxes and a detector are given.
    DataError: there are no images, the boxes are invalid, or some images could not be read; the
      last is raised after all other images are done.
    CheckpointError: there is no usable checkpoint, or the detector is unusable.
  """
  if boxes_file is not None and detector is not None:
    raise errors.ConfigError('--boxes and --detector: give one of the two')
  if pathlib.Path(source).suffix.lower() in video.EXTENSIONS:
    return video.predict_video(workdir, source, output, boxes_file, detector)
  files = _find_images(pathlib.Path(source).expanduser())
  boxes = None if boxes_file is None else _read_boxes(boxes_file, files)
  detect = None if detector is None else detectors.load(detector)
  if boxes is None and detect is None:
    log.warning('no --boxes and no --detector: each whole image is taken for one person')
  predictor = predictors.load_predictor(workdir)
  output = pathlib.Path(output).expanduser()
  output.mkdir(parents=True, exist_ok=True)
  rows, unreadable = [], []

  def read():
    """Yields the file, pixels and boxes of each readable image."""
    for file in files:
      if boxes is not None and file.name not in boxes:
        log.info('%s: no boxes, left out', file.name)
        continue
      try:
        image = image_files.read(file)
      except errors.DataError as error:
        log.warning('%s', error)
        unreadable.append(file.name)
        continue
      if detect is not None:
        yield file, image, detect(image)[0]
      elif boxes is not None:
        yield file, image, np.array(boxes[file.name], np.float32)
      else:
        yield file, image, np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)

  stream = read()
  while group := list(itertools.islice(stream, TOGETHER)):
    _, group_images, group_boxes = zip(*group)
    group_people = predictor(list(group_images), list(group_boxes))
    for (file, image, image_boxes), people in zip(group, group_people):
      rows += [_row(file.name, box, person) for box, person in zip(image_boxes, people)]
      drawn = visualize.draw_people(image, people, predictor.skeleton)
      Image.fromarray(drawn).save(output / f'{file.stem}.jpg', quality=92)
  checkpoint.write_json(output / 'predictions.json', rows)
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


def _find_images(source):
  if source.is_file():
    return [source]
  if not source.is_dir():
    raise errors.DataError(f'--input={source}: there is no such file or folder')
  files = sorted(file for file in source.iterdir() if file.suffix.lower() in EXTENSIONS)
  if not files:
    raise errors.DataError(f'--input={source}: no images ({", ".join(EXTENSIONS)}) in this folder')
  return files


def _read_boxes(path, files):
  """Reads {file name: list of boxes}."""
  try:
    content = json.loads(pathlib.Path(path).expanduser().read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise errors.DataError(f'--boxes={path}: not a readable JSON file ({error})') from error
  content = content.get('annotations') if isinstance(content, dict) else content
  by_number = {int(file.stem): file.name for file in files if file.stem.isdigit()}
  boxes = {}
  try:
    for row in content:
      name = row['file_name'] if 'file_name' in row else by_number.get(row['image_id'])
      box = np.array(row['bbox'], np.float64)
      if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > 0).all():
        raise errors.DataError(f'--boxes={path}: box {row["bbox"]} is not usable')
      boxes.setdefault(name, []).append(box.tolist())
  except (KeyError, TypeError, ValueError) as error:
    raise errors.DataError(
      f"--boxes={path}: needs a list of {{'file_name' or 'image_id', 'bbox'}} ({error!r})"
    ) from error
  if not any(file.name in boxes for file in files):
    raise errors.DataError(f'--boxes={path}: names none of the images of --input')
  return boxes
