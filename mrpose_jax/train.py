"""Training: the parts of a run, and the loop last. The step itself is in training_step.py."""

import collections
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import optimizers
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import tables
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import mixing
from mrpose_jax.input_pipeline.host import prepared_data
from mrpose_jax.input_pipeline.host import transfer
from mrpose_jax.metrics import choice
from mrpose_jax.models import pose_network
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import compilation
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import evaluation_folders
from mrpose_jax.runtime import metric_writer
from mrpose_jax.runtime import number_types
from mrpose_jax.runtime import parallel
from mrpose_jax.runtime import preemption
from mrpose_jax.runtime import profiling
from mrpose_jax.runtime import progress_bar
from mrpose_jax.weights import importing

log = logging.getLogger(__name__)


def steps_of(epochs: float, num_people: int, batch_size: int) -> int:
  """Number of steps in `epochs` epochs, at least 1."""
  return max(1, round(epochs * num_people / batch_size))


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run consists of, before its first step.

  Attributes:
    config: the configuration.
    dataset: the prepared data; with a mix, its members are trained on.
    detections: the boxes to evaluate with; None for the annotated boxes.
    workdir: folder that the run writes to.
    mesh: all devices of all processes.
    model: the network.
    optimizer: Adam or AdamW.
    schedule: step -> learning rate.
    train_step: compiled on its first call.
    predict_step: compiled on its first call.
    total_steps: number of the last step.
    evaluation_steps: numbers of the steps that end with an evaluation.
    meta: what a checkpoint stores beside the state.
  """

  config: ml_collections.ConfigDict
  dataset: prepared_data.Dataset
  detections: dict[str, np.ndarray] | None
  workdir: paths.Path
  mesh: jax.sharding.Mesh
  model: pose_network.PoseNetwork
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  train_step: Callable
  predict_step: Callable
  total_steps: int
  evaluation_steps: set[int]
  meta: dict


def train_and_evaluate(config: ml_collections.ConfigDict, workdir) -> dict[str, float]:
  """Trains, evaluates, keeps the best and the latest checkpoints, and prints the best metrics.

  A second start in the same workdir continues where the first one stopped, and ends with the same
  bits as a run that was never stopped. Every process of a run calls this function with the same
  arguments; all of them must see the workdir.

  Args:
    config: see mrpose_jax/defaults.py.
    workdir: folder for everything that the run writes; made if it does not exist.

  Returns:
    The metrics of the best checkpoint.

  Raises:
    ConfigError, DataError, CheckpointError, DivergedError: with one line that says what to do.
    Stopped: after SIGTERM or SIGINT, when the state is saved.
  """
  workdir = paths.parse(workdir)
  configuration.check(config)
  dataset = configuration.open_mix(config, configuration.open_dataset(config))
  mixing.TrainingRecords(dataset)  # an error now rather than later
  dataset.source('validation')
  if 'validation' in dataset.test_sets:
    raise errors.DataError(
      f'{dataset.folder}: split validation is a test set; prepare one with annotations to train'
    )
  with configuration.hold_workdir(config, workdir) as lock, preemption.StopSignals() as signals:
    number_types.settle(config, jax.devices()[0])
    run = build(config, dataset, workdir)
    with contextlib.closing(checkpoint.Checkpoints(workdir, create=True, lock=lock)) as checkpoints:
      state = restore_or_start(run, checkpoints)
      checkpoints.check_lock()
      describe(run, state)
      train(run, state, checkpoints, signals)
      best_step = checkpoints.best_step()
    return report_best(run, best_step)


def build(config: ml_collections.ConfigDict, dataset: prepared_data.Dataset, workdir) -> Run:
  """Makes network, optimizer and step functions; nothing is computed yet.

  Raises:
    ConfigError: `eval.ema` is True, but the run keeps no moving average.
    DataError: the file of `eval.detections` cannot be used with these data.
  """
  if config.eval.ema and not config.train.ema:
    raise errors.ConfigError('eval.ema=True: the run keeps no moving average, because train.ema=0')
  num_people = len(mixing.TrainingRecords(dataset))
  to_steps = functools.partial(steps_of, num_people=num_people, batch_size=config.train.batch_size)
  total_steps = to_steps(config.train.epochs)
  num_evaluations = int(config.train.epochs / config.train.evaluate_every)
  evaluation_steps = {
    to_steps(config.train.evaluate_every * n) for n in range(1, num_evaluations + 1)
  }

  mesh = parallel.data_mesh()
  replicated, batched = parallel.replicated(mesh), parallel.batched(mesh)
  model = predict.model_of(config, dataset.skeleton.num_keypoints)
  schedule = optimizers.schedule_of(config.train, to_steps)
  optimizer = optimizers.optimizer_of(config.train, schedule)
  train_step = training_step.make_train_step(
    model,
    optimizer,
    predict.codec_of(config),
    augment.Augmentation(**config.augment),
    dataset.skeleton,
    config.seed,
    config.model.channel_order,
    config.train.accumulate,
    config.train.hard_keypoints,
    config.train.ema,
  )
  predict_step = predict.make_predict_people(config, dataset.skeleton)
  return Run(
    config=config,
    dataset=dataset,
    detections=evaluate.read_detections(config, dataset),
    workdir=workdir,
    mesh=mesh,
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    train_step=compilation.jit(
      train_step, donate_argnums=0, out_shardings=(replicated, replicated)
    ),
    predict_step=compilation.jit(predict_step, out_shardings=batched),
    total_steps=total_steps,
    evaluation_steps=evaluation_steps | {total_steps},
    meta={
      'config': config.to_dict(),
      'skeleton': dataclasses.asdict(dataset.skeleton),
      'crops': dict(dataset.crops),
      'evaluation': evaluation_folders.settings_of(config.to_dict(), dataset),
      'iterator': {
        'dataset': dataset.fingerprint(),
        'seed': config.seed,
        'batch_size': config.train.batch_size,
      },
    },
  )


def restore_or_start(run: Run, checkpoints: checkpoint.Checkpoints) -> training_step.TrainState:
  """Restores the latest checkpoint of the workdir, or initialises a state where there is none.

  Raises:
    CheckpointError: the checkpoint was trained on other data or keypoints, or does not fit the
      network.
  """
  config, replicated = run.config, parallel.replicated(run.mesh)
  create = functools.partial(
    training_step.create, run.model, run.optimizer, ema=config.train.ema > 0
  )
  key = jax.random.key(config.seed)
  step = checkpoints.latest_step()
  if step is not None:
    stored = checkpoints.meta(step)
    # An imported network has read no data.
    if stored['iterator'] and not config.train.allow_other_data:
      _check_same_data(stored, run.meta, run.workdir)
    _check_same_keypoints(stored['skeleton'], run.dataset.skeleton, run.workdir)
    for difference in configuration.differences(stored['config'], run.meta['config']):
      log.warning('the run continues with another setting: %s', difference)
    target = checkpoint.restore_target(jax.eval_shape(create, key), replicated)
    state = checkpoints.restore_state(step, target)
    log.info('continuing from step %d of %s', step, run.workdir)
    return state
  state = jax.jit(create, out_shardings=replicated)(key)
  if config.model.pretrained:
    variables = importing.pretrained(config.model.pretrained, run.model, config.model.channel_order)
    state = state.replace(**jax.device_put(variables, replicated))
    if state.ema is not None:
      state = state.replace(ema=jax.tree.map(jnp.copy, state.variables))
  return state


def describe(run: Run, state: training_step.TrainState):
  """Writes config.json and parameters.txt into the workdir, and logs what is going to run."""
  if parallel.is_main():
    paths.write_json(run.workdir / 'config.json', run.meta['config'])
    overview = training_step.parameter_overview(state.params)
    paths.write_text(run.workdir / 'parameters.txt', overview)
  num_parameters = sum(p.size for p in jax.tree.leaves(state.params))
  log.info(
    '%s on ResNet-%d, %.2f M parameters (parameters.txt); %d people, %d steps of %d on %d %s '
    'device(s)',
    *(run.model.network, run.model.depth, num_parameters / 1e6),
    *(len(mixing.TrainingRecords(run.dataset)), run.total_steps, run.config.train.batch_size),
    *(jax.device_count(), jax.devices()[0].platform),
  )


def train(
  run: Run,
  state: training_step.TrainState,
  checkpoints: checkpoint.Checkpoints,
  signals: preemption.StopSignals,
):
  """The loop: steps, logs, checkpoints and evaluations up to the last step.

  Raises:
    DivergedError: a loss or gradient is not finite; the state before it is saved.
    Stopped: a signal came; the state is saved.
  """
  config, train_step, start_step = run.config, run.train_step, int(state.step)
  batches = loader.train_batches(
    run.dataset,
    config.train.batch_size,
    config.seed,
    start_step,
    config.data.num_workers,
    jax.process_index(),
    jax.process_count(),
  )
  repeats_evaluation = start_step in run.evaluation_steps and not checkpoints.evaluated(start_step)
  writer = metric_writer.MetricWriter(
    *(run.workdir, start_step, config, not repeats_evaluation, checkpoints.check_lock)
  )
  with (
    contextlib.closing(transfer.to_device(batches, parallel.batched(run.mesh))) as on_device,
    contextlib.closing(writer),
    contextlib.closing(
      progress_bar.Progress(start_step, run.total_steps, config.train.batch_size)
    ) as progress,
    profiling.StepTrace(
      run.workdir, start_step, config.train.profile_steps, checkpoints.check_lock
    ) as step_trace,
  ):
    if repeats_evaluation:
      # The run was stopped between this step's checkpoint and its evaluation.
      evaluate_checkpoint(run, state, start_step, checkpoints, writer, progress, signals)
    interval = []  # metrics of the steps since the last log, on the device
    steps = range(start_step + 1, run.total_steps + 1)
    for step, batch in zip(steps, progress.timed(on_device)):
      if step == start_step + 1:
        train_step = parallel.compile_together(train_step, state, batch)
      with step_trace.step(step):
        state, metrics = train_step(state, batch)
      interval.append(metrics)
      progress.advance(metrics)
      evaluates = step in run.evaluation_steps
      logs = evaluates or step % config.train.log_every == 0
      saves = evaluates or step % config.train.checkpoint_every == 0 or signals.asked()
      if logs or saves:
        interval = jax.device_get(interval)
        if state.diverged:
          # The state stopped at its step; the interval ends with this one.
          metrics_of_next_step = interval[int(state.step) - step]
          _stop_diverged(run, state, metrics_of_next_step, checkpoints)
      if logs:
        scalars = {name: float(np.mean([m[name] for m in interval])) for name in metrics}
        scalars['learning_rate'] = float(run.schedule(step - 1))
        scalars |= progress.log(scalars['loss'])
        writer.write(step, scalars)
        interval = []
      if saves:
        writer.publish()
        checkpoints.save(step, state, run.meta)
        _stop_if_asked(signals, checkpoints, step)
      if evaluates:
        evaluate_checkpoint(run, state, step, checkpoints, writer, progress, signals)
    checkpoints.wait()


def evaluate_checkpoint(run, state, step, checkpoints, writer, progress, signals):
  """Evaluates the state of a step that is saved, and writes metrics, predictions and pictures."""
  stop_if_asked = functools.partial(_stop_if_asked, signals, checkpoints, step)
  with progress.paused():
    predictions = evaluate.predict_split(
      *(run.predict_step, state.evaluated(run.config.eval.ema), run.dataset, run.detections),
      *(run.config, run.mesh, stop_if_asked),
    )
    scores = evaluate.score(predictions, run.dataset, run.config)
    metrics = scores.metrics
    # The score comes last: the next start repeats the evaluation of a checkpoint that has none.
    writer.write(step, {f'eval/{name}': value for name, value in metrics.items()})
    writer.publish()
    if parallel.is_main():
      with paths.staged(run.workdir / 'eval' / str(step), checkpoints.check_lock) as folder:
        evaluate.write_results(scores, run.dataset, run.meta['evaluation'], folder)
    primary = choice.primary(metrics, run.config.eval)
    checkpoints.set_score(step, choice.score(primary, metrics[primary]), primary)
    progress.note(f'step {step}: {tables.one_line(metrics)}')


def report_best(run: Run, best_step: int) -> dict[str, float]:
  """Prints and returns the metrics that the best checkpoint had when it was evaluated."""
  parallel.wait_for_all('results')
  folder = run.workdir / 'eval' / str(best_step)
  metrics = paths.read_json(folder / 'metrics.json')
  if parallel.is_main():
    print(tables.markdown_table({f'{run.model.network}, step {best_step}': metrics}))
    print(f'predictions and pictures: {folder}')
  return metrics


def _check_same_data(stored, asked, workdir):
  was, now = stored['iterator'], asked['iterator']
  different = [f'{name} was {was[name]}, is {now[name]}' for name in now if was[name] != now[name]]
  if different:
    fields = configuration.differences(stored['config'], asked['config'])
    different += [field for field in fields if field.startswith('data.mix ')]
    raise errors.CheckpointError(
      f'{workdir}: cannot go on with other data ({"; ".join(different)}); choose another '
      '--workdir, or --config.train.allow_other_data'
    )


def _check_same_keypoints(stored, skeleton, workdir):
  if tuple(stored['keypoints']) != skeleton.keypoints:
    raise errors.CheckpointError(
      f'{workdir} predicts other keypoints ({", ".join(stored["keypoints"])}) than the data have '
      f'({", ".join(skeleton.keypoints)}); choose another --workdir, and start from this run with '
      '--config.model.pretrained'
    )


def _stop_if_asked(signals, checkpoints, step):
  """Raises Stopped after a signal; the state of this step is saved."""
  if signals.asked():
    checkpoints.wait()
    raise errors.Stopped(
      f'{signals.asked()} at step {step}, which is saved; the same command goes on from there'
    )


def _stop_diverged(run, state, metrics, checkpoints):
  """Saves the state before the step that diverged and raises DivergedError with its metrics."""
  checkpoints.wait()
  step = int(state.step)
  if step not in checkpoints.steps():
    checkpoints.save(step, state, run.meta)
    checkpoints.wait()
  ids = collections.defaultdict(list)
  for folder, person_id in loader.people_of_step(
    run.dataset, run.config.train.batch_size, run.config.seed, step
  ):
    ids[folder].append(str(person_id))
  people = '; '.join(f'{", ".join(ids[folder])} of {folder}' for folder in ids)
  raise errors.DivergedError(
    f'loss {metrics["loss"]}, gradient norm {metrics["gradient_norm"]} at step {step + 1} '
    f'(learning rate {float(run.schedule(step)):g}, people {people}); the state '
    f'before it is checkpoint {step}; lower train.learning_rate in a new --workdir, or look at '
    'these people'
  )
