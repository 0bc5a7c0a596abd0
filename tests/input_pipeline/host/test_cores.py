import os

import pytest

from mrpose_jax.input_pipeline.host import cores


@pytest.mark.parametrize(
  ('membership', 'files', 'expected'),
  [
    ('', {}, 6),
    ('0::/', {'cpu.max': 'max 100000'}, 6),
    ('0::/', {'cpu.max': '250000 100000'}, 3),
    ('0::/', {'cpu.max': '900000 100000'}, 6),
    ('0::/', {'cpu.max': '20000 100000'}, 1),
    ('0::/job', {'job/cpu.max': 'max 100000', 'cpu.max': '400000 100000'}, 4),
    ('0::/docker/abc', {'cpu.max': '200000 100000'}, 2),  # the container sees its group as the root
    (
      '3:cpuacct,cpu:/job\n2:memory:/job',
      {'cpuacct,cpu/job/cpu.cfs_quota_us': '200000', 'cpuacct,cpu/job/cpu.cfs_period_us': '100000'},
      2,
    ),
    ('1:cpu:/', {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, 6),
  ],
)
def test_affinity_and_cgroups_limit_the_cores(tmp_path, monkeypatch, membership, files, expected):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda process: range(6), raising=False)
  for name, content in {'membership': membership, **files}.items():
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{content}\n' if content else '')
  monkeypatch.setattr(cores, '_MOUNT', tmp_path)
  monkeypatch.setattr(cores, '_MEMBERSHIP', tmp_path / 'membership')
  assert cores.available() == expected


def test_a_machine_without_cgroups_and_affinity(tmp_path, monkeypatch):
  monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
  monkeypatch.setattr(os, 'cpu_count', lambda: None)
  monkeypatch.setattr(cores, '_MEMBERSHIP', tmp_path / 'absent')
  assert cores.available() == 1
