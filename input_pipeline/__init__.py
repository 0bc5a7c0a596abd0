"""The path from annotation files to crops on the device.

Research code uses `from mrpose_jax.input_pipeline import boxes, warp`: the geometry of crops, and
the resampling of images. In a checkout, `from input_pipeline import boxes, warp` gives the same
modules.
"""

import importlib

_PUBLIC = {'boxes': 'device.geometry', 'warp': 'device.warp'}


def __getattr__(name):
  if name in _PUBLIC:
    return importlib.import_module(f'mrpose_jax.input_pipeline.{_PUBLIC[name]}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted([*globals(), *_PUBLIC])
