"""Generates the weights of the golden arrays by their rule, so that no file has to hold them."""

import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parents[3] / 'shared' / 'golden'


def state_dict(shapes: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
  """Maps PyTorch names and shapes to tensors drawn from (seed, name)."""
  return {name: _tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def _tensor(name, shape, seed):
  r = np.random.default_rng(zlib.crc32(f'{seed}:{name}'.encode()))
  if name.endswith('running_var'):
    return r.uniform(0.5, 1.5, shape).astype(np.float32)
  if len(shape) == 4:
    fan_in = shape[0] * 4 if 'deconv' in name else shape[1] * shape[2] * shape[3]
    return (np.sqrt(2.0 / fan_in) * r.standard_normal(shape)).astype(np.float32)
  if name.endswith('weight'):
    return r.uniform(0.3, 0.9, shape).astype(np.float32)
  return (0.1 * r.standard_normal(shape)).astype(np.float32)
