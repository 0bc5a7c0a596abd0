"""A run that is killed while it saves, and started again, against a run that is not.

This process must not start JAX's devices before the runs have ended: a TPU serves one process.
"""

import os
import pathlib
import random
import signal
import tempfile

from benchmarks import kill_runs
from benchmarks.accelerator import rows

KILLS = 2
EPOCHS = 12.0
SETTINGS = (
  '--config.model.deterministic=True',
  '--config.train.batch_size=8',  # up to eight devices share it
  '--config.eval.batch_size=8',
)


def measure(table: rows.Rows):
  """Kills the tiny run of `kill_runs`; raises ValueError if it ends first or the bits differ."""
  table.about(f'XLA_FLAGS={os.environ.get("XLA_FLAGS", "")} {" ".join(SETTINGS)}')
  kill_runs.XLA_FLAGS = os.environ.get('XLA_FLAGS', '')
  draw = random.Random(0)
  with tempfile.TemporaryDirectory() as scratch:
    whole, killed = pathlib.Path(scratch) / 'whole', pathlib.Path(scratch) / 'killed'
    kill_runs.finish(whole, EPOCHS, *SETTINGS)
    in_saves = 0
    for number in range(KILLS):
      process = kill_runs.start(killed, EPOCHS, *SETTINGS)
      kill_runs.wait_for_a_save([process], killed, draw)
      process.kill()
      _, stderr = process.communicate()
      if process.returncode != -signal.SIGKILL:
        print(stderr, flush=True)
        raise ValueError(
          f'the run ended before kill {number + 1} with exit code {process.returncode}'
        )
      in_saves += kill_runs.saving(killed)
    kill_runs.finish(killed, EPOCHS, *SETTINGS)
    arrays, losses, _ = kill_runs.contents(whole)
    other_arrays, other_losses, _ = kill_runs.contents(killed)
  different = [name for name in arrays if arrays[name] != other_arrays.get(name)]
  table.add(
    f'{KILLS} kills, {in_saves} of them in a save',
    **{'arrays': len(arrays), 'different arrays': len(different), 'steps': len(losses)},
    **{'losses are equal': losses == other_losses},
  )
  if different or losses != other_losses:
    raise ValueError(f'the resumed run has other bits: {", ".join(different[:5]) or "losses"}')
