"""Convolutions and their transposes, with gradient rules that suit XLA's CPU backend.

A convolution and a transposed convolution are one linear map and its transpose. Both take the
kernel of the convolution, [kh, kw, input, output]. XLA's CPU backend is slow at 1x1 convolutions
and at dilated inputs. So 1x1 convolutions are matrix products here, gradients included, and a
transposed convolution is one small dense convolution for each output phase.
"""

import functools

import jax
from jax import lax
from jax import numpy as jnp

from mrpose_jax.cpu import pixels
from mrpose_jax.cpu import winograd

# Limits that were measured, in channels and pixels.
NARROW = 128  # up to this many channels, a 1x1 kernel's gradient is computed in two halves
FEW_PIXELS = 500  # below, forms that read the kernel once; above, forms that read the pixels once
FEWEST_PIXELS = 100  # below, a 1x1 kernel is the left operand, which is read as it is stored
MANY_PIXELS = 5000  # from here on, Eigen is faster at 1x1 kernels with more outputs than inputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """Cross-correlation with the same padding on all sides; 1x1 kernels have stride 1, padding 0.

  [N, H, W, C] and [kh, kw, C, D] -> [N, H', W', D].
  """
  if kernel.shape[:2] == (1, 1):
    return x @ kernel[0, 0]
  return _convolve(x, kernel, stride, padding)


def _convolve(x, kernel, stride, padding):
  return pixels.correlate(x, kernel, [(padding, padding)] * 2, (stride, stride))


def _convolve_fwd(x, kernel, stride, padding):
  return convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_bwd(stride, padding, saved, dy):
  x, kernel = saved
  if kernel.shape[:2] != (1, 1):
    x, dy = (pixels.materialize(a, kernel.ravel()[0]) for a in (x, dy))
  return (
    convolve_transposed(dy, kernel, stride, padding, x.shape[1:3]),
    _kernel_gradient(x, dy, kernel.shape, stride, padding),
  )


convolve.defvjp(_convolve_fwd, _convolve_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve_transposed(
  y: jax.Array, kernel: jax.Array, stride: int, padding: int, out_size: tuple[int, int]
) -> jax.Array:
  """The transpose of `convolve`, x[s p + i - padding] += kernel[i] y[p].

  [N, P, Q, D] and [kh, kw, C, D] -> [N, *out_size, C].
  """
  if kernel.shape[:2] == (1, 1):
    return y @ kernel[0, 0].T
  if any(n % stride for n in out_size) or (stride == 1 and not _suits_winograd(y, kernel, 1)):
    return _transpose_dilated(y, kernel, stride, padding, out_size)
  if pixels.fewer_than(y, FEW_PIXELS):
    return _transpose_by_product(y, kernel, stride, padding)
  form = _transpose_by_winograd if stride == 1 else _transpose_by_phases
  return form(y, kernel, stride, padding)


def _convolve_transposed_fwd(y, kernel, stride, padding, out_size):
  return convolve_transposed(y, kernel, stride, padding, out_size), (y, kernel)


def _convolve_transposed_bwd(stride, padding, out_size, saved, dx):
  del out_size
  y, kernel = saved
  y, dx = (pixels.materialize(a, kernel.ravel()[0]) for a in (y, dx))
  by_winograd = _suits_winograd(y, kernel, stride) and not pixels.fewer_than(y, FEW_PIXELS)
  dy = (_convolve_by_winograd if by_winograd else convolve)(dx, kernel, stride, padding)
  return dy, _kernel_gradient(dx, y, kernel.shape, stride, padding)


convolve_transposed.defvjp(_convolve_transposed_fwd, _convolve_transposed_bwd)


def _transpose_dilated(y, kernel, stride, padding, out_size):
  pads = []
  for length, taps, out in zip(y.shape[1:3], kernel.shape[:2], out_size):
    low = taps - 1 - padding
    pads.append((low, out + taps - 1 - low - (stride * (length - 1) + 1)))
  return lax.conv_general_dilated(
    y,
    jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
    (1, 1),
    pads,
    lhs_dilation=(stride, stride),
    dimension_numbers=pixels.DIMENSIONS,
  )


def _transpose_by_phases(y, kernel, stride, padding):
  """Output pixels u = stride m + a of phase a meet only every stride-th tap of the kernel."""
  return pixels.interleave(
    [pixels.correlate(y, *phase) for phase in phases_of(kernel, stride, padding)], stride
  )


def _transpose_by_winograd(y, kernel, stride, padding):
  [(kernel, pads)] = phases_of(kernel, stride, padding)
  kernel = pixels.materialize(kernel, kernel.ravel()[0])
  return winograd.correlate(y, winograd.transform(kernel), pads)


def _convolve_by_winograd(x, kernel, stride, padding):
  """`convolve`, as the transpose of `_transpose_by_phases`."""
  kernels, pads = [], []
  for phase, edges in phases_of(kernel, stride, padding):
    kernels.append(winograd.transform(jnp.flip(phase, (0, 1)).swapaxes(2, 3)))
    pads.append(tuple((after, before) for before, after in edges))
  return winograd.correlate_all(pixels.phases(x, stride), kernels, pads)


def _suits_winograd(y, kernel, stride, few=winograd.FEW_CHANNELS):
  """Whether the rule is used for the gradients of a convolution whose output has the shape of y."""
  same_taps = kernel.shape[0] % stride == 0  # in all phases
  return (
    same_taps and y.dtype == jnp.float32 and winograd.saves(kernel, few) and winograd.divides(y)
  )


def phases_of(kernel: jax.Array, stride: int, padding: int) -> list[tuple[jax.Array, tuple]]:
  """Splits a kernel into those of the output phases (0, 0), (0, 1), ... of its transpose.

  Kernel [k, k, C, D] -> kernels [k / stride, k / stride, D, C] for `pixels.correlate`, each with
  its padding.
  """
  kernel = kernel.swapaxes(2, 3)
  rows, columns = (_phases(taps, stride, padding) for taps in kernel.shape[:2])
  return [(kernel[i][:, j], (above, left)) for i, above in rows for j, left in columns]


def _transpose_by_product(y, kernel, stride, padding):
  """A single product with the kernel in its order in memory; its parts are shifted and added."""
  height, width = y.shape[1:3]
  rows, columns = (_phases(taps, stride, padding) for taps in kernel.shape[:2])
  reach = max(max(pads) for phases in (rows, columns) for _, pads in phases)
  products = lax.dot_general(kernel, y, (((3,), (3,)), ((), ())), preferred_element_type=y.dtype)
  edges = (*((0, 0),) * 4, (reach, reach), (reach, reach))
  products = jnp.pad(products, edges)  # [kh, kw, C, N, H, W]
  phases = []
  for i, (above, _) in rows:
    for j, (left, _) in columns:
      terms = [
        products[row, column, :, :, r : r + height, c : c + width]
        for r, row in enumerate(range(kernel.shape[0])[i], reach - above)
        for c, column in enumerate(range(kernel.shape[1])[j], reach - left)
      ]
      phases.append(sum(terms[1:], terms[0]))
  phases = pixels.materialize(jnp.stack(phases), kernel.ravel()[0])
  return pixels.interleave(list(jnp.moveaxis(phases, 1, -1)), stride)


def _phases(taps, stride, padding):
  """For each phase, the slice of its taps in reverse order, and the padding that aligns them."""
  phases = []
  for a in range(stride):
    first = (a + padding) % stride
    used = range(first, taps, stride)
    shifts = [(a + padding - i) // stride for i in used]  # x[stride m + a] meets y[m + shift]
    backwards = slice(used[-1], first - stride if first >= stride else None, -stride)
    phases.append((backwards, (-min(shifts), max(shifts))))
  return phases


def _kernel_gradient(x, dy, shape, stride, padding):
  """Gradient of sum(dy * convolve(x, kernel)) with respect to the kernel."""
  if shape[:2] == (1, 1):
    return _kernel_gradient_by_product(x, dy)
  kernel = jax.ShapeDtypeStruct(shape, x.dtype)
  if stride == 1 and _suits_winograd(dy, kernel, stride, winograd.FEW_KERNEL_CHANNELS):
    pads = ((padding, shape[0] - 1 - padding),) * 2
    return winograd.kernel_gradient(x, dy, taps=shape[0], pads=pads)
  transpose = jax.linear_transpose(lambda k: _convolve(x, k, stride, padding), kernel)
  return transpose(dy)[0]


def _kernel_gradient_by_product(x, dy):
  """Gradient of a 1x1 kernel. Without the reshapes XLA would copy the pixels before the product."""
  c, d = x.shape[-1], dy.shape[-1]
  if min(c, d) > NARROW or len(x) % 2:
    return (x.reshape(-1, c).T @ dy.reshape(-1, d))[None, None]
  # In two halves, with the narrower side on the left; for one product XLA would choose the side.
  x, dy = (a.reshape(2, -1, a.shape[-1]) for a in (x, dy))
  narrow, wide = (x, dy) if c < d else (dy, x)
  product = lax.dot_general(narrow, wide, (((1,), (1,)), ((0,), (0,)))).sum(0)
  return (product if c < d else product.T)[None, None]


def project_prepared(x: jax.Array, kernel: jax.Array, rows: jax.Array) -> jax.Array:
  """`convolve` with a 1x1 kernel whose transpose, `rows` [D, C], is in memory as well."""
  outputs, inputs = rows.shape
  if pixels.fewer_than(x, FEWEST_PIXELS):
    return jnp.moveaxis(lax.dot_general(rows, x, (((1,), (3,)), ((), ()))), 0, -1)
  if outputs > inputs and not pixels.fewer_than(x, MANY_PIXELS):
    return _convolve(x, kernel, 1, 0)
  return lax.dot_general(x, rows, (((3,), (1,)), ((), ())))
