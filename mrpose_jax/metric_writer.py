"""Scalars to metrics.jsonl and TensorBoard."""

import json
import pathlib

import tensorboardX


class MetricWriter:
  """Appends to WORKDIR/metrics.jsonl, a JSON object a line, and to TensorBoard event files."""

  def __init__(self, workdir):
    self._file = open(pathlib.Path(workdir) / 'metrics.jsonl', 'a', encoding='utf-8')
    self._board = tensorboardX.SummaryWriter(str(workdir))

  def write(self, step: int, scalars: dict[str, float]):
    scalars = {name: float(value) for name, value in scalars.items()}
    self._file.write(json.dumps({'step': step, **scalars}) + '\n')
    self._file.flush()
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)

  def close(self):
    self._file.close()
    self._board.close()
