"""All of Orbax: what a checkpoint holds, which ones are kept, and how they come back.

A checkpoint is WORKDIR/checkpoints/STEP with three items: `variables` (the network), `training`
(step and optimizer) and `meta` (configuration, skeleton, and the data iterator's state: its seed,
batch size and data set; the step says the rest). Predicting restores the first alone.
"""

import json
import math
import pathlib

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mrpose_jax import errors
from mrpose_jax import train_state


class Checkpoints:
  """The checkpoints of one workdir; keeps the latest and the best by 'score'."""

  def __init__(self, workdir, create: bool = False):
    """Opens them.

    Args:
      workdir: of a training run.
      create: make the folder where there is none, to save into.

    Raises:
      CheckpointError: no folder, and not asked to create one.
    """
    self.folder = (pathlib.Path(workdir) / 'checkpoints').absolute()
    if not create and not self.folder.is_dir():
      raise errors.CheckpointError(
        f'{workdir}: no checkpoints here; train first, or name the workdir of a training run'
      )
    keep = checkpoint_managers.AnyPreservationPolicy(
      [checkpoint_managers.LatestN(1), checkpoint_managers.BestN(get_metric_fn=_score, n=1)]
    )
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        best_fn=_score,
        preservation_policy=keep,
        create=create,
        cleanup_tmp_directories=create,
        read_only=not create,
      ),
      item_handlers={
        'variables': ocp.StandardCheckpointHandler(),
        'training': ocp.StandardCheckpointHandler(),
        'meta': ocp.JsonCheckpointHandler(),
      },
    )

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def best_step(self) -> int:
    """The step with the highest score, or the latest where none was scored; CheckpointError."""
    step = self._manager.best_step()
    step = self._manager.latest_step() if step is None else step
    if step is None:
      raise errors.CheckpointError(f'{self.folder}: holds no finished checkpoint')
    return step

  def save(self, step: int, state: train_state.TrainState, meta: dict, score: float):
    """Writes in the background; `close` or the next save waits for it."""
    self._manager.save(
      step,
      args=ocp.args.Composite(
        variables=ocp.args.StandardSave(state.variables),
        training=ocp.args.StandardSave({'step': state.step, 'opt_state': state.opt_state}),
        meta=ocp.args.JsonSave(meta),
      ),
      metrics={'score': score},
    )

  def meta(self, step: int) -> dict:
    return self._restore(step, meta=ocp.args.JsonRestore())['meta']

  def restore_variables(self, step: int, target):
    """Variables like `target`, a tree of ShapeDtypeStruct with shardings."""
    return self._restore(step, variables=ocp.args.StandardRestore(target))['variables']

  def restore_state(self, step: int, target: train_state.TrainState) -> train_state.TrainState:
    """The whole state like `target`, a tree of ShapeDtypeStruct with shardings."""
    training = {'step': target.step, 'opt_state': target.opt_state}
    restored = self._restore(
      step,
      variables=ocp.args.StandardRestore(target.variables),
      training=ocp.args.StandardRestore(training),
    )
    return target.replace(**restored['variables'], **restored['training'])

  def wait(self):
    """Returns when the last save is on disk; raises what went wrong with it."""
    self._manager.wait_until_finished()

  def close(self):
    self.wait()
    self._manager.close()

  def _restore(self, step, **items):
    steps = sorted(self._manager.all_steps())
    if step not in steps:
      raise errors.CheckpointError(
        f'{self.folder}: no checkpoint of step {step}; there are {steps}'
      )
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except (ValueError, OSError, KeyError) as error:
      reason = str(error).splitlines()[0]
      raise errors.CheckpointError(
        f'{self.folder / str(step)}: cannot be restored ({reason})'
      ) from error


def locate(path) -> tuple[pathlib.Path, int | None]:
  """(workdir, step) of a workdir, or of one checkpoint's own folder WORKDIR/checkpoints/STEP."""
  path = pathlib.Path(path).absolute()
  if path.parent.name == 'checkpoints' and path.name.isdigit():
    return path.parents[1], int(path.name)
  return path, None


def restore_target(tree, sharding):
  """Arrays or shapes -> ShapeDtypeStructs that place the restored arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def write_json(path, content):
  """Replaces the file in one step."""
  path = pathlib.Path(path)
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
  partial.replace(path)


def read_json(path) -> dict:
  """Raises CheckpointError for a file that is not there or not JSON."""
  try:
    return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise errors.CheckpointError(f'{path}: cannot be read ({error})') from error


def _score(metrics) -> float:
  score = metrics['score']
  return score if math.isfinite(score) else -math.inf
