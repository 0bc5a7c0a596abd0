"""Scalars to metrics.jsonl and TensorBoard."""

import json
import logging
import pathlib

import tensorboardX

from mrpose_jax import parallel

log = logging.getLogger(__name__)


class MetricWriter:
  """Appends to WORKDIR/metrics.jsonl, a JSON object a line, and to a TensorBoard event file.

  A run that goes on from a checkpoint takes out what was written after it, and a last line that
  was cut off; the event file is written anew, so that restarts leave no more than one. Of several
  processes, the first writes.
  """

  def __init__(self, workdir, start_step: int = 0):
    """Opens them.

    Args:
      workdir: of the run.
      start_step: that it goes on from; lines of later steps are taken out.
    """
    self._file = self._board = None
    if not parallel.is_main():
      return
    workdir = pathlib.Path(workdir)
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
    self._add_to_board(line)

  def close(self):
    if self._file is not None:
      self._file.close()
      self._board.close()

  def _add_to_board(self, line):
    step = line.pop('step')
    for name, value in line.items():
      self._board.add_scalar(name, value, step)


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
