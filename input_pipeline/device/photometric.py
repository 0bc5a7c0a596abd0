"""Random changes of colour on the accelerator: one affine map of RGB per person."""

import math

import jax
import numpy as np
from jax import numpy as jnp

# Luma, the brightness that an eye sees (ITU-R BT.601), of RGB; and NTSC's YIQ, whose I and Q are
# the coordinates of the hue.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)


def draw(key: jax.Array, n: int, augmentation) -> jax.Array:
  """Draws [N, 4]: factors of brightness, contrast and saturation, and the turn of the hue.

  Args:
    key: a random key.
    n: number of people.
    augmentation: with `brightness`, `contrast` and `saturation`, the largest changes of the factors
      from 1, and `hue`, the largest turn as a fraction of the colour circle. All are uniform, as in
      torchvision's ColorJitter.
  """
  a = augmentation
  limits = jnp.array([[a.brightness, a.contrast, a.saturation, a.hue]], jnp.float32)
  middle = jnp.array([[1.0, 1.0, 1.0, 0.0]], jnp.float32)
  return middle + limits * jax.random.uniform(key, (n, 4), jnp.float32, minval=-1.0, maxval=1.0)


def adjust(crops: jax.Array, colour: jax.Array) -> jax.Array:
  """Changes the colours of crops [N, H, W, 3] RGB in 0..255 by [N, 4] from `draw`.

  In this order: the brightness multiplies all values; the contrast is the distance of each pixel
  from the crop's mean luma; the saturation is its distance from its own luma; the hue turns in the
  IQ plane of YIQ. Only the result is clipped to 0..255.
  """
  brightness, contrast, saturation, hue = (values[:, None, None] for values in colour.T)
  identity, gray = np.eye(3, dtype=np.float32)[None], np.tile(LUMA, (1, 3, 1))
  saturated = saturation * identity + (1.0 - saturation) * gray  # [N, 3, 3]
  angle = 2.0 * math.pi * hue
  luma, chroma = np.diag(np.float32([1, 0, 0]))[None], np.diag(np.float32([0, 1, 1]))[None]
  quarter_turn = np.array([[[0, 0, 0], [0, 0, -1], [0, 1, 0]]], np.float32)
  turn = luma + jnp.cos(angle) * chroma + jnp.sin(angle) * quarter_turn  # [N, 3, 3] in YIQ
  hue_matrix = jnp.einsum(
    'ij,njk,kl->nil', np.linalg.inv(YIQ).astype(np.float32), turn, YIQ, precision='highest'
  )
  matrix = jnp.einsum('nij,njk->nik', hue_matrix, saturated, precision='highest')
  mean_luma = jnp.einsum('nhwc,c->n', crops, LUMA, precision='highest') / math.prod(
    crops.shape[1:3]
  )
  # Saturation and hue leave gray as it is, so the contrast adds the same to all three colours.
  shift = (1.0 - contrast) * brightness * mean_luma[:, None, None]
  changed = jnp.einsum('nhwc,ndc->nhwd', crops, brightness * contrast * matrix, precision='highest')
  return jnp.clip(changed + shift[..., None], 0.0, 255.0)
