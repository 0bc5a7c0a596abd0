"""Training: the pure step first, the loop that wires everything last."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from input_pipeline.device import augment
from input_pipeline.host import loader
from mrpose_jax import codecs
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import losses
from mrpose_jax import optimizers
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import tables
from mrpose_jax import train_state
from mrpose_jax.models import pose_network
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import compilation
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import metric_writer
from mrpose_jax.runtime import parallel
from mrpose_jax.runtime import preemption
from mrpose_jax.runtime import progress_bar
from mrpose_jax.weights import importing

log = logging.getLogger(__name__)


class Examples(NamedTuple):
  """What the network learns from in one step.

  Attributes:
    drawn: how the crops were varied.
    inputs: [N, H, W, 3] normalised crops.
    keypoints: [N, K, 2] xy in their pixels.
    visible: [N, K], above 0 where labelled.
    target: [N, h, w, K] heatmaps.
    weights: [N, K] of the heatmaps in the loss.
  """

  drawn: augment.Draw
  inputs: jax.Array
  keypoints: jax.Array
  visible: jax.Array
  target: jax.Array
  weights: jax.Array


def make_examples(
  codec: codecs.Codec,
  augmentation: augment.Augmentation,
  skeleton: skeletons.Skeleton,
  seed: int,
  channel_order: str = 'rgb',
):
  """The pure function (step, PersonBatch) -> Examples; draws from (seed, step) alone."""
  order = skeletons.flip_order(skeleton.flip_pairs, skeleton.num_keypoints)

  def examples(step, batch):
    key = jax.random.fold_in(jax.random.key(seed), step)
    drawn = augment.draw(key, batch.patches.shape[0], augmentation)
    inputs, keypoints, visible = augment.crop_people(
      batch, drawn, codec.image_size, order, channel_order
    )
    return Examples(drawn, inputs, keypoints, visible, *codec.encode(keypoints, visible))

  return examples


def make_train_step(
  model: pose_network.PoseNetwork,
  optimizer: optax.GradientTransformation,
  codec: codecs.Codec,
  augmentation: augment.Augmentation,
  skeleton: skeletons.Skeleton,
  seed: int,
  channel_order: str = 'rgb',
  accumulate: int = 1,
):
  """The pure function (TrainState, PersonBatch) -> (TrainState, {'loss', 'gradient_norm'}).

  With `accumulate`, the batch goes through the network in so many parts, of which every one has its
  own batch statistics, and one update is made of their mean gradient.

  A step whose loss or gradients are not finite changes nothing but `diverged`, and so do all later
  ones.

  Augmentation is drawn from (seed, step) alone. Under jit with a batch that is split over devices,
  losses, gradients and batch norm's statistics are those of the whole batch.
  """
  make = make_examples(codec, augmentation, skeleton, seed, channel_order)

  def train_step(state, batch):
    examples = make(state.step, batch)

    def loss_of(params, batch_stats, inputs, target, weights):
      heatmaps, updated = model.apply(
        {'params': params, 'batch_stats': batch_stats}, inputs, train=True, mutable=['batch_stats']
      )
      return losses.keypoint_mse_loss(heatmaps, target, weights), updated['batch_stats']

    gradients_of = functools.partial(jax.value_and_grad(loss_of, has_aux=True), state.params)
    learnt = examples.inputs, examples.target, examples.weights
    if accumulate == 1:
      (loss, batch_stats), gradients = gradients_of(state.batch_stats, *learnt)
    else:
      loss, batch_stats, gradients = _in_parts(gradients_of, state, learnt, accumulate)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    updated = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    gradient_norm = optax.tree.norm(gradients)
    # The host looks at losses some steps later; until then a state that diverged stays as it was.
    diverged = state.diverged | ~jnp.isfinite(loss + gradient_norm)
    state = jax.tree.map(lambda old, new: jnp.where(diverged, old, new), state, updated)
    return state.replace(diverged=diverged), {'loss': loss, 'gradient_norm': gradient_norm}

  return train_step


def _in_parts(gradients_of, state, learnt, parts):
  """Loss, batch statistics and gradients of a batch, as means over its parts.

  Part i has the rows i, i + parts, ...: of a batch that is split over devices, each device finds
  its share of every part among its own rows.
  """
  learnt = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), learnt)

  def add_part(total, part):
    loss, batch_stats, gradients = total
    (more_loss, batch_stats), more = gradients_of(batch_stats, *part)
    return (loss + more_loss, batch_stats, jax.tree.map(jnp.add, gradients, more)), None

  nothing = jnp.zeros(()), state.batch_stats, jax.tree.map(jnp.zeros_like, state.params)
  (loss, batch_stats, gradients), _ = jax.lax.scan(add_part, nothing, learnt)
  return loss / parts, batch_stats, jax.tree.map(lambda g: g / parts, gradients)


def steps_of(epochs: float, num_people: int, batch_size: int) -> int:
  """The step that ends so many epochs, at least 1."""
  return max(1, round(epochs * num_people / batch_size))


def train_and_evaluate(config: ml_collections.ConfigDict, workdir) -> dict[str, float]:
  """Trains, evaluates, keeps the best and the latest checkpoints, and prints the best's table.

  A second start in the same workdir goes on where the first stopped, and ends with the same bits
  as a run that was never stopped. Every process of a run calls this with the same arguments, and a
  workdir that all of them see.

  Args:
    config: see configs/common.py.
    workdir: folder for everything that the run writes; made if it is not there.

  Returns:
    The metrics of the best checkpoint.

  Raises:
    ConfigError, DataError, CheckpointError, DivergedError: with one line that says what to do.
    Stopped: SIGTERM or SIGINT came, and the state is saved.
  """
  workdir = pathlib.Path(workdir).expanduser().absolute()
  configuration.check(config)
  dataset = configuration.open_dataset(config)
  for split in ('train', 'validation'):
    dataset.source(split)  # an error now rather than after the first epoch
  if 'validation' in dataset.test_sets:
    raise errors.DataError(
      f'{dataset.folder}: split validation is a test set; prepare one with annotations to train'
    )
  with configuration.hold_workdir(config, workdir), preemption.StopSignals() as signals:
    return _train(config, dataset, workdir, signals)


def _train(config, dataset, workdir, signals) -> dict[str, float]:
  # Data.
  num_people, batch_size = len(dataset.source('train')), config.train.batch_size
  to_steps = functools.partial(steps_of, num_people=num_people, batch_size=batch_size)
  total_steps = to_steps(config.train.epochs)
  every, epochs = config.train.evaluate_every, config.train.epochs
  evaluation_steps = {to_steps(every * n) for n in range(1, int(epochs / every) + 1)}
  evaluation_steps.add(total_steps)

  # Model, optimizer, step.
  mesh = parallel.data_mesh()
  place = parallel.replicated(mesh)
  model = predict.model_of(config, dataset.skeleton.num_keypoints)
  drops = tuple(to_steps(epoch) for epoch in config.train.drop_epochs)
  schedule = optimizers.piecewise_schedule(
    config.train.learning_rate, config.train.drop_factor, drops
  )
  optimizer = optimizers.adam(schedule)
  train_step = make_train_step(
    model,
    optimizer,
    predict.codec_of(config),
    augment.Augmentation(**config.augment),
    dataset.skeleton,
    config.seed,
    config.model.channel_order,
    config.train.accumulate,
  )
  train_step = compilation.jit(train_step, donate_argnums=0, out_shardings=(place, place))
  predict_step = compilation.jit(
    predict.make_predict_people(config, dataset.skeleton), out_shardings=parallel.batched(mesh)
  )

  # State: fresh, or where this workdir stopped.
  create = functools.partial(train_state.create, model, optimizer)
  key = jax.random.key(config.seed)
  meta = {
    'config': config.to_dict(),
    'skeleton': dataclasses.asdict(dataset.skeleton),
    'crops': dict(dataset.crops),
    'iterator': {
      'dataset': dataset.fingerprint(),
      'seed': config.seed,
      'batch_size': batch_size,
    },
  }
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  start_step = checkpoints.latest_step()
  if start_step is not None:
    stored = checkpoints.meta(start_step)['iterator']
    if stored and not config.train.allow_other_data:  # an imported network has read no data
      _check_same_iterator(stored, meta['iterator'], workdir)
    target = checkpoint.restore_target(jax.eval_shape(create, key), place)
    state = checkpoints.restore_state(start_step, target)
    log.info('going on from step %d of %s', start_step, workdir)
  else:
    start_step = 0
    state = jax.jit(create, out_shardings=place)(key)
    if config.model.pretrained:
      pretrained = importing.pretrained(config.model.pretrained, model, config.model.channel_order)
      state = state.replace(**jax.device_put(pretrained, place))
  if parallel.is_main():
    checkpoint.write_json(workdir / 'config.json', meta['config'])
  num_parameters = sum(p.size for p in jax.tree.leaves(state.params))
  log.info(
    '%s on ResNet-%d, %.2f M parameters; %d people, %d steps of %d on %d %s device(s)',
    *(model.network, model.depth, num_parameters / 1e6, num_people, total_steps, batch_size),
    *(jax.device_count(), jax.devices()[0].platform),
  )

  # Loop.
  batches = loader.train_batches(
    dataset,
    batch_size,
    config.seed,
    start_step,
    config.data.num_workers,
    jax.process_index(),
    jax.process_count(),
  )
  batches = loader.to_device(batches, lambda batch: parallel.put_batch(batch, mesh))
  with (
    contextlib.closing(checkpoints),
    contextlib.closing(metric_writer.MetricWriter(workdir, start_step, config)) as writer,
    contextlib.closing(progress_bar.Progress(start_step, total_steps, batch_size)) as progress,
  ):

    def stop_if_asked():
      if signals.asked():
        checkpoints.wait()
        raise errors.Stopped(
          f'{signals.asked()} at step {step}, which is saved; the same command goes on from there'
        )

    def evaluate_checkpoint():
      with progress.paused():
        predictions = evaluate.predict_split(
          predict_step, state.variables, dataset, config, mesh, stop_if_asked
        )
        scores, kept = evaluate.score(predictions, dataset, config)
        evaluate.write_results(scores, kept, dataset, workdir, step)
        checkpoints.set_score(step, evaluate.primary(scores))
        writer.write(step, {f'eval/{name}': value for name, value in scores.items()})
        progress.note(f'step {step}: {tables.one_line(scores)}')

    step = start_step
    if step in evaluation_steps and not checkpoints.evaluated(step):
      evaluate_checkpoint()  # it was stopped here
    interval = []
    for step, batch in zip(range(start_step + 1, total_steps + 1), progress.timed(batches)):
      if step == start_step + 1:
        train_step = parallel.compile_together(train_step, state, batch)
      state, metrics = train_step(state, batch)
      interval.append(metrics)
      progress.advance(metrics)
      evaluates = step in evaluation_steps
      logs = evaluates or step % config.train.log_every == 0
      saves = evaluates or step % config.train.checkpoint_every == 0 or signals.asked()
      if logs or saves:
        interval = jax.device_get(interval)
        if state.diverged:
          checkpoints.wait()
          if int(state.step) not in checkpoints.steps():
            checkpoints.save(int(state.step), state, meta)
            checkpoints.wait()
          _raise_diverged(interval[int(state.step) - step], state, schedule, dataset, config)
      if logs:
        scalars = {name: float(np.mean([m[name] for m in interval])) for name in metrics}
        interval = []
        scalars['learning_rate'] = float(schedule(step - 1))
        scalars |= progress.log(scalars['loss'])
        writer.write(step, scalars)
      if saves:
        checkpoints.save(step, state, meta)
        stop_if_asked()
      if evaluates:
        evaluate_checkpoint()
    checkpoints.wait()
    best = checkpoints.best_step()

  # The best checkpoint's results were written when it was made.
  parallel.wait_for_all('results')
  folder = workdir / 'eval' / str(best)
  metrics = checkpoint.read_json(folder / 'metrics.json')
  if parallel.is_main():
    print(tables.markdown_table({f'{model.network}, step {best}': metrics}))
    print(f'predictions and pictures: {folder}')
  return metrics


def _check_same_iterator(stored, asked, workdir):
  different = [
    f'{name} was {stored[name]}, is {asked[name]}' for name in asked if stored[name] != asked[name]
  ]
  if different:
    raise errors.CheckpointError(
      f'{workdir}: cannot go on with other data ({"; ".join(different)}); choose another '
      '--workdir, or --config.train.allow_other_data'
    )


def _raise_diverged(metrics, state, schedule, dataset, config):
  """Raises DivergedError for the step after the state's, whose metrics these are."""
  step = int(state.step)
  ids = loader.person_ids(dataset, config.train.batch_size, config.seed, step)
  raise errors.DivergedError(
    f'loss {metrics["loss"]}, gradient norm {metrics["gradient_norm"]} at step {step + 1} '
    f'(learning rate {float(schedule(step)):g}, people {", ".join(map(str, ids))}); the state '
    f'before it is checkpoint {step}; lower train.learning_rate in a new --workdir, or look at '
    'these people'
  )
