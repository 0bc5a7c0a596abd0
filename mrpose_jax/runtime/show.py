"""--mode=show: every field of a configuration, as the flag that sets it, under its comment."""

import inspect
import operator
import re
import shlex

import ml_collections

from mrpose_jax import defaults


def show(config: ml_collections.ConfigDict) -> str:
  """The whole configuration; each line that is no comment can be given to main.py.

  >>> show(defaults.get_config()).splitlines()[:2]
  ['# Of parameters, shuffling and augmentation.', '--config.seed=0']
  """
  lines = []
  for name, comment in _comments(inspect.getsource(defaults.get_config)).items():
    value = operator.attrgetter(name)(config)
    lines += [f'# {comment}', shlex.quote(f'--config.{name}={value}'), '']
  return '\n'.join(lines).rstrip()


def _comments(source):
  """Field -> the comment above it, in the order of the source."""
  comments, above = {}, []
  for line in source.splitlines():
    if found := re.match(r'\s+# (.*)', line):
      above.append(found[1])
      continue
    if found := re.match(r'\s+config\.([\w.]+) = (?!ml_collections)', line):
      comments[found[1]] = ' '.join(above)
    above = []
  return comments
