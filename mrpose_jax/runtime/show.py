"""--mode=show: every field of a configuration under its comment, as the flag that sets it."""

import inspect
import operator
import re
import shlex

import ml_collections

from mrpose_jax import defaults


def show(config: ml_collections.ConfigDict) -> str:
  """Returns the whole configuration as text; each line but comments is a flag of main.py.

  Fields with None are not set; leave their flags out.

  >>> show(defaults.get_config()).splitlines()[:2]
  ['# Random seed for initialisation, shuffling and augmentation.', '--config.seed=0']
  """
  lines = []
  for name, comment in _comments(inspect.getsource(defaults.get_config)).items():
    value = operator.attrgetter(name)(config)
    lines += [f'# {comment}', shlex.quote(f'--config.{name}={value}'), '']
  return '\n'.join(lines).rstrip()


def _comments(source):
  """Maps each field to the comment above it, in the order of the source."""
  comments, above = {}, []
  for line in source.splitlines():
    if comment := re.match(r'\s+# (.*)', line):
      above.append(comment[1])
      continue
    if field := re.match(r'\s+config\.([\w.]+) = (?!ml_collections)', line):
      comments[field[1]] = ' '.join(above)
    above = []
  return comments
