"""All of Orbax: what a checkpoint holds, which ones are kept, and how they come back.

A checkpoint is WORKDIR/checkpoints/STEP with three items: `variables` (the network), `training`
(step and optimizer) and `meta` (configuration, skeleton, and the data iterator's state: its seed,
batch size and data set; the step says the rest). Predicting restores the first alone.

Orbax takes every folder whose name is a number for a finished checkpoint and restores a flipped
bit without a word. So each checkpoint carries the SHA-256 of its files, written before Orbax gives
it its final name, and a checkpoint counts only if they agree. An evaluation adds `score.json`.
"""

import contextlib
import hashlib
import json
import logging
import math
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mrpose_jax import errors
from mrpose_jax import train_state
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

ITEMS = ('variables', 'training', 'meta')
DIGESTS, SCORE = 'digests.json', 'score.json'
# The latest two, so that there is a good one behind a damaged one.
KEEP_LATEST = 2


class Checkpoints:
  """The checkpoints of one workdir; keeps the latest two and the one with the best score."""

  def __init__(self, workdir, create: bool = False):
    """Opens them.

    Args:
      workdir: of a training run.
      create: to save into; makes the folder where there is none, and removes what a save that was
        killed has left. On all processes of a run, and by one run at a time.

    Raises:
      CheckpointError: no folder, and not asked to create one.
    """
    self.folder = (pathlib.Path(workdir) / 'checkpoints').absolute()
    self._writes = create
    self._problems = {}  # step -> what is wrong with it, or None
    if create and parallel.is_main():
      self.folder.mkdir(parents=True, exist_ok=True)
      for partial in self.folder.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(partial, ignore_errors=True)
    if not create and not self.folder.is_dir():
      raise errors.CheckpointError(
        f'{workdir}: no checkpoints here; train first, or name the workdir of a training run'
      )
    options = ocp.AsyncOptions(post_finalization_callback=self._seal)
    self._orbax = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(*ITEMS), async_options=options
    )
    self._saving = None

  def steps(self) -> list[int]:
    """All that are there, good or not, in order."""
    if not self.folder.is_dir():
      return []
    return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

  def latest_step(self) -> int | None:
    """The newest good checkpoint; warns of newer ones that are damaged. None where there is none.

    Where checkpoints are saved, damaged ones are moved to WORKDIR/damaged.
    """
    return parallel.agree(self._first_good(reversed(self.steps())))

  def best_step(self) -> int:
    """The good checkpoint with the highest score, or the latest where none was scored.

    Raises:
      CheckpointError: no good checkpoint.
    """
    step = parallel.agree(self._first_good(self._from_best(self.steps())))
    step = self.latest_step() if step is None else step
    if step is None:
      raise errors.CheckpointError(f'{self.folder}: holds no good checkpoint')
    return step

  def save(self, step: int, state: train_state.TrainState, meta: dict):
    """Writes in the background; the next save, `set_score`, `wait` and `close` wait for it.

    Raises:
      CheckpointError: the save before could not be written.
    """
    self.wait()
    self._move_aside(step)
    self._saving = step
    with self._writing(step):
      self._orbax.save(
        self.folder / str(step),
        args=ocp.args.Composite(
          variables=ocp.args.StandardSave(state.variables),
          training=ocp.args.StandardSave({'step': state.step, 'opt_state': state.opt_state}),
          meta=ocp.args.JsonSave(meta),
        ),
      )

  def set_score(self, step: int, score: float):
    """Says how good a checkpoint is; a score that is not finite is never the best."""
    self.wait()
    if parallel.is_main():
      write_json(
        self.folder / str(step) / SCORE, {'score': score if math.isfinite(score) else None}
      )
    self._remove_old()

  def score(self, step: int) -> float | None:
    """Of its evaluation; None without one, or where it was not finite or cannot be read."""
    file = self.folder / str(step) / SCORE
    if not file.exists():
      return None
    try:
      score = read_json(file)['score']
      return score if score is not None and math.isfinite(score) else None
    except (errors.CheckpointError, KeyError, TypeError) as error:
      log.warning('%s: left out (%s)', file, error)
      return None

  def evaluated(self, step: int) -> bool:
    """Whether `set_score` was called for it."""
    return (self.folder / str(step) / SCORE).exists()

  def meta(self, step: int) -> dict:
    return self._restore(step, meta=ocp.args.JsonRestore())['meta']

  def restore_variables(self, step: int, target):
    """Variables like `target`, a tree of ShapeDtypeStruct with shardings.

    Raises:
      CheckpointError: not there, damaged, or of another network.
    """
    return self._restore(step, target)['variables']

  def restore_state(self, step: int, target: train_state.TrainState) -> train_state.TrainState:
    """The whole state like `target`, a tree of ShapeDtypeStruct with shardings.

    Raises:
      CheckpointError: not there, damaged, or of another network.
    """
    training = {'step': target.step, 'opt_state': target.opt_state}
    restored = self._restore(step, target.variables, training=ocp.args.StandardRestore(training))
    diverged = jax.device_put(np.zeros((), bool), target.diverged.sharding)
    return target.replace(**restored['variables'], **restored['training'], diverged=diverged)

  def wait(self):
    """Returns when the last save is on disk; raises CheckpointError if it could not be written."""
    if self._saving is not None:
      with self._writing(self._saving):
        self._orbax.wait_until_finished()
      self._saving = None
      self._remove_old()

  def close(self):
    try:
      self.wait()
    finally:
      self._orbax.close()

  def problem(self, step: int) -> str | None:
    """What is wrong with a checkpoint, file by file; None for a good one."""
    if step not in self._problems:
      self._problems[step] = _problem(self.folder / str(step))
    return self._problems[step]

  def _first_good(self, steps):
    """Of process 0, which alone reads the digests."""
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
      aside = self.folder.parent / 'damaged' / str(step)
      shutil.rmtree(aside, ignore_errors=True)
      aside.parent.mkdir(exist_ok=True)
      folder.rename(aside)
    self._problems.pop(step, None)

  def _from_best(self, steps):
    """Those of the steps that have a score, the best first."""
    scores = {step: self.score(step) for step in steps}
    return sorted((step for step in steps if scores[step] is not None), key=scores.get)[::-1]

  def _remove_old(self):
    """Removes all but the latest and the best."""
    steps = self.steps()
    keep = {*steps[-KEEP_LATEST:], *self._from_best(steps)[:1]}
    if parallel.is_main():
      for step in set(steps) - keep:
        shutil.rmtree(self.folder / str(step), ignore_errors=True)

  @contextlib.contextmanager
  def _writing(self, step):
    """Turns what goes wrong into a CheckpointError, and removes the part that was written."""
    try:
      yield
    except (OSError, RuntimeError, ValueError) as error:
      self._saving = None
      for partial in self.folder.glob(f'{step}.orbax-checkpoint-tmp*'):
        shutil.rmtree(partial, ignore_errors=True)
      others = self.steps()
      raise errors.CheckpointError(
        f'{self.folder / str(step)}: cannot be written ({_brief(error)}); '
        f'{f"checkpoint {others[-1]} is kept" if others else "there is no earlier one"}; '
        'make room, and start again'
      ) from error

  def _seal(self):
    """Writes the digests; Orbax calls it when all files are there, before the final name."""
    if parallel.is_main():
      for partial in self.folder.glob(f'{self._saving}.orbax-checkpoint-tmp*'):
        write_json(partial / DIGESTS, _digests(partial))

  def _restore(self, step, variables=None, **items):
    if step not in self.steps():
      raise errors.CheckpointError(
        f'{self.folder}: no checkpoint of step {step}; there are {self.steps()}'
      )
    if parallel.is_main() and self.problem(step) is not None:
      raise errors.CheckpointError(f'{self.folder / str(step)}: {self.problem(step)}')
    if variables is not None:
      _check_shapes(self.folder / str(step) / 'variables', variables)
      items['variables'] = ocp.args.StandardRestore(variables)
    try:
      return self._orbax.restore(self.folder / str(step), args=ocp.args.Composite(**items))
    except (ValueError, OSError, KeyError) as error:
      raise errors.CheckpointError(
        f'{self.folder / str(step)}: cannot be restored ({_brief(error)})'
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


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of every file of the items; Orbax writes its own notes beside them later."""
  found = {}
  for path in sorted(path for item in ITEMS for path in (folder / item).rglob('*')):
    if path.is_file():
      with open(path, 'rb') as file:
        found[str(path.relative_to(folder))] = hashlib.file_digest(file, 'sha256').hexdigest()
  return found


def _problem(folder: pathlib.Path) -> str | None:
  """What is wrong with a checkpoint; None for a good one."""
  if not (folder / DIGESTS).exists():
    return f'not a finished checkpoint (no {DIGESTS})'
  try:
    expected = read_json(folder / DIGESTS)
    found = _digests(folder)
  except (errors.CheckpointError, OSError) as error:
    return f'damaged ({_brief(error)})'
  for name, digest in expected.items():
    if name not in found:
      return f'damaged: {name} is missing'
    if found[name] != digest:
      return f'damaged: {name} is not what was written'
  return None


def _check_shapes(folder: pathlib.Path, target):
  """Raises CheckpointError unless the item holds arrays of the target's names and shapes."""
  there = _shapes(ocp.StandardCheckpointHandler().metadata(epath.Path(folder)).tree)
  here = _shapes(target)
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      raise errors.CheckpointError(
        f'{folder}: of another network: {name} is {there.get(name, "absent")} there and '
        f'{here.get(name, "absent")} here'
      )


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): x.shape for path, x in leaves}


def _brief(error) -> str:
  """The error's first line."""
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text.splitlines()[0][:200]
