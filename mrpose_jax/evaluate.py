"""Evaluates a network on the validation split and writes metrics, predictions and pictures."""

import logging
import pathlib
import zipfile

import jax
import ml_collections
import numpy as np
from PIL import Image

from mrpose_jax import predict
from mrpose_jax import tables
from mrpose_jax import training_step
from mrpose_jax import visualize
from mrpose_jax.input_pipeline.formats import detection_files
from mrpose_jax.input_pipeline.host import image_files
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.metrics import coco
from mrpose_jax.metrics import error_analysis
from mrpose_jax.metrics import pck
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import compilation
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import evaluation_folders
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

NUM_PICTURES = 12
# Checkpoints are compared by the first of these metrics that the data set has.
PRIMARY = ('AP', 'Mean', 'PCK@0.2')


def read_detections(config, dataset) -> dict[str, np.ndarray] | None:
  """Reads the detected boxes of `eval.detections`; None where annotated boxes are used.

  Raises:
    DataError: the file cannot be used with this data set.
  """
  if not config.eval.detections:
    return None
  return detection_files.read(
    *(config.eval.detections, config.eval.detection_threshold),
    *(dataset.category_id, dataset.image_ids),
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
    'center' [N, 2], 'size' [N, 2], 'area' [N] of the region in square pixels, 'box_scores' [N]}.
  """
  batches = loader.evaluation_batches(
    dataset,
    config.eval.batch_size,
    config.eval.canvas,
    detections,
    max(config.eval.scales),
    jax.process_index(),
    jax.process_count(),
  )
  keypoints, rows = [], []
  on_device = loader.to_device(batches, lambda pair: (parallel.put_batch(pair[0], mesh), pair[1]))
  for batch, kept in on_device:
    between_batches()
    keypoints.append(predict_step(variables, batch))
    rows.append(kept)
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
  }


def score(predictions, dataset, config) -> tuple[dict[str, float], dict[str, np.ndarray]]:
  """Computes the data set's metrics, and returns them with the predictions that count.

  For COCO and data sets of its form these are pycocotools' ten numbers in 0..1 after rescoring and
  OKS NMS. For MPII they are PCKh in per cent, if the benchmark's ground truth was prepared, and
  PCK@0.2 of equation (3). A test set has none, because its ground truth is not published. Metrics
  that nothing was measured for are logged.
  """
  metrics, kept = _score(predictions, dataset, config)
  unmeasured = [name for name, value in metrics.items() if not value >= 0]
  if unmeasured:
    log.warning(
      '%s: nothing was measured for %s: the split annotates no such person or keypoint',
      *(dataset.folder, ', '.join(unmeasured)),
    )
  return metrics, kept


def _score(predictions, dataset, config):
  labelled = 'validation' not in dataset.test_sets
  if dataset.kind != 'mpii':
    kept = coco.rescore_and_nms(
      predictions,
      config.eval.keypoint_threshold,
      config.eval.oks_threshold,
      dataset.skeleton.sigmas,
    )
    file = dataset.annotation_file('validation')
    sigmas, names = dataset.skeleton.sigmas, dataset.skeleton.keypoints
    return coco.evaluate(kept, file, sigmas, names) if labelled else {}, kept
  order = np.argsort(predictions['person_ids'], kind='stable')
  kept = {name: values[order] for name, values in predictions.items()}
  kept['scores'] = kept['keypoints'][..., 2].mean(-1)
  if not labelled:
    return {}, kept
  metrics = {}
  ground_truth = dataset.folder / f'gt_{dataset.image_set("validation")}.mat'
  if ground_truth.exists():
    metrics |= pck.pckh(kept['keypoints'][..., :2], ground_truth)
  else:
    log.warning('%s: there is no such file, so PCKh is left out', ground_truth)
  return metrics | _pck_of_annotations(kept, dataset), kept


def primary(metrics: dict[str, float]) -> float:
  """The metric by which checkpoints are compared: AP, PCKh or PCK."""
  return next(metrics[name] for name in PRIMARY if name in metrics)


def evaluate(config: ml_collections.ConfigDict, workdir) -> dict[str, float]:
  """Evaluates the best checkpoint of a workdir, or the checkpoint whose folder is given.

  It prints a table and writes predictions.json, metrics.json and pictures/ to the workdir, into a
  folder below eval/ that `evaluation_folders.choose` names.

  Raises:
    ConfigError, DataError, CheckpointError: with one line that says what to do.
  """
  configuration.check(config)
  dataset = configuration.open_dataset(config)
  detections = read_detections(config, dataset)
  workdir, step = checkpoint.locate(workdir)
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
  predict_step = compilation.jit(
    predict.make_predict_people(config, dataset.skeleton), out_shardings=parallel.batched(mesh)
  )
  predictions = predict_split(predict_step, variables, dataset, detections, config, mesh)
  metrics, kept = score(predictions, dataset, config)
  if parallel.is_main():  # first of all, should the workdir not be writable
    if metrics:
      print(tables.markdown_table({f'{config.model.network}, step {step}': metrics}))
    else:
      print('a test set: its ground truth is not published, so there are no metrics')
    settings = evaluation_folders.settings_of(config.to_dict(), dataset)
    folder = evaluation_folders.choose(workdir, step, settings, meta, dataset)
    write_results(metrics, kept, dataset, settings, folder)
    print(f'predictions and pictures: {folder}')
  return metrics


def write_results(metrics, kept, dataset, settings: dict, folder: pathlib.Path):
  """Writes metrics, settings, predictions, errors (JSON) and pictures/ to a folder below eval/.

  It also writes what the benchmarks' servers accept: pred.mat for MPII, and
  person_keypoints_SET_mrpose_results.zip for a COCO test set. Process 0 alone calls this function.
  """
  folder.mkdir(parents=True, exist_ok=True)
  checkpoint.write_json(folder / evaluation_folders.SETTINGS, settings)
  coco.write_results(kept, folder / 'predictions.json', dataset.category_id)
  checkpoint.write_json(folder / 'metrics.json', metrics)
  if dataset.kind == 'mpii':
    pck.write_mat(kept['keypoints'][..., :2], folder / 'pred.mat')
  elif 'validation' in dataset.test_sets:
    name = f'person_keypoints_{dataset.image_set("validation")}_mrpose_results'
    with zipfile.ZipFile(folder / f'{name}.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.write(folder / 'predictions.json', f'{name}.json')
  draw_pictures(kept, dataset, folder / 'pictures')
  if metrics:
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


def _pck_of_annotations(kept, dataset):
  """PCK@0.2 of equation (3) against the annotations in the records."""
  keypoints_of, visible_of = {}, {}
  for record in dataset.source('validation'):
    people = {name: np.asarray(value) for name, value in record['people'].items()}
    for i, person_id in enumerate(people['person_id'].tolist()):
      keypoints_of[person_id] = people['keypoints'][i]
      visible_of[person_id] = people['visible'][i]
  person_ids = kept['person_ids'].tolist()
  target = np.stack([keypoints_of[person_id] for person_id in person_ids])
  visible = np.stack([visible_of[person_id] for person_id in person_ids])
  length = pck.torso_length(target, visible, dataset.skeleton)
  table = pck.pck(kept['keypoints'][..., :2], target, length, visible, threshold=0.2)
  return {'PCK@0.2': table['Mean']}
