"""The number of CPU cores that this process may use."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator

_MOUNT = pathlib.Path('/sys/fs/cgroup')
_MEMBERSHIP = pathlib.Path('/proc/self/cgroup')


def available() -> int:
  """Counts the cores of this process's affinity, at most the CPU time that its cgroups allow.

  A container or a batch system sets these limits; `os.cpu_count` ignores them.
  """
  try:
    cores = len(os.sched_getaffinity(0))
  except AttributeError:  # macOS
    cores = os.cpu_count() or 1
  return max(1, min([cores, *(math.ceil(limit) for limit in _limits())]))


def _limits() -> Iterator[float]:
  """Yields the limit of each cgroup of this process, in cores; versions 1 and 2 of cgroups."""
  with contextlib.suppress(OSError):  # there are no cgroups
    for line in _MEMBERSHIP.read_text(encoding='utf-8').splitlines():
      _, controllers, group = line.split(':', 2)
      root = _MOUNT / controllers
      if controllers and 'cpu' not in controllers.split(','):
        continue
      # In a container, the group is named as on the host, and only its root may be there.
      folder = root / group.lstrip('/')
      for place in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # no limit is set here
          yield _limit(place)
        if place == root:
          break


def _limit(folder):
  """The limit of one cgroup; raises OSError or ValueError if it has none."""
  if (folder / 'cpu.max').exists():
    quota, period = (folder / 'cpu.max').read_text(encoding='utf-8').split()
  else:
    quota = (folder / 'cpu.cfs_quota_us').read_text(encoding='utf-8')
    period = (folder / 'cpu.cfs_period_us').read_text(encoding='utf-8')
  limit = int(quota) / int(period)  # a quota of 'max' or -1 is none
  if limit <= 0:
    raise ValueError('no limit')
  return limit
