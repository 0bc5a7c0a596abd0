"""Writes scalars to metrics.jsonl, TensorBoard and, if configured, Weights & Biases."""

import json
import logging
import pathlib

import ml_collections
import tensorboardX

from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

EVENTS = 'events.out.tfevents.*'
WANDB_RUN = 'wandb_run.txt'  # in the workdir: the id of its Weights & Biases run


class MetricWriter:
  """Appends to WORKDIR/metrics.jsonl, one JSON object per line, and to a TensorBoard event file.

  A run that resumes from a checkpoint removes the lines of later steps and a last line that was cut
  off; it rewrites the event file, so that restarts leave only one. With `train.wandb`, the scalars
  also go to a run in that Weights & Biases project, which a restart resumes. Only process 0 writes.
  """

  def __init__(self, workdir, start_step: int = 0, config: ml_collections.ConfigDict | None = None):
    """Opens the files.

    Args:
      workdir: folder of the run.
      start_step: step that the run resumes from; lines of later steps are removed.
      config: configuration of the run; None writes nothing to Weights & Biases.

    Raises:
      ConfigError: Weights & Biases is configured but not installed, or does not start.
    """
    self._file = self._board = self._wandb = None
    if not parallel.is_main():
      return
    run_folder = paths.parse(workdir)
    self._run_folder = run_folder
    self._stage = paths.Stage(run_folder)
    workdir = self._stage.folder
    if config is not None and config.train.wandb:
      self._wandb = _wandb_run(workdir, config)
    for old in workdir.glob(EVENTS):
      old.unlink()
    self._board = tensorboardX.SummaryWriter(str(workdir))
    file = workdir / 'metrics.jsonl'
    lines = read(run_folder / file.name, start_step)
    partial = file.with_name('.metrics.jsonl.partial')
    partial.write_text(''.join(json.dumps(line) + '\n' for line in lines), encoding='utf-8')
    partial.replace(file)
    for line in lines:
      self._add_to_board(dict(line))
    self._file = open(file, 'a', encoding='utf-8')

  def write(self, step: int, scalars: dict[str, float]):
    if self._file is None:
      return
    line = {'step': step} | {name: float(value) for name, value in scalars.items()}
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()
    if self._wandb is not None:
      self._wandb.log(line)
    self._add_to_board(line)

  def publish(self):
    """Makes all lines visible in the run's folder; a run calls it before it saves a checkpoint."""
    if self._file is not None:
      self._board.flush()
      self._publish()

  def close(self):
    if self._file is not None:
      self._file.close()
      self._board.close()
      self._publish()
      self._stage.close()
    if self._wandb is not None:
      self._wandb.finish()

  def _publish(self):
    self._stage.publish()
    own = {path.name for path in self._stage.folder.glob(EVENTS)}
    for other in self._run_folder.glob(EVENTS):
      if other.name not in own:  # of an earlier start, whose lines are in the new one
        other.unlink()

  def _add_to_board(self, line):
    step = line.pop('step')
    for name, value in line.items():
      self._board.add_scalar(name, value, step)


def _wandb_run(workdir, config):
  """Starts or resumes the workdir's Weights & Biases run; WANDB_MODE=offline keeps it local."""
  try:
    import wandb
  except ImportError as error:
    raise errors.ConfigError(
      f'train.wandb={config.train.wandb!r}: Weights & Biases is not installed; '
      "pip install 'mrpose_jax[wandb]', or leave the field empty"
    ) from error
  file = workdir / WANDB_RUN
  run_id = file.read_text(encoding='utf-8').strip() if file.exists() else None
  try:
    run = wandb.init(
      project=config.train.wandb,
      name=workdir.name,
      dir=workdir,
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
  file.write_text(run.id, encoding='utf-8')
  return run


def read(file: pathlib.Path, last_step: int) -> list[dict]:
  """Reads the lines up to `last_step`; skips lines that cannot be read, with a warning."""
  lines = []
  for number, text in enumerate(file.read_bytes().splitlines() if file.exists() else [], 1):
    try:
      line = json.loads(text)
      if line['step'] <= last_step:
        lines.append(line)
    except (ValueError, KeyError, TypeError):
      log.warning('%s: line %d cannot be read and is skipped', file, number)
  return lines
