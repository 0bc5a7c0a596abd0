import io
import itertools
import logging
import sys

import pytest

from mrpose_jax.runtime import progress_bar


class Clock:
  """Stands in for the clock and for sleeping, so that times are exact."""

  now = 0.0

  def __call__(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress_bar.time, 'perf_counter', clock)
  return clock


def batches_after(sleep, waits):
  for seconds in waits:
    sleep(seconds)
    yield None


def run(sleep, waits, log_after, step_seconds=0.01):
  """Runs the loop of mrpose_jax.train with a pause after each log; returns the logs' results."""
  bar = progress_bar.Progress(0, len(waits), batch_size=8)
  logged = []
  for step, _ in enumerate(bar.timed(batches_after(sleep, waits)), 1):
    sleep(0.3 if step == 1 else step_seconds)  # the first step includes compilation
    bar.advance({})
    if step in log_after:
      logged.append(bar.log(loss=1.0))
      with bar.paused():
        sleep(0.2)
  bar.close()
  return logged


def test_the_share_of_waiting_for_slow_data(clock):
  first, second = run(clock.sleep, [0.7] + 20 * [0.03], log_after=(11, 21))
  assert first['data_wait_fraction'] == pytest.approx(0.75)
  assert second['data_wait_fraction'] == pytest.approx(0.75)
  assert second['people_per_second'] == pytest.approx(8 / 0.04)


def test_each_interval_is_measured_by_itself(clock):
  waits = [0.7, *(5 * [0.04]), *(5 * [0.0])]
  first, second = run(clock.sleep, waits, log_after=(6, 11))
  assert first['data_wait_fraction'] == pytest.approx(0.8)
  assert second['data_wait_fraction'] == 0.0


def test_the_rate_is_that_of_the_last_interval_and_the_mean_comes_last(clock, caplog, monkeypatch):
  caplog.set_level(logging.INFO)
  monkeypatch.setattr(sys, 'stderr', io.StringIO())
  waits = [0.7, *(5 * [0.03]), *(5 * [0.07])]  # and 0.01 s of each step
  first, second = run(clock.sleep, waits, log_after=(6, 11))
  assert first['people_per_second'] == pytest.approx(8 / 0.04)
  assert second['people_per_second'] == pytest.approx(8 / 0.08)
  lines = [record.message for record in caplog.records]
  assert [line.split(', ')[2] for line in lines[:2]] == ['200.0 people/s', '100.0 people/s']
  assert lines[2:] == ['133.3 people/s on average over 10 steps']


def test_the_host_does_not_run_far_ahead(monkeypatch):
  finished = []
  monkeypatch.setattr(progress_bar.jax, 'block_until_ready', finished.append)
  bar = progress_bar.Progress(0, 6, batch_size=8)
  for step in range(1, 7):
    bar.advance(step)
  assert finished == [1, 2, 3, 4]  # the first step at once, the others two steps behind
  bar.close()


def test_timed_passes_everything_on():
  bar = progress_bar.Progress(0, 3, batch_size=8)
  assert list(bar.timed(range(3))) == [0, 1, 2]
  assert list(itertools.islice(bar.timed(itertools.count()), 2)) == [0, 1]
  bar.close()


class Terminal(io.StringIO):
  def isatty(self):
    return True


class OutStream(io.StringIO):
  """Like a notebook's standard error, which is not a terminal."""

  __module__ = 'ipykernel.iostream'


@pytest.mark.parametrize('stream', [Terminal, OutStream])
def test_a_bar_where_somebody_watches(monkeypatch, caplog, stream):
  caplog.set_level(logging.INFO)
  monkeypatch.setattr(sys, 'stderr', stream())
  run(lambda seconds: None, 4 * [0.0], log_after=(4,))
  counter = progress_bar.Counter(10, 'frames')
  counter.advance(10)
  counter.close()
  shown = sys.stderr.getvalue()
  assert '| 4/4' in shown and 'loss 1.000000' in shown
  assert '10/10' in shown and 'frames/s' in shown
  assert not caplog.records


def test_lines_in_a_log_file(monkeypatch, caplog, clock):
  caplog.set_level(logging.INFO)
  monkeypatch.setattr(sys, 'stderr', io.StringIO())
  run(clock.sleep, 4 * [0.0], log_after=(2, 4))
  counter = progress_bar.Counter(300, 'frames')
  for seconds in (*(10 * [1]), *(10 * [2]), *(10 * [1])):
    clock.sleep(seconds)
    counter.advance(10)
  counter.close()
  assert sys.stderr.getvalue() == ''  # no bar, no control characters
  lines = [record.message for record in caplog.records]
  assert [line.split(',')[0] for line in lines] == [
    *('step 2/4', 'step 4/4', '800.0 people/s on average over 3 steps'),
    *(f'{done} of 300 frames' for done in (100, 150, 200, 300)),
  ]
  assert [line.split(', ')[1].split()[0] for line in lines[3:]] == ['10.0', '5.0', '5.0', '10.0']
