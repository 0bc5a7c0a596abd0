"""Writes scalars to metrics.jsonl, TensorBoard and, if configured, Weights & Biases."""

import contextlib
import json
import logging
import time
from collections.abc import Callable

import ml_collections
import tensorboardX

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

EVENTS = 'events.out.tfevents.*'
WANDB_RUN = 'wandb_run.txt'  # in the workdir: the id of its Weights & Biases run
PUBLISH_SECONDS = 10


class MetricWriter:
  """Appends to WORKDIR/metrics.jsonl, one JSON object per line, and to a TensorBoard event file.

  A run that resumes from a checkpoint removes the lines of later steps and a last line that was cut
  off; it rewrites the event file, so that restarts leave only one. With `train.wandb`, the scalars
  also go to a run in that Weights & Biases project, which a restart resumes. Only process 0 writes.

  Nothing can be appended to an object in a bucket, and it may be replaced about once a second. So a
  run there writes local files, and publishes them from time to time and whenever `publish` is
  called.
  """

  def __init__(
    self,
    workdir,
    start_step: int = 0,
    config: ml_collections.ConfigDict | None = None,
    evaluated: bool = True,
    check: Callable[[], None] = lambda: None,
  ):
    """Opens the files.

    Args:
      workdir: folder of the run.
      start_step: step that the run resumes from; lines of later steps are removed.
      config: configuration of the run; None writes nothing to Weights & Biases.
      evaluated: whether the evaluation of `start_step` was finished; if not, its line is removed,
        because it is going to be repeated.
      check: function that is called before files of a bucket are written or removed; raises an
        error to prevent it.

    Raises:
      ConfigError: Weights & Biases is configured but not installed, or does not start.
    """
    self._file = self._board = self._wandb = None
    if not parallel.is_main():
      return
    self._run_folder, self._check = paths.parse(workdir), check
    self._stage = paths.Stage(self._run_folder, check)
    if config is not None and config.train.wandb:
      self._wandb_stage = paths.Stage(self._run_folder, check)
      self._wandb = _wandb_run(self._run_folder, self._wandb_stage.folder, config)
      check()
      paths.write_text(self._run_folder / WANDB_RUN, self._wandb.id)
    for old in self._stage.folder.glob(EVENTS):
      old.unlink()
    self._board = tensorboardX.SummaryWriter(str(self._stage.folder))
    file = self._stage.folder / 'metrics.jsonl'
    lines = read(self._run_folder / file.name, start_step)
    if not evaluated:
      lines = [line for line in lines if line['step'] < start_step or not _is_evaluation(line)]
    paths.write_text(file, ''.join(json.dumps(line) + '\n' for line in lines))
    for line in lines:
      self._add_to_board(dict(line))
    self._file = open(file, 'a', encoding='utf-8')
    self._publish_at = time.monotonic() + PUBLISH_SECONDS

  def write(self, step: int, scalars: dict[str, float]):
    """Adds a line; raises what `check` raises, and BucketError."""
    if self._file is None:
      return
    line = {'step': step} | {name: float(value) for name, value in scalars.items()}
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()
    if self._wandb is not None:
      self._wandb.log(line)
    self._add_to_board(line)
    if time.monotonic() >= self._publish_at:
      self.publish()

  def publish(self):
    """Makes all lines visible in the run's folder; raises what `check` raises, and BucketError.

    A run calls it before it saves a checkpoint, and before it calls a checkpoint evaluated.
    """
    if self._file is None:
      return
    self._board.flush()
    self._publish()

  def close(self):
    if self._file is None:
      return
    self._file.close()
    self._board.close()
    try:
      self._publish()
    finally:
      self._stage.close()
      if self._wandb is not None:
        self._wandb.finish()
        with contextlib.closing(self._wandb_stage):
          self._wandb_stage.publish()

  def _publish(self):
    start = time.monotonic()
    self._stage.publish()
    own = {path.name for path in self._stage.folder.glob(EVENTS)}
    for other in self._run_folder.glob(EVENTS):
      if other.name not in own:  # of an earlier start, whose lines are in the new one
        self._check()
        other.unlink()
    end = time.monotonic()
    # Long files need seconds, which should stay a small part of the run.
    self._publish_at = end + max(PUBLISH_SECONDS, 50 * (end - start))

  def _add_to_board(self, line):
    step = line.pop('step')
    for name, value in line.items():
      self._board.add_scalar(name, value, step)


def _wandb_run(workdir, local_folder, config):
  """Starts or resumes the workdir's Weights & Biases run; WANDB_MODE=offline keeps it local."""
  try:
    import wandb
  except ImportError as error:
    raise errors.ConfigError(
      f'train.wandb={config.train.wandb!r}: Weights & Biases is not installed; '
      "pip install 'mrpose_jax[wandb]', or leave the field empty"
    ) from error
  file = workdir / WANDB_RUN
  run_id = file.read_bytes().decode().strip() if file.exists() else None
  try:
    run = wandb.init(
      project=config.train.wandb,
      name=workdir.name,
      dir=local_folder,
      id=run_id,
      resume='allow',
      config=config.to_dict(),
      settings=wandb.Settings(console='off', silent=True),
    )
  except wandb.Error as error:
    raise errors.ConfigError(
      f'train.wandb={config.train.wandb!r}: {" ".join(str(error).split())}; '
      'WANDB_MODE=offline logs to the workdir only'
    ) from error
  # After a restart some steps are logged again, but wandb's own step counter cannot go back.
  run.define_metric('step')
  run.define_metric('*', step_metric='step')
  return run


def _is_evaluation(line):
  return any(name.startswith('eval/') for name in line)


def read(file: paths.Path, last_step: int) -> list[dict]:
  """Reads the lines up to `last_step`; skips lines that cannot be read, with a warning."""
  texts = file.read_bytes().splitlines() if file.exists() else []
  lines = []
  for number, text in enumerate(texts, 1):
    try:
      line = json.loads(text)
      if line['step'] <= last_step:
        lines.append(line)
    except (ValueError, KeyError, TypeError):
      log.warning('%s: line %d cannot be read and is skipped', file, number)
  return lines
