"""Changes of colour, against formulas in float64 and by hand."""

import types

import jax
import numpy as np
import pytest

from mrpose_jax.input_pipeline.device import photometric

CROPS = np.random.default_rng(0).uniform(40, 200, (6, 8, 5, 3)).astype(np.float32)
SAME = [1.0, 1.0, 1.0, 0.0]
adjust = jax.jit(photometric.adjust)


def expected(crop, brightness, contrast, saturation, hue):
  """The changes one after the other, in float64."""
  luma = np.array([0.299, 0.587, 0.114])
  crop = brightness * crop.astype(np.float64)
  crop = contrast * crop + (1 - contrast) * (crop @ luma).mean()
  crop = saturation * crop + (1 - saturation) * (crop @ luma)[..., None]
  to_yiq = np.array([luma, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
  y, i, q = np.moveaxis(crop @ to_yiq.T, -1, 0)
  turned = (i + 1j * q) * np.exp(2j * np.pi * hue)
  crop = np.stack([y, turned.real, turned.imag], -1) @ np.linalg.inv(to_yiq).T
  return np.clip(crop, 0, 255)


@pytest.mark.parametrize('field', range(4))
def test_each_change_and_all_together(field):
  r = np.random.default_rng(field)
  colour = np.tile(SAME, (6, 1))
  colour[:5, field] = r.uniform(0.6, 1.4, 5) if field < 3 else r.uniform(-0.5, 0.5, 5)
  colour[5] = [1.2, 0.7, 1.3, 0.1]
  found = adjust(CROPS, colour.astype(np.float32))
  for crop, values, result in zip(CROPS, colour, found):
    np.testing.assert_allclose(result, expected(crop, *values), atol=1e-2)


def test_no_change_and_gray():
  colour = np.tile(np.float32(SAME), (6, 1))
  np.testing.assert_allclose(adjust(CROPS, colour), CROPS, atol=1e-3)
  gray = np.repeat(CROPS[..., :1], 3, -1)
  colour[:, 2:] = [0.3, 0.4]  # neither saturation nor hue changes gray
  np.testing.assert_allclose(adjust(gray, colour), gray, atol=0.05)


def test_draws_are_uniform_around_no_change():
  limits = types.SimpleNamespace(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
  colour = np.asarray(photometric.draw(jax.random.key(0), 20_000, limits))
  widths = np.array([0.4, 0.3, 0.2, 0.1])
  np.testing.assert_allclose(colour.min(0), SAME - widths, atol=1e-3)
  np.testing.assert_allclose(colour.max(0), SAME + widths, atol=1e-3)
  np.testing.assert_allclose(colour.mean(0), SAME, atol=0.005)
