"""Scalars to metrics.jsonl, TensorBoard, and Weights & Biases if asked for."""

import json
import logging
import pathlib

import ml_collections
import tensorboardX

from mrpose_jax import errors
from mrpose_jax.runtime import parallel

log = logging.getLogger(__name__)

WANDB_RUN = 'wandb_run.txt'  # of the workdir: the id of its run there


class MetricWriter:
  """Appends to WORKDIR/metrics.jsonl, a JSON object a line, and to a TensorBoard event file.

  A run that goes on from a checkpoint takes out what was written after it, and a last line that
  was cut off; the event file is written anew, so that restarts leave no more than one. With
  `train.wandb`, all goes to a run of that project of Weights & Biases as well; a restart goes on
  with the same run there. Of several processes, the first writes.
  """

  def __init__(self, workdir, start_step: int = 0, config: ml_collections.ConfigDict | None = None):
    """Opens them.

    Args:
      workdir: of the run.
      start_step: that it goes on from; lines of later steps are taken out.
      config: of the run; None writes nothing to Weights & Biases.

    Raises:
      ConfigError: Weights & Biases is asked for and not installed, or does not start.
    """
    self._file = self._board = self._wandb = None
    if not parallel.is_main():
      return
    workdir = pathlib.Path(workdir)
    if config is not None and config.train.wandb:
      self._wandb = _wandb_run(workdir, config)
    for old in workdir.glob('events.out.tfevents.*'):
      old.unlink()
    self._board = tensorboardX.SummaryWriter(str(workdir))
    file = workdir / 'metrics.jsonl'
    lines = read(file, start_step)
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

  def close(self):
    if self._file is not None:
      self._file.close()
      self._board.close()
    if self._wandb is not None:
      self._wandb.finish()

  def _add_to_board(self, line):
    step = line.pop('step')
    for name, value in line.items():
      self._board.add_scalar(name, value, step)


def _wandb_run(workdir, config):
  """The workdir's run of Weights & Biases, new or going on; WANDB_MODE=offline keeps it there."""
  try:
    import wandb
  except ImportError as error:
    raise errors.ConfigError(
      f"train.wandb={config.train.wandb!r}: pip install 'mrpose_jax[wandb]', or leave it empty"
    ) from error
  file = workdir / WANDB_RUN
  known = file.read_text(encoding='utf-8').strip() if file.exists() else None
  try:
    run = wandb.init(
      project=config.train.wandb,
      name=workdir.name,
      dir=workdir,
      id=known,
      resume='allow',
      config=config.to_dict(),
      settings=wandb.Settings(console='off', silent=True),
    )
  except wandb.Error as error:
    raise errors.ConfigError(
      f'train.wandb={config.train.wandb!r}: {" ".join(str(error).split())}; '
      'WANDB_MODE=offline logs to the workdir only'
    ) from error
  # After a restart some steps come a second time, which its own count of steps does not take.
  run.define_metric('step')
  run.define_metric('*', step_metric='step')
  file.write_text(run.id, encoding='utf-8')
  return run


def read(file: pathlib.Path, last_step: int) -> list[dict]:
  """The lines up to a step; what cannot be read is left out, with a warning."""
  lines = []
  for number, text in enumerate(file.read_bytes().splitlines() if file.exists() else [], 1):
    try:
      line = json.loads(text)
      if line['step'] <= last_step:
        lines.append(line)
    except (ValueError, KeyError, TypeError):
      log.warning('%s: line %d cannot be read and is left out', file, number)
  return lines
