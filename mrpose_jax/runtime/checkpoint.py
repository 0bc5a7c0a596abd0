"""Checkpoints: saving and restoring with Orbax, checking for damage, and removing old ones.

A checkpoint is WORKDIR/checkpoints/STEP with these items: `variables` (the network), `ema` (their
moving average, if the run keeps one), `training` (step and optimizer state) and `meta`
(configuration, skeleton, and the data iterator's seed, batch size and data set; its position
follows from the step). Prediction restores `ema` or `variables`, and not `training`.

Orbax treats every folder whose name is a number as a finished checkpoint, and restores a flipped
bit without an error. So each checkpoint contains the SHA-256 digests of its files, written before
Orbax renames it to its final name, and it counts as intact only if all of them match. An evaluation
adds `score.json`.
"""

import contextlib
import logging
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import struct
from jax import numpy as jnp

from mrpose_jax import buckets
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax.runtime import digests
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

_T = TypeVar('_T')

ITEMS = ('variables', 'ema', 'training', 'meta')
SCORE = 'score.json'
# Two, so that an intact checkpoint remains if the latest one is damaged.
KEEP_LATEST = 2


class Checkpoints:
  """The checkpoints of one workdir; keeps the latest two and the one with the best score."""

  def __init__(self, workdir, create: bool = False, lock=None):
    """Opens the checkpoints.

    Args:
      workdir: folder of a training run.
      create: True to save as well: creates the folder if it is missing, and removes the remains of
        saves that were killed. All processes of a run pass True, and only one run at a time.
      lock: from `run_locks.acquire`; once it is lost, every call that would save, move or remove
        something raises CheckpointError instead.

    Raises:
      ConfigError: `create` below a path with a character that Orbax would take for a pattern.
      CheckpointError: the folder is missing, and `create` is False.
    """
    self.folder = paths.parse(workdir) / 'checkpoints'
    special = sorted(set(str(self.folder)) & set('[]*?\\'))
    if create and special:  # Orbax takes the path for a pattern and leaves what nothing can read
      raise errors.ConfigError(
        f'--workdir={workdir}: checkpoints cannot be written below a path with '
        f'{" ".join(special)}; choose another folder, or rename that one'
      )
    self._writes, self._lock = create, lock
    self._problems = {}  # step -> description of the damage, or None
    if create and parallel.is_main():
      self.check_lock()
      self.folder.mkdir(parents=True, exist_ok=True)
      self._remove_unfinished()
    if not create and not self.folder.is_dir():
      raise errors.CheckpointError(
        f'{workdir}: no checkpoints here; train first, or name the workdir of a training run'
      )
    options = ocp.AsyncOptions(post_finalization_callback=self._seal)
    self._orbax = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(*ITEMS), async_options=options
    )
    self._saving = None
    self._saved_shapes = {}

  def steps(self) -> list[int]:
    """The steps of all checkpoints, damaged or not, in ascending order."""
    folders = self.folder.iterdir() if self.folder.is_dir() else []
    folders = [path for path in folders if path.name.isdigit()]
    return sorted(int(path.name) for path in folders if paths.is_committed(path))

  def latest_step(self) -> int | None:
    """Returns the step of the newest intact checkpoint, or None if there is none.

    Logs a warning for each newer, damaged one, and moves it to WORKDIR/damaged if opened with
    `create`.
    """
    return parallel.agree(self._first_intact(reversed(self.steps())))

  def best_step(self) -> int:
    """Returns the step of the best intact checkpoint, or of the latest if none has a score.

    Raises:
      CheckpointError: there is no intact checkpoint.
    """
    step = parallel.agree(self._first_intact(self._best_first(self.steps())))
    step = self.latest_step() if step is None else step
    if step is None:
      raise errors.CheckpointError(f'{self.folder}: contains no intact checkpoint')
    return step

  def read(self, step: int | None, read_step: Callable[[int], _T]) -> tuple[int, _T]:
    """Calls read_step with this step, or with the best one, and returns both.

    A run that trains in the workdir may remove the best checkpoint while it is read. Then the best
    one of those that are left is read.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    if step is not None:
      return step, read_step(step)
    while True:
      best = self.best_step()
      try:
        return best, read_step(best)
      except errors.CheckpointError:
        if best in self.steps():
          raise
        log.info('checkpoint %d was removed by the run that trains here', best)

  def save(self, step: int, state: struct.PyTreeNode, meta: dict):
    """Saves a `training_step.TrainState` in the background.

    The next save, `set_score`, `wait` and `close` wait for the end.

    Raises:
      CheckpointError: the previous save could not be written.
    """
    self.wait()
    self.check_lock()
    self._move_aside(step)
    self._saving = step
    training = {'step': state.step, 'opt_state': state.opt_state}
    trees = {'variables': state.variables, 'training': training}
    if state.ema is not None:
      trees['ema'] = state.ema
    self._saved_shapes = {item: _shapes(tree) for item, tree in trees.items()}
    with self._writing(step):
      self._orbax.save(
        self.folder / str(step),
        args=ocp.args.Composite(
          **{item: ocp.args.StandardSave(tree) for item, tree in trees.items()},
          meta=ocp.args.JsonSave(meta),
        ),
      )

  def set_score(self, step: int, score: float, metric: str = ''):
    """Stores the score of an evaluation by a metric; one that is not finite is never the best."""
    self.wait()
    self.check_lock()
    if parallel.is_main():
      content = {'score': score if math.isfinite(score) else None, 'metric': metric}
      paths.write_json(self.folder / str(step) / SCORE, content)
    self._remove_old()

  def score(self, step: int) -> float | None:
    """The score of the evaluation; None if it is missing, not finite or cannot be read."""
    return self._score(step)[0]

  def _score(self, step):
    """The score or None, and its metric, '' for a score of an older version."""
    file = self.folder / str(step) / SCORE
    try:
      content = paths.read_json(file) if file.exists() else {'score': None}
      score, metric = content['score'], content.get('metric', '')
      return (score if score is not None and math.isfinite(score) else None), metric
    except (errors.CheckpointError, AttributeError, KeyError, TypeError) as error:
      log.warning('%s: ignored (%s)', file, error)
      return None, ''

  def evaluated(self, step: int) -> bool:
    """Whether `set_score` was called for this step."""
    return (self.folder / str(step) / SCORE).exists()

  def meta(self, step: int) -> dict:
    return self._restore(step, meta=ocp.args.JsonRestore())['meta']

  def has_ema(self, step: int) -> bool:
    """Whether the checkpoint holds a moving average of the variables."""
    return (self.folder / str(step) / 'ema').is_dir()

  def restore_variables(self, step: int, target, ema: bool | None = None):
    """Restores the variables onto `target`, a tree of ShapeDtypeStruct with shardings.

    Args:
      step: step of the checkpoint.
      target: tree of {'params', 'batch_stats'}.
      ema: restore their moving average; None does so where the checkpoint has one.

    Raises:
      CheckpointError: the checkpoint is missing, damaged, of another network, or has no moving
        average.
    """
    if ema and not self.has_ema(step):
      raise errors.CheckpointError(
        f'{self.folder / str(step)}: has no moving average of the variables (the run had '
        'train.ema=0); set eval.ema=False'
      )
    item = 'ema' if ema or (ema is None and self.has_ema(step)) else 'variables'
    return self._restore(step, {item: target})[item]

  def restore_state(self, step: int, target: struct.PyTreeNode) -> struct.PyTreeNode:
    """Restores a `training_step.TrainState` onto `target`: ShapeDtypeStructs with shardings.

    Raises:
      CheckpointError: the checkpoint is missing, damaged, or of another network.
    """
    trees = {'variables': target.variables}
    if target.ema is not None and self.has_ema(step):
      trees['ema'] = target.ema
    training = {'step': target.step, 'opt_state': target.opt_state}
    restored = self._restore(step, trees, training=ocp.args.StandardRestore(training))
    diverged = jax.device_put(np.zeros((), bool), target.diverged.sharding)
    state = target.replace(**restored['variables'], **restored['training'], diverged=diverged)
    if target.ema is None:
      return state
    if 'ema' not in restored:
      log.warning('%s: has no moving average, which starts here', self.folder / str(step))
      return state.replace(ema=jax.tree.map(jnp.copy, state.variables))
    return state.replace(ema=restored['ema'])

  def check_lock(self):
    """Raises CheckpointError if the run has lost its workdir to another one."""
    if self._lock is not None:
      self._lock.check()

  def wait(self):
    """Waits until the last save is on disk; raises CheckpointError if it could not be written."""
    if self._saving is not None:
      with self._writing(self._saving):
        self._orbax.wait_until_finished()
        self._read_back(self._saving)
      self._saving = None
      self._remove_old()

  def close(self):
    try:
      self.wait()
    finally:
      self._orbax.close()

  def problem(self, step: int) -> str | None:
    """Describes the damage of a checkpoint; None if it is intact."""
    if step not in self._problems:
      self._problems[step] = digests.problem(self.folder / str(step), ITEMS)
    return self._problems[step]

  def _first_intact(self, steps):
    """The first intact one of `steps` on process 0, which alone reads the digests; else None."""
    if not parallel.is_main():
      return None
    for step in steps:
      if self.problem(step) is None:
        return step
      log.warning('%s: not used, %s', self.folder / str(step), self.problem(step))
      if self._writes:
        self._move_aside(step)
    return None

  def _move_aside(self, step):
    folder = self.folder / str(step)
    if parallel.is_main() and folder.exists():
      self.check_lock()
      aside = self.folder.parent / 'damaged' / str(step)
      paths.move_tree(folder, aside)
    self._problems.pop(step, None)

  def _best_first(self, steps):
    """The steps that have a score by the metric of the latest score, the best first."""
    scores = [(*self._score(step), step) for step in steps]
    scores = [row for row in scores if row[0] is not None]
    scores = sorted(row for row in scores if row[1] in ('', scores[-1][1]))
    return [step for *_, step in scores[::-1]]

  def _remove_old(self):
    """Removes all checkpoints but the latest KEEP_LATEST and the best."""
    steps = self.steps()
    keep = {*steps[-KEEP_LATEST:], *self._best_first(steps)[:1]}
    if parallel.is_main():
      for step in set(steps) - keep:
        self.check_lock()
        paths.remove_tree(self.folder / str(step), (digests.NAME,))

  @contextlib.contextmanager
  def _writing(self, step):
    """Turns errors of a save into a CheckpointError, and removes the partial checkpoint.

    A run that has lost its lock, or cannot tell, leaves it to the next start.
    """
    try:
      with buckets.reaching(self.folder):
        yield
    except (OSError, RuntimeError, ValueError, KeyError, errors.UserError) as error:
      self._saving = None
      self.check_lock()
      self._remove_unfinished(step)
      others = self.steps()
      raise errors.CheckpointError(
        f'{self.folder / str(step)}: cannot be written ({errors.brief(error)}); '
        f'{f"checkpoint {others[-1]} is kept" if others else "there is no earlier one"}; '
        'make room or restore access, and start again'
      ) from error

  def _read_back(self, step):
    """Raises ValueError unless the arrays of a new checkpoint can be found in its files.

    Older checkpoints are removed only after this.
    """
    if not parallel.is_main():
      return
    folder = self.folder / str(step)
    try:
      stored = {item: _stored_shapes(folder / item) for item in self._saved_shapes}
      if stored != self._saved_shapes:
        raise ValueError('it does not hold the arrays that were saved')
    except (OSError, KeyError, ValueError):
      self._move_aside(step)
      raise

  def _seal(self):
    """Writes the digests; Orbax calls it after the last file and before the final rename."""
    if parallel.is_main():
      self.check_lock()
      for partial in self._unfinished(self._saving):
        digests.write(partial, ITEMS)

  def _unfinished(self, step=None):
    """The folders of saves that did not end: of this step, or of any."""
    found = []
    for path in self.folder.iterdir() if self.folder.is_dir() else []:
      number = path.name.partition('.')[0]
      wanted = number.isdigit() if step is None else number == str(step)
      if wanted and not paths.is_committed(path):
        found.append(path)
    return found

  def _remove_unfinished(self, step=None):
    if parallel.is_main():
      for partial in self._unfinished(step):
        paths.remove_tree(partial)

  def _restore(self, step, trees=None, **items):
    if step not in self.steps():
      raise errors.CheckpointError(
        f'{self.folder}: no checkpoint of step {step}; there are {self.steps()}'
      )
    if parallel.is_main() and self.problem(step) is not None:
      raise errors.CheckpointError(f'{self.folder / str(step)}: {self.problem(step)}')
    try:
      with buckets.reaching(self.folder):
        for item, target in (trees or {}).items():
          _check_shapes(self.folder / str(step) / item, target)
          items[item] = ocp.args.StandardRestore(target)
        return self._orbax.restore(self.folder / str(step), args=ocp.args.Composite(**items))
    except (ValueError, OSError, KeyError) as error:
      raise errors.CheckpointError(
        f'{self.folder / str(step)}: cannot be restored ({errors.brief(error)})'
      ) from error


def locate(path) -> tuple[paths.Path, int | None]:
  """Splits WORKDIR/checkpoints/STEP into (workdir, step); any other path is (workdir, None).

  Raises:
    CheckpointError: the path is a checkpoint's folder that was moved or copied to another place.
  """
  path = paths.parse(path)
  if path.parent.name == 'checkpoints' and path.name.isdigit():
    return path.parents[1], int(path.name)
  if (path / digests.NAME).exists():
    raise errors.CheckpointError(
      f"{path}: a checkpoint's folder has to be WORKDIR/checkpoints/STEP; move it to such a place, "
      'where STEP is the number of its step'
    )
  return path, None


def restore_target(tree, sharding):
  """ShapeDtypeStructs with the shapes of `tree` and this sharding, as a target to restore onto."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _check_shapes(folder: paths.Path, target):
  """Raises CheckpointError unless the stored arrays have the target's names and shapes."""
  stored = _stored_shapes(folder)
  expected = _shapes(target)
  for name in sorted(stored.keys() | expected.keys()):
    if stored.get(name) != expected.get(name):
      raise errors.CheckpointError(
        f'{folder}: belongs to another network: {name} is {stored.get(name, "absent")} in the '
        f'checkpoint and {expected.get(name, "absent")} in this network'
      )


def _stored_shapes(folder: paths.Path) -> dict[str, tuple[int, ...]]:
  """Name -> shape of the arrays that an item of a checkpoint holds."""
  return _shapes(ocp.StandardCheckpointHandler().metadata(epath.Path(folder)).tree)


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): x.shape for path, x in leaves}
