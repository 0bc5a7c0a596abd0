"""The accelerator benchmark with tiny sizes on the CPU: each part, its clock, its tables."""

import gzip
import json
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import kill_runs
from benchmarks.accelerator import crops
from benchmarks.accelerator import deterministic
from benchmarks.accelerator import networks
from benchmarks.accelerator import prediction
from benchmarks.accelerator import resume
from benchmarks.accelerator import rows
from benchmarks.accelerator import runner
from benchmarks.accelerator import short_run
from benchmarks.accelerator import steps
from benchmarks.accelerator import traces
from benchmarks.accelerator import training
from mrpose_jax.models import decoders


@pytest.fixture(autouse=True)
def few_networks(monkeypatch):
  """One network for the times, two for the numbers."""
  for module in (training, prediction):
    monkeypatch.setattr(module, 'NETWORKS', ('simple_baseline',))
  assert networks.NETWORKS == tuple(decoders.DECODERS)
  monkeypatch.setattr(networks, 'NETWORKS', ('simple_baseline', 'mrheatnet2'))


def rows_of(module, folder, name='part'):
  """Runs a part in this process; returns its rows, which it has written."""
  module.measure(rows.Rows(folder, name))
  content = json.loads((folder / f'{name}.json').read_text())
  assert content['device'].startswith('4 x cpu (cpu)')
  return {row.pop('what'): row for row in content['rows']}


def test_training_steps_and_the_price_of_determinism(tmp_path):
  found = rows_of(training, tmp_path, 'training')
  assert list(found)[:2] == ['simple_baseline R18, batch 4', 'simple_baseline R18, batch 2']
  assert len(found) == 3  # and the largest batch, which three times the memory allows
  for row in found.values():
    assert row['people/s'] > 0 and row['plan, GiB'] > 0
  (price,) = rows_of(deterministic, tmp_path, 'deterministic').values()
  usual = found['simple_baseline R18, batch 4']['people/s']
  assert price['of the usual speed'] == pytest.approx(price['people/s'] / usual)


def test_a_batch_that_does_not_fit_is_tried_smaller(tmp_path, monkeypatch):
  tried = []

  def seconds_of_step(planner, compiled, people, at_least):
    tried.append(people)
    if people > 100:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory\nmore')
    return 0.5

  monkeypatch.setattr(steps, 'seconds_of_step', seconds_of_step)
  monkeypatch.setattr(steps, 'compile_all', lambda planners, people: [None for _ in people])
  monkeypatch.setattr(steps, 'memory_of', lambda compiled: 2**30)
  monkeypatch.setattr(training, 'largest_batch', lambda *arguments: 128)
  found = rows_of(training, tmp_path)
  assert tried == [4, 2, 128, 96]  # 102 rounded down to a multiple of 8
  assert found['simple_baseline R18, batch 128'] == {'error': 'RESOURCE_EXHAUSTED: out of memory'}
  assert found['simple_baseline R18, batch 96'] == {
    'ms a step': 500,
    'people/s': 96 * 4 / 0.5,
    'plan, GiB': 1,
  }


def test_networks(tmp_path):
  found = rows_of(networks, tmp_path)
  assert len(found) == 4
  for what, row in found.items():
    assert row['agrees'] is True
    if 'float32' in what:  # the same device as the reference
      assert max(row[name] for name in ('heatmaps', 'loss', 'gradient', 'moved keypoints')) < 1e-6
    else:
      assert 1e-4 < row['heatmaps'] < 0.05


def test_networks_that_do_not_agree(tmp_path, monkeypatch):
  cells = {'heatmaps': 0.0, 'loss': float('nan'), 'norm': 0.1, 'moved keypoints': 0.0}
  monkeypatch.setattr(networks, 'compare', lambda network, sizes: {'bfloat16': cells})
  with pytest.raises(
    ValueError, match='above the limits: simple_baseline, bfloat16: loss nan; mrh'
  ):
    networks.measure(rows.Rows(tmp_path, 'networks'))
  assert len(json.loads((tmp_path / 'networks.json').read_text())['rows']) == 2


@pytest.mark.parametrize(
  ('kind', 'name', 'limit'),
  [('float32, highest', 'authors', 2e-5), ('bfloat16', 'authors/peak', 0.05)],
)
def test_networks_that_are_not_the_authors(tmp_path, monkeypatch, kind, name, limit):
  _, limits = networks.KINDS[kind]
  assert limits[name] == limit
  cells = {**dict.fromkeys(limits, 0.0), name: 1.5 * limit}
  monkeypatch.setattr(networks, 'compare', lambda network, sizes: {kind: cells})
  with pytest.raises(ValueError, match=rf': simple_baseline, {kind}: {name} [\d.e-]+; mrh'):
    networks.measure(rows.Rows(tmp_path, 'networks'))


def test_errors_by_hand():
  a = [1.0, 2.0], 2.0, {'x': [3.0, 0.0]}, [[0.0, 0.0], [5.0, 5.0]]
  b = [1.0, 1.0], 4.0, {'x': [3.0, 4.0]}, [[0.0, 0.0], [5.0, 7.0]]
  assert networks.errors_of(a, b) == {
    'heatmaps': pytest.approx(0.5**0.5),
    'loss': 0.5,
    'gradient': 0.8,
    'norm': pytest.approx(0.4),
    'moved keypoints': 0.5,
  }


def test_errors_to_the_authors_by_hand():
  heatmaps, authors = np.array([1.0, 2.5]), np.array([1.0, 2.0])
  assert networks.errors_to_authors(heatmaps, authors) == {'authors': 0.5, 'authors/peak': 0.25}


def test_crops(tmp_path):
  found = rows_of(crops, tmp_path)
  assert len(found) == 3
  for row in found.values():
    assert all(row[name] <= limit for name, limit in crops.LIMITS.items())


def test_prediction(tmp_path):
  found = rows_of(prediction, tmp_path)
  assert list(found)[:2] == ['simple_baseline R18, 1 people', 'simple_baseline R18, 2 people']
  assert len(found) == 2 and all(row['people/s from the host'] > 0 for row in found.values())


def test_pytorch(tmp_path, monkeypatch):
  pytest.importorskip('torch')
  from benchmarks.accelerator import against_torch

  monkeypatch.setattr(against_torch, 'NETWORKS', ('simple_baseline',))
  found = rows_of(against_torch, tmp_path)
  assert len(found) == 4  # training and heatmaps, eager and compiled
  assert all('error' not in row and float(row['ratio'].split()[0]) > 0 for row in found.values())


def test_a_short_run(tmp_path):
  found = rows_of(short_run, tmp_path)
  training_row, people_row, metrics_row, *kernels = found.items()
  assert training_row[0] == 'training of simple_baseline R18 from the loader, batch 16'
  assert 0 <= training_row[1]['waiting for data'] <= 1
  assert people_row[1]['people/s'] > metrics_row[1]['people/s'] > 0
  assert len(kernels) == 10 and all(name.startswith('kernel ') for name, _ in kernels)


@pytest.mark.parametrize('same', [True, False])
def test_resuming(tmp_path, monkeypatch, same):
  """With runs in the place of which others stand; `test_reliability` runs real ones."""
  finished = []
  monkeypatch.setattr(kill_runs, 'finish', lambda workdir, *_: finished.append(workdir.name))
  replace_runs(monkeypatch, -9)
  contents = iter(
    [({'a': b'0', 'b': b'1'}, {1: 0.5}, []), ({'a': b'0', 'b': b'12'[: 2 - same]}, {1: 0.5}, [])]
  )
  monkeypatch.setattr(kill_runs, 'contents', lambda workdir: next(contents))
  table = rows.Rows(tmp_path, 'resume')
  if same:
    resume.measure(table)
  else:
    with pytest.raises(ValueError, match='the resumed run has other bits: b'):
      resume.measure(table)
  (row,) = json.loads((tmp_path / 'resume.json').read_text())['rows']
  assert row == {
    'what': '2 kills, 2 of them in a save',
    'arrays': 2,
    'different arrays': 1 - same,
    'steps': 1,
    'losses are equal': True,
  }
  assert finished == ['whole', 'killed']


def test_a_run_that_ends_before_its_kill(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(kill_runs, 'finish', lambda *_: None)
  replace_runs(monkeypatch, 0)
  with pytest.raises(ValueError, match=r'the run ended before kill 1 with exit code 0$'):
    resume.measure(rows.Rows(tmp_path, 'resume'))
  assert not json.loads((tmp_path / 'resume.json').read_text())['rows']
  assert 'its last line' in capsys.readouterr().out


def replace_runs(monkeypatch, returncode):
  """Runs that are killed, or not, in a save end with this code."""
  process = types.SimpleNamespace(
    kill=lambda: None, communicate=lambda: (None, 'its last line'), returncode=returncode
  )
  monkeypatch.setattr(kill_runs, 'start', lambda *_: process)
  monkeypatch.setattr(kill_runs, 'wait_for_a_save', lambda *_: None)
  monkeypatch.setattr(kill_runs, 'saving', lambda workdir: True)


def test_parts_that_fail_or_take_too_long_stop_no_other(tmp_path, capsys):
  results = runner.run(
    tmp_path,
    {
      'missing': runner.Part('no_such_part', 60),
      'slow': runner.Part('training', 0.2),
      'crops': runner.Part('crops', 300, '--xla_gpu_deterministic_ops=true'),
    },
    seconds=400,
  )
  parts = results['parts']
  status = "failed: ModuleNotFoundError: No module named 'benchmarks.accelerator.no_such_part'"
  assert parts['missing']['status'] == f'{status} (see missing.log)'
  assert parts['slow']['status'] == 'ended after 0 s'
  assert parts['crops']['status'] == 'done', (tmp_path / 'crops.log').read_text()
  assert len(parts['crops']['rows']) == 3
  assert json.loads((tmp_path / 'accelerator.json').read_text()) == results
  text = (tmp_path / 'accelerator.md').read_text()
  assert '## crops\n\ndone, ' in text and '| what | crops | keypoints | targets |' in text
  assert 'crops: done' in capsys.readouterr().out


def test_no_part_starts_after_the_time_is_over(tmp_path):
  results = runner.run(tmp_path, {'training': runner.Part('training', 60)}, seconds=10)
  part = results['parts']['training']
  assert (part['status'], part['rows']) == ('left out: no time', [])
  assert sum(part.seconds for part in runner.PARTS.values()) <= runner.SECONDS == 480


@pytest.mark.parametrize(
  ('statuses', 'code', 'line'),
  [
    (('done', 'failed: E', 'failed: F'), 1, 'failed: b, c; see {}/accelerator.md\n'),
    (('done', 'ended after 9 s', 'left out: no time'), 0, ''),
  ],
)
def test_exit_code_of_the_command(tmp_path, statuses, code, line):
  part = {'seconds': 1.0, 'rows': []}
  results = {name: {'status': status, **part} for name, status in zip('abc', statuses)}
  results = {'machine': 'M', 'date': 'D', 'parts': results}
  program = (
    'import runpy, sys; from benchmarks.accelerator import runner; '
    f'runner.run = lambda folder: {results}; sys.argv[0] = "benchmarks"; '
    'runpy.run_module("benchmarks", run_name="__main__")'
  )
  command = [sys.executable, '-c', program, '--parts=accelerator', f'--output={tmp_path}']
  done = subprocess.run(command, cwd=runner.ROOT, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (code, line.format(tmp_path))


@pytest.mark.parametrize(
  ('platforms', 'expected'),
  [('cuda', 'cuda,cpu'), ('tpu', 'tpu,cpu'), ('cpu', 'cpu'), ('cuda,cpu', 'cuda,cpu'), ('', '')],
)
def test_parts_find_the_cpu_beside_the_device(tmp_path, monkeypatch, platforms, expected):
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  variables = runner.environment(runner.PARTS['networks'], tmp_path)
  assert variables['JAX_PLATFORMS'] == expected


def test_pytorch_is_left_out_where_it_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  results = runner.run(tmp_path, {'pytorch': runner.PARTS['pytorch']})
  part = results['parts']['pytorch']
  status = 'left out: PyTorch is not installed; pip install torch'
  assert (part['status'], part['rows']) == (status, [])


def test_a_table_by_hand():
  part = {'status': 'done', 'seconds': 2.4, 'device': '1 x A', 'about': 'Text.'}
  part['rows'] = [{'what': 'a|b', 'people/s': 4123.4}, {'what': 'c', 'error': 'no\nroom', 'x': 0.5}]
  results = {'machine': 'M', 'date': 'D', 'parts': {'p': part}}
  assert runner.markdown(results) == (
    '1 x A; M; D\n\n## p\n\ndone, 2 s\n\nText.\n\n| what | people/s | error | x |\n'
    '|---|---|---|---|\n| a\\|b | 4123 |  |  |\n| c |  | no room | 0.5 |\n'
  )


def event(name, duration, thread, process=1, **arguments):
  return {
    'ph': 'X', 'pid': process, 'tid': thread, 'name': name, 'dur': duration, 'args': arguments
  }  # fmt: skip


def named(kind, name, process, thread=0):
  return {'ph': 'M', 'pid': process, 'tid': thread, 'name': kind, 'args': {'name': name}}


@pytest.mark.parametrize('line', ['Stream #13(Compute)', 'XLA Ops'])
def test_kernels_of_a_device_count_once(tmp_path, line):
  """Other lines of a device repeat the kernels, and so does the host."""
  write_trace(tmp_path, kernels_of_a_device(line))
  assert traces.longest_kernels(tmp_path) == [('conv', 6.0, 2), ('add', 1.0, 1)]
  assert traces.longest_kernels(tmp_path, 1) == [('conv', 6.0, 2)]


@pytest.mark.parametrize('line', ['Stream #13(Compute)', 'XLA Ops'])
def test_kernels_are_those_of_one_device(tmp_path, line):
  events = [
    {**entry, 'pid': entry['pid'] + 10 * number}
    for number in range(8)
    for entry in kernels_of_a_device(line)
  ]
  write_trace(tmp_path, [*events, event('send', 16000, 5)])  # one of the eight devices has it
  kernels = [('conv', 6.0, 2), ('send', 2.0, 0.125), ('add', 1.0, 1)]
  assert traces.longest_kernels(tmp_path) == kernels


def kernels_of_a_device(line):
  """Events of a device, of its host, and of a line that repeats them."""
  return [
    named('process_name', '/device:GPU:0', 1),
    named('process_name', '/host:CPU', 2),
    named('thread_name', line, 1, 5),
    named('thread_name', 'XLA Modules', 1, 6),
    *2 * [event('conv', 3000, 5, hlo_op='c')],
    event('add', 1000, 5, hlo_op='a'),
    event('jit_train_step', 9000, 6),
    event('launch', 9000, 5, process=2, hlo_op='c'),
  ]


def write_trace(tmp_path, events):
  folder = tmp_path / 'plugins/profile/today'
  folder.mkdir(parents=True)
  with gzip.open(folder / 'host.trace.json.gz', 'wt') as file:
    json.dump({'traceEvents': events}, file)


def test_no_trace(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no \*\.trace\.json\.gz here'):
    traces.longest_kernels(tmp_path)


def test_a_part_that_is_ended_while_it_writes_keeps_its_rows(tmp_path, monkeypatch):
  table = rows.Rows(tmp_path, 'part')
  table.add('first', ms=1.0)

  def write_half(path, text, **options):
    path.write_bytes(text[: len(text) // 2].encode())
    raise KeyboardInterrupt

  monkeypatch.setattr(pathlib.Path, 'write_text', write_half)
  with pytest.raises(KeyboardInterrupt):
    table.add('second', ms=2.0)
  content = json.loads((tmp_path / 'part.json').read_text())
  assert content['rows'] == [{'what': 'first', 'ms': 1.0}]


def test_seconds_of_a_call(monkeypatch):
  """One call takes 0.1 s of a clock that stands still otherwise."""
  clock = [0.0]

  def call():
    clock[0] += 0.1

  monkeypatch.setattr(rows.time, 'perf_counter', lambda: clock[0])
  assert rows.seconds_of_call(call, at_least=0.45, turns=2) == pytest.approx(0.1)
  assert round(clock[0] / 0.1) == 2 + 2 * 5
