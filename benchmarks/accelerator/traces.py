"""The longest kernels in a trace of jax.profiler."""

import collections
import gzip
import json
import pathlib


def longest_kernels(folder: pathlib.Path, number: int = 10) -> list[tuple[str, float, float]]:
  """Returns (name, milliseconds, calls) of the kernels with the longest total time.

  Both are those of one device, the mean over the devices in the trace. A trace does not tell the
  devices of a CPU apart; theirs are added up.

  Args:
    folder: what `jax.profiler.start_trace` was given.
    number: number of kernels.

  Raises:
    FileNotFoundError: there is no trace.
  """
  files = sorted(pathlib.Path(folder).rglob('*.trace.json.gz'))
  if not files:
    raise FileNotFoundError(f'{folder}: no *.trace.json.gz here')
  with gzip.open(files[-1], 'rt') as file:
    events = json.load(file)['traceEvents']
  lines = _kernel_lines(events)
  totals = collections.defaultdict(lambda: [0.0, 0])
  for event in events:
    if event.get('ph') != 'X':
      continue
    on_line = (event['pid'], event['tid']) in lines
    # A CPU's kernels lie beside other events of the same threads.
    if on_line or (not lines and 'hlo_op' in event.get('args', {})):
      total = totals[event['name']]
      total[0] += event.get('dur', 0) / 1e3  # microseconds
      total[1] += 1
  ordered = sorted(totals.items(), key=lambda item: -item[1][0])
  devices = len({process for process, _ in lines}) or 1
  return [
    (name, milliseconds / devices, calls / devices)
    for name, (milliseconds, calls) in ordered[:number]
  ]


def _kernel_lines(events):
  """(process, thread) of the lines that hold kernels: streams of GPUs, "XLA Ops" of TPUs.

  The other lines of a device repeat the kernels by module, source or step.
  """
  names = [event for event in events if event.get('ph') == 'M']
  devices = {
    event['pid']
    for event in names
    if event['name'] == 'process_name' and event['args']['name'].startswith('/device:')
  }
  lines = {
    (event['pid'], event['tid']): event['args']['name']
    for event in names
    if event['name'] == 'thread_name' and event['pid'] in devices
  }
  streams = {line for line, name in lines.items() if name.startswith('Stream')}
  return streams or {line for line, name in lines.items() if name == 'XLA Ops'}
