"""Evaluates a network on the validation split and writes metrics, predictions and pictures."""

import contextlib
import logging
import pathlib
import zipfile
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from PIL import Image

from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import tables
from mrpose_jax import training_step
from mrpose_jax import visualize
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import transfer
from mrpose_jax.metrics import choice
from mrpose_jax.metrics import coco
from mrpose_jax.metrics import error_analysis
from mrpose_jax.metrics import keypoint_scores
from mrpose_jax.metrics import pck
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import compilation
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import evaluation_folders
from mrpose_jax.runtime import number_types
from mrpose_jax.runtime import parallel
from mrpose_jax.runtime import progress_bar

log = logging.getLogger(__name__)

NUM_PICTURES = 12


def read_detections(config, dataset) -> dict[str, np.ndarray] | None:
  """Reads the detected boxes of `eval.detections`; None where annotated boxes are used.

  Raises:
    DataError: the file cannot be used with this data set.
  """
  if not config.eval.detections:
    return None
  return detection_files.read(
    *(config.eval.detections, config.eval.detection_threshold),
    *(dataset.category_ids, dataset.image_ids),
  )


def predict_split(
  predict_step, variables, dataset, detections, config, mesh, between_batches=lambda: None
) -> dict[str, np.ndarray]:
  """Predicts the keypoints in every box of split validation, in the order of image ids.

  Every process predicts its share of the images, and returns the predictions of all processes.

  Args:
    predict_step: jitted `predict.make_predict_people` whose result is split over the devices.
    variables: the network's variables, on the mesh.
    dataset: from `prepared_data.open_dataset`.
    detections: from `read_detections`.
    config: the configuration.
    mesh: from `parallel.data_mesh`.
    between_batches: function that is called before each batch.

  Returns:
    {'image_ids' [N], 'person_ids' [N], 'keypoints' [N, K, 3] x, y in image pixels, score,
    'center' [N, 2], 'size' [N, 2], 'area' [N] of the region in square pixels, 'box_scores' [N],
    'category_ids' [N]}.
  """
  batches = loader.evaluation_batches(
    dataset,
    config.eval.batch_size,
    config.eval.canvas,
    detections,
    jax.process_index(),
    jax.process_count(),
    max(config.eval.scales),
  )
  keypoints, rows = [], []
  with contextlib.closing(transfer.to_device(batches, parallel.batched(mesh))) as on_device:
    for batch, kept in on_device:
      between_batches()
      keypoints.append(predict_step(variables, batch))
      rows.append(kept)
      if len(keypoints) > progress_bar.STEPS_AHEAD:  # or batches would fill the devices' memory
        jax.block_until_ready(keypoints[-1 - progress_bar.STEPS_AHEAD])
  # The last rows of a batch may be fillers, which are left out.
  parallel.wait_for_all('predictions')
  keypoints = [parallel.local_rows(k)[: len(kept.image_ids)] for k, kept in zip(keypoints, rows)]
  keypoints = parallel.gather_rows(np.concatenate(keypoints))
  columns = loader.Rows(*(parallel.gather_rows(np.concatenate(column)) for column in zip(*rows)))
  order = np.argsort(columns.image_ids, kind='stable')
  return {
    'image_ids': columns.image_ids[order],
    'person_ids': columns.person_ids[order],
    'keypoints': keypoints[order],
    'center': columns.center[order],
    'size': columns.size[order],
    'area': columns.size[order].prod(-1),
    'box_scores': columns.box_scores[order],
    'category_ids': columns.category_ids[order],
  }


class Scores(NamedTuple):
  """What an evaluation of a split found.

  Attributes:
    metrics: {name: value} of the chosen metrics; none for a test set.
    kept: the predictions that count; arrays with one row per person, and 'scores'.
    by_keypoint: content of keypoints.json, see `keypoint_scores.compute`; None for a test set.
  """

  metrics: dict[str, float]
  kept: dict[str, np.ndarray]
  by_keypoint: dict | None


def score(predictions, dataset, config) -> Scores:
  """Computes the metrics that `choice.of_dataset` names.

  COCO's ten numbers in 0..1 come from pycocotools after rescoring and OKS NMS, MPII's in per cent
  from the benchmark's ground truth. PCK, AUC, EPE and NME compare each annotated person with the
  prediction in that person's box, before NMS; with detected boxes, with the nearest one after NMS.
  Metrics that nothing was measured for are logged.
  """
  kept = _keep(predictions, dataset, config)
  if 'validation' in dataset.test_sets:
    return Scores({}, kept, None)
  chosen, _ = choice.of_dataset(config.eval, dataset)
  kinds = {metric.kind for metric in chosen}
  values = {}
  if kinds & set(coco.METRICS):
    file = dataset.annotation_file('validation')
    values |= coco.evaluate(kept, file, dataset.skeleton.sigmas, dataset.skeleton.keypoints)
  if kinds & set(choice.MPII):
    values |= pck.pckh(kept['keypoints'][..., :2], choice.ground_truth(dataset))
  everyone = kept if config.eval.detections else predictions
  by_keypoint = keypoint_scores.compute(chosen, keypoint_scores.pair(everyone, dataset), dataset)
  if by_keypoint['missed']:
    log.warning(
      '%s: %d of %d annotated people have no prediction: they are wrong in PCK and AUC, and left '
      'out of EPE and NME',
      *(dataset.folder, by_keypoint['missed'], by_keypoint['people']),
    )
  values |= keypoint_scores.means(by_keypoint)
  metrics = {metric.name: values[metric.name] for metric in chosen}
  unmeasured = [name for name, value in metrics.items() if not value >= 0]
  if unmeasured:
    log.warning(
      '%s: nothing was measured for %s: the split annotates no such person or keypoint',
      *(dataset.folder, ', '.join(unmeasured)),
    )
  return Scores(metrics, kept, by_keypoint)


def _keep(predictions, dataset, config):
  """The predictions that count, with their scores.

  Without OKS sigmas, only detected boxes are searched for duplicates, with an estimated sigma.
  """
  if dataset.kind == 'mpii':
    order = np.argsort(predictions['person_ids'], kind='stable')
    kept = {name: values[order] for name, values in predictions.items()}
    return kept | {'scores': kept['keypoints'][..., 2].mean(-1)}
  suppresses = bool(dataset.skeleton.sigmas or config.eval.detections)
  return coco.rescore_and_nms(
    predictions,
    config.eval.keypoint_threshold,
    config.eval.oks_threshold if suppresses else 1.0,
    dataset.skeleton.suppression_sigmas,
  )


def evaluate(config: ml_collections.ConfigDict, workdir) -> dict[str, float]:
  """Evaluates the best checkpoint of a workdir, or the checkpoint whose folder is given.

  It prints a table and writes predictions.json, metrics.json and pictures/ to the workdir, into a
  folder below eval/ that `evaluation_folders.choose` names.

  Raises:
    ConfigError, DataError, CheckpointError: with one line that says what to do.
  """
  configuration.check(config)
  workdir, step = checkpoint.locate(workdir)
  dataset = configuration.open_dataset(config)
  detections = read_detections(config, dataset)
  number_types.settle(config, jax.devices()[0])
  mesh = parallel.data_mesh()
  target = training_step.abstract_variables(
    predict.model_of(config, dataset.skeleton.num_keypoints)
  )
  target = checkpoint.restore_target(target, parallel.replicated(mesh))
  checkpoints = checkpoint.Checkpoints(workdir)

  def restore(step):
    meta = checkpoints.meta(step)
    configuration.match_workdir(config, meta['config'], workdir)
    return checkpoints.restore_variables(step, target, config.eval.ema), meta

  step, (variables, meta) = checkpoints.read(step, restore)
  checkpoints.close()
  number_types.tell_change(config, meta['config'])
  predict_step = compilation.jit(
    predict.make_predict_people(config, dataset.skeleton), out_shardings=parallel.batched(mesh)
  )
  predictions = predict_split(predict_step, variables, dataset, detections, config, mesh)
  scores = score(predictions, dataset, config)
  metrics = scores.metrics
  if parallel.is_main():  # first of all, should the workdir not be writable
    if metrics:
      print(tables.markdown_table({f'{config.model.network}, step {step}': metrics}))
    else:
      print('a test set: its ground truth is not published, so there are no metrics')
    settings = evaluation_folders.settings_of(config.to_dict(), dataset)
    folder = evaluation_folders.choose(workdir, step, settings, meta, dataset)
    with paths.staged(folder) as local_folder:
      write_results(scores, dataset, settings, local_folder)
    print(f'predictions and pictures: {folder}')
  return metrics


def write_results(scores: Scores, dataset, settings: dict, folder: pathlib.Path):
  """Writes metrics, settings, predictions, keypoints, errors (JSON) and pictures/ to a folder.

  It also writes what the benchmarks' servers accept: pred.mat for MPII, and
  person_keypoints_SET_mrpose_results.zip for a COCO test set. Process 0 alone calls this function.
  """
  folder.mkdir(parents=True, exist_ok=True)
  paths.write_json(folder / evaluation_folders.SETTINGS, settings)
  metrics, kept, by_keypoint = scores
  coco.write_results(kept, folder / 'predictions.json')
  paths.write_json(folder / 'metrics.json', metrics)
  if dataset.kind == 'mpii':
    pck.write_mat(kept['keypoints'][..., :2], folder / 'pred.mat')
  elif 'validation' in dataset.test_sets:
    name = f'person_keypoints_{dataset.image_set("validation")}_mrpose_results'
    with zipfile.ZipFile(folder / f'{name}.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.write(folder / 'predictions.json', f'{name}.json')
  draw_pictures(kept, dataset, folder / 'pictures')
  if by_keypoint:
    paths.write_json(folder / 'keypoints.json', by_keypoint)
    error_analysis.write(kept, dataset, folder)


def draw_pictures(kept, dataset, folder: pathlib.Path):
  """Draws the predicted people on the first validation images, and a sheet of these pictures."""
  folder.mkdir(parents=True, exist_ok=True)
  source = dataset.source('validation')
  wanted = set(kept['image_ids'].tolist())
  drawn = []
  for record in source:
    image_id = int(record['image_id'])
    if image_id not in wanted:
      continue
    image = image_files.decode(record['image'], f'image {image_id}')
    people = kept['keypoints'][kept['image_ids'] == image_id]
    drawn.append(visualize.draw_people(image, people, dataset.skeleton))
    Image.fromarray(drawn[-1]).save(folder / f'{image_id}.jpg', quality=92)
    if len(drawn) == NUM_PICTURES:
      break
  sheet = visualize.contact_sheet(drawn, columns=4, cell_size=(240, 320))
  Image.fromarray(sheet).save(folder / 'sheet.jpg', quality=92)
