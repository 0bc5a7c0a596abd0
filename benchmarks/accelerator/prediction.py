"""People a second of prediction by `load_predictor`'s Predictor, flip test included."""

import functools

import jax
import numpy as np

import mrpose_jax
from benchmarks.accelerator import networks
from benchmarks.accelerator import rows
from mrpose_jax import skeletons

NETWORKS = ('simple_baseline', 'mrfeanet2')
IMAGE = (480, 640)


def measure(table: rows.Rows):
  """Measures two networks for one image with 1, 8, 64 and 256 people."""
  table.about(
    'bfloat16, flip test, batch norm folded, one image of 640x480 with N people. "on the device": '
    '`predict_fn` under jax.jit with image and boxes there; "from the host": the Predictor called '
    'with an array and boxes, until the keypoints are back.'
  )
  sizes = table.sizes()
  r = np.random.default_rng(0)
  image = r.integers(0, 256, (*IMAGE, 3), np.uint8)
  for network in NETWORKS:
    model = mrpose_jax.create_model(network, depth=sizes.depth, width=sizes.width, dtype='bfloat16')
    predictor = mrpose_jax.Predictor.from_variables(
      *(model, jax.device_put(networks.golden_variables(model)), skeletons.COCO),
      image_size=sizes.image_size,
      batch_size=max(sizes.people),
    )
    predict = jax.jit(predictor.predict_fn)
    for people in sizes.people:
      corner, size = r.uniform(0, 240, (people, 2)), r.uniform(60, 240, (people, 2))
      boxes = np.concatenate([corner, size], 1).astype(np.float32)
      arguments = jax.device_put((predictor.variables, image[None], boxes[None]), jax.devices()[0])
      on_device = rows.seconds_of_call(functools.partial(predict, *arguments), sizes.seconds)
      from_host = rows.seconds_of_call(functools.partial(predictor, image, boxes), sizes.seconds)
      table.add(
        f'{network} R{sizes.depth}, {people} people',
        **{'ms on the device': 1e3 * on_device, 'people/s on the device': people / on_device},
        **{'ms from the host': 1e3 * from_host, 'people/s from the host': people / from_host},
      )
