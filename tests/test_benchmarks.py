"""The benchmarks' arithmetic, and their parts on the smallest networks."""

import json
import types

import pytest

from benchmarks import ablation
from benchmarks import turns
from configs import lsp
from mrpose_jax import errors


def test_two_take_turns_by_hand():
  calls = []
  found = turns.take_turns(
    'work', lambda: calls.append('ours'), lambda: calls.append('theirs'), 2, 'theirs'
  )
  assert calls == ['ours', 'theirs'] * 4  # two do not count
  assert len(found.ours) == len(found.theirs) == 2
  found = turns.Comparison('work', [1.0, 2.0, 4.0], [2.0, 2.0, 16.0], 'them')
  assert found.ratios == [2, 1, 4]
  assert found.row() == '| work | 2 (1 to 4) | 2 (2 to 16) | them | 2.00 (1.00 to 4.00) |'


def test_networks_against_pytorch():
  pytest.importorskip('torch')
  from benchmarks import network

  found = network.run(1, depth=18, size=(64, 64), width=8, batch=2)
  assert [c.what.partition(',')[0] for c in found] == ['training step', 'heatmaps', 'heatmaps'] * 2


def test_after_the_network():
  pytest.importorskip('torch')
  from benchmarks import evaluation

  (found,) = evaluation.run(1, people=400, fewer=200)
  assert found.theirs[0] > 0


def test_table_of_an_ablation(tmp_path):
  """Means over two seeds, half of their range, and the gain over the baseline."""
  results = {
    'baseline, seed 0': (40.0, 20.0, 25.0),
    'baseline, seed 1': (42.0, 21.0, 24.0),
    'shift 0.1, seed 0': (43.5, 20.5, 24.0),
  }
  (tmp_path / 'results').mkdir()
  for name, values in results.items():
    metrics = dict(zip(ablation.METRICS, values))
    (tmp_path / 'results' / f'{name}.json').write_text(json.dumps(metrics))
  lines = ablation.table(tmp_path).splitlines()
  assert lines[2] == '| baseline | 2 | 41.00 ± 1.00 | 20.50 ± 0.50 | 24.50 ± 0.50 |  |  |  |'
  assert lines[3] == (
    '| shift 0.1 | 1 | 43.50 ± 0.00 | 20.50 ± 0.00 | 24.00 ± 0.00 | +2.50 | +0.00 | -0.50 |'
  )
  assert len(lines) == 4


def test_an_ablation_on_data_that_cannot_be_read(tmp_path, monkeypatch):
  given = {'data_dir': 's3://bucket/x', 'output': str(tmp_path / 'out'), 'seeds': [0], 'only': []}
  monkeypatch.setattr(ablation.flags, 'FLAGS', types.SimpleNamespace(**given))
  with pytest.raises(errors.ConfigError, match='s3://bucket/x: s3:// cannot be used here'):
    ablation.main([])
  assert not (tmp_path / 'out').exists()


def test_rows_of_the_ablation_are_configurations():
  """Each row changes what it starts from, and the baseline is the paper's recipe at this size."""
  paper = lsp.get_config('recipe=baseline')
  assert paper.data.codec == 'paper'
  for row, settings in ablation.ROWS.items():
    assert all(value != str(usual) for usual, value in changed(paper, settings)), row
  for row, (trained, *settings) in ablation.TESTS.items():
    before = dict(setting.split('=', 1) for setting in ablation.ROWS[trained])
    for setting, (usual, value) in zip(settings, changed(paper, settings)):
      assert value != before.get(setting.partition('=')[0], str(usual)), row


def changed(config, settings):
  """Yields the value of each named field, and the one that the setting gives it."""
  for setting in settings:
    name, _, value = setting.partition('=')
    section, field = name.split('.')
    yield config[section][field], value
