"""Logging to Weights & Biases, replaced by a stub; test_reliability tests the files."""

import json
import sys
import types

import pytest

from mrpose_jax import defaults
from mrpose_jax import errors
from mrpose_jax.runtime import metric_writer


class Stub(types.ModuleType):
  """Stands in for wandb, and records its runs."""

  Error = type('Error', (Exception,), {})

  def __init__(self, fails=False):
    super().__init__('wandb')
    self.runs, self.fails = [], fails

  def Settings(self, **options):
    return options

  def init(self, **options):
    if self.fails:
      raise self.Error('No API key\nconfigured')
    run = types.SimpleNamespace(
      id=options['id'] or 'abc123', options=options, logged=[], finished=False, axes=[]
    )
    run.log = lambda line: run.logged.append(dict(line))
    run.define_metric = lambda name, step_metric=None: run.axes.append((name, step_metric))
    run.finish = lambda: setattr(run, 'finished', True)
    self.runs.append(run)
    return run


def config(project='poses'):
  made = defaults.get_config()
  made.train.wandb = project
  return made


def test_a_restart_goes_on_with_the_same_run(tmp_path, monkeypatch):
  stub = Stub()
  monkeypatch.setitem(sys.modules, 'wandb', stub)
  workdir = tmp_path / 'coco_50'
  workdir.mkdir()
  for start in (0, 10):
    writer = metric_writer.MetricWriter(workdir, start, config())
    writer.write(start + 10, {'loss': 0.5, 'eval/AP': 0.2})
    writer.close()
  first, second = stub.runs
  assert (first.options['id'], second.options['id']) == (None, 'abc123')
  assert first.options['project'] == 'poses' and first.options['name'] == 'coco_50'
  assert first.options['dir'] == workdir and first.options['resume'] == 'allow'
  assert first.options['config']['model']['network'] == 'mrfeanet2'
  assert first.axes == [('step', None), ('*', 'step')]
  assert first.logged == [{'step': 10, 'loss': 0.5, 'eval/AP': 0.2}]
  assert second.logged == [{'step': 20, 'loss': 0.5, 'eval/AP': 0.2}]
  assert first.finished and second.finished
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [10, 20]


def test_nothing_of_it_unless_asked_for(tmp_path, monkeypatch):
  stub = Stub()
  monkeypatch.setitem(sys.modules, 'wandb', stub)
  for given in (None, config('')):
    metric_writer.MetricWriter(tmp_path, 0, given).close()
  assert not stub.runs
  assert not (tmp_path / metric_writer.WANDB_RUN).exists()


def test_asked_for_in_vain(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(errors.ConfigError, match=r"pip install 'mrpose_jax\[wandb\]'"):
    metric_writer.MetricWriter(tmp_path, 0, config())
  monkeypatch.setitem(sys.modules, 'wandb', Stub(fails=True))
  with pytest.raises(errors.ConfigError, match=r'No API key configured.*WANDB_MODE=offline'):
    metric_writer.MetricWriter(tmp_path, 0, config())
