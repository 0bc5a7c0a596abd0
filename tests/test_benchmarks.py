"""The benchmarks' arithmetic, and their parts on the smallest networks."""

import pytest

from benchmarks import turns


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
