"""Crops, keypoints and target heatmaps of the device against those of the CPU."""

import jax
import numpy as np

from benchmarks.accelerator import rows
from benchmarks.accelerator import steps
from mrpose_jax import predict
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.device import augment

LIMITS = {'crops': 0.5, 'keypoints': 0.01, 'targets': 1e-3}  # grey levels, pixels, 1 at the peak

# As in configs/coco_strong.py.
STRONG = {
  **{'scale_range': (0.5, 1.5), 'rotation': 80.0, 'rotation_probability': 0.6, 'shift': 0.16},
  **{'half_body': 0.3, 'brightness': 0.2, 'contrast': 0.2, 'saturation': 0.2, 'hue': 0.02},
  'dropout': 0.5,
}


def measure(table: rows.Rows):
  """Compares people of random pixels; raises ValueError at the end if a limit was exceeded."""
  table.about(
    'Largest differences from the CPU of this machine for people of random pixels: crops in grey '
    'levels of 256, keypoints in pixels, target heatmaps (1 at the peak). Limits: '
    f'{", ".join(f"{name} {limit:g}" for name, limit in LIMITS.items())}.'
  )
  sizes = table.sizes()
  usual = steps.config_of(sizes, 'simple_baseline', sizes.depth)
  planner = steps.planner_of(usual)
  strong = usual.copy_and_resolve_references()
  strong.data.codec = 'udp'
  strong.augment.update(STRONG)
  plain = usual.copy_and_resolve_references()
  plain.augment.update({'rotation': 0.0, 'scale': 0.0, 'flip': 0.0})
  batch = steps.batch_of(planner, min(sizes.batch, 64))
  exceeded = []
  for what, config in (
    ('no augmentation', plain),
    ("the paper's augmentation", usual),
    ('every augmentation', strong),
  ):
    examples_of = training_step.make_examples(
      predict.codec_of(config), augment.Augmentation(**config.augment), planner.skeleton, seed=0
    )
    on_device = jax.jit(examples_of)(np.int32(0), batch)
    cpu = jax.devices('cpu')[0]
    on_cpu = jax.jit(examples_of)(*jax.device_put((np.int32(0), jax.device_get(batch)), cpu))
    units = {'crops': 255 * np.array(augment.STD), 'keypoints': 1, 'targets': 1}
    fields = {'crops': 'inputs', 'keypoints': 'keypoints', 'targets': 'target'}
    found = {}
    for name, field in fields.items():
      a, b = (np.asarray(getattr(examples, field)) for examples in (on_device, on_cpu))
      found[name] = float((np.abs(a - b) * units[name]).max())
    exceeded += [
      f'{what}: {name} {found[name]:.3g}' for name in LIMITS if not found[name] <= LIMITS[name]
    ]
    table.add(what, **found)
  if exceeded:
    raise ValueError(f'above the limits: {"; ".join(exceeded)}')
