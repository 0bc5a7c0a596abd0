"""Convolutions and their transposes, with gradient rules that suit XLA's backends.

A convolution and a transposed convolution are one linear map and its transpose; both take the
kernel of the convolution, [kh, kw, input, output]. They carry their own gradient rules for one
reason: XLA's CPU backend is slow at 1x1 convolutions and at dilated inputs, so on CPU the first are
matrix products, gradients included, and the second one small dense convolution per output phase.
GPU and TPU keep XLA's own convolutions, 1x1 ones too, with which XLA fuses what is around them: as
matrix products, a training step on a TPU moves a tenth more bytes. Which form runs is decided when
the program is lowered for a platform.
"""

import functools

import jax
from jax import lax
from jax import numpy as jnp

from mrpose_jax.models import pixels
from mrpose_jax.models import winograd

NARROW = 128  # channels: up to so many a kernel's gradient is taken of two halves
FEW_PIXELS = 500  # for fewer the CPU forms spare the kernel, for more the pixels
FEWEST_PIXELS = 100  # for fewer the kernel is a product's left side, which is read as it lies
MANY_PIXELS = 5000  # from so many on Eigen's convolutions write more outputs than inputs faster


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """Cross-correlation, padded alike all around; of 1x1 kernels with stride 1 and padding 0 alone.

  [N, H, W, C] and [kh, kw, C, D] -> [N, H', W', D].
  """
  form = functools.partial(_convolve_default, stride=stride, padding=padding)
  if kernel.shape[:2] != (1, 1):
    return form(x, kernel)
  return lax.platform_dependent(x, kernel, cpu=lambda x, kernel: x @ kernel[0, 0], default=form)


def _convolve_default(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=pixels.DIMENSIONS
  )


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
  dilated = functools.partial(_transpose_dilated, stride=stride, padding=padding, out_size=out_size)
  if kernel.shape[:2] == (1, 1):
    form = _transpose_of_product
  elif any(n % stride for n in out_size) or (stride == 1 and not _suits_winograd(y, kernel, 1)):
    return dilated(y, kernel)
  else:
    form = _transpose_by_winograd if stride == 1 else _transpose_by_phases
    form = _transpose_by_product if pixels.fewer_than(y, FEW_PIXELS) else form
    form = functools.partial(form, stride=stride, padding=padding)
  return lax.platform_dependent(y, kernel, cpu=form, default=dilated)


def _convolve_transposed_fwd(y, kernel, stride, padding, out_size):
  return convolve_transposed(y, kernel, stride, padding, out_size), (y, kernel)


def _convolve_transposed_bwd(stride, padding, out_size, saved, dx):
  del out_size
  y, kernel = saved
  y, dx = (pixels.materialize(a, kernel.ravel()[0]) for a in (y, dx))
  convolved = functools.partial(convolve, stride=stride, padding=padding)
  if _suits_winograd(y, kernel, stride) and not pixels.fewer_than(y, FEW_PIXELS):
    form = functools.partial(_convolve_by_winograd, stride=stride, padding=padding)
    dy = lax.platform_dependent(dx, kernel, cpu=form, default=convolved)
  else:
    dy = convolved(dx, kernel)
  return dy, _kernel_gradient(dx, y, kernel.shape, stride, padding)


convolve_transposed.defvjp(_convolve_transposed_fwd, _convolve_transposed_bwd)


def _transpose_of_product(y, kernel):
  return y @ kernel[0, 0].T


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
  """Output pixels u = stride m + a of one phase a see only every stride-th tap of the kernel."""
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
  """Whether the gradients of a convolution to y, or of a transposed one of y, have that rule."""
  same_taps = kernel.shape[0] % stride == 0  # of all phases
  return (
    same_taps and y.dtype == jnp.float32 and winograd.saves(kernel, few) and winograd.divides(y)
  )


def phases_of(kernel: jax.Array, stride: int, padding: int) -> list[tuple[jax.Array, tuple]]:
  """What `correlate` takes for each output phase (0, 0), (0, 1), ... of a transposed convolution.

  Kernel [k, k, C, D] -> kernels [k / stride, k / stride, D, C], and their padding.
  """
  kernel = kernel.swapaxes(2, 3)
  rows, columns = (_phases(taps, stride, padding) for taps in kernel.shape[:2])
  return [(kernel[i][:, j], (above, left)) for i, above in rows for j, left in columns]


def _transpose_by_product(y, kernel, stride, padding):
  """One product with the whole kernel as it lies in memory; its parts are added where they meet."""
  height, width = y.shape[1:3]
  rows, columns = (_phases(taps, stride, padding) for taps in kernel.shape[:2])
  reach = max(max(pads) for phases in (rows, columns) for _, pads in phases)
  products = lax.dot_general(kernel, y, (((3,), (3,)), ((), ())), preferred_element_type=y.dtype)
  edges = (*((0, 0),) * 4, (reach, reach), (reach, reach))
  products = jnp.pad(products, edges)  # [kh, kw, C, N, H, W]
  phases = []
  for i, (above, _) in rows:
    for j, (left, _) in columns:
      seen = [
        products[row, column, :, :, r : r + height, c : c + width]
        for r, row in enumerate(range(kernel.shape[0])[i], reach - above)
        for c, column in enumerate(range(kernel.shape[1])[j], reach - left)
      ]
      phases.append(sum(seen[1:], seen[0]))
  phases = pixels.materialize(jnp.stack(phases), kernel.ravel()[0])
  return pixels.interleave(list(jnp.moveaxis(phases, 1, -1)), stride)


def _phases(taps, stride, padding):
  """For each phase: the slice of its taps, last first, and the padding that aligns them."""
  phases = []
  for a in range(stride):
    first = (a + padding) % stride
    used = range(first, taps, stride)
    shifts = [(a + padding - i) // stride for i in used]  # x[stride m + a] sees y[m + shift]
    backwards = slice(used[-1], first - stride if first >= stride else None, -stride)
    phases.append((backwards, (-min(shifts), max(shifts))))
  return phases


def _kernel_gradient(x, dy, shape, stride, padding):
  """Gradient of sum(dy * convolve(x, kernel)) with respect to the kernel."""
  kernel = jax.ShapeDtypeStruct(shape, x.dtype)
  default = functools.partial(
    _kernel_gradient_default, kernel=kernel, stride=stride, padding=padding
  )
  if shape[:2] == (1, 1):
    form = _kernel_gradient_by_product
  elif stride == 1 and _suits_winograd(dy, kernel, stride, winograd.FEW_KERNEL_CHANNELS):
    form = functools.partial(
      winograd.kernel_gradient, taps=shape[0], pads=((padding, shape[0] - 1 - padding),) * 2
    )
  else:
    return default(x, dy)
  return lax.platform_dependent(x, dy, cpu=form, default=default)


def _kernel_gradient_default(x, dy, kernel, stride, padding):
  transpose = jax.linear_transpose(lambda k: _convolve_default(x, k, stride, padding), kernel)
  return transpose(dy)[0]


def _kernel_gradient_by_product(x, dy):
  """Of a 1x1 kernel. As matrices, or XLA moves the pixels in memory before it multiplies."""
  c, d = x.shape[-1], dy.shape[-1]
  if min(c, d) > NARROW or len(x) % 2:
    return (x.reshape(-1, c).T @ dy.reshape(-1, d))[None, None]
  # The narrower side first, in two halves: of a whole XLA chooses the side.
  x, dy = (a.reshape(2, -1, a.shape[-1]) for a in (x, dy))
  narrow, wide = (x, dy) if c < d else (dy, x)
  product = lax.dot_general(narrow, wide, (((1,), (1,)), ((0,), (0,)))).sum(0)
  return (product if c < d else product.T)[None, None]


@jax.custom_vjp
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[.., C] and [C, D] of one type -> float32 [.., D]; the gradients are computed in that type."""
  return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _project_fwd(x, kernel):
  return project(x, kernel), (x, kernel)


def _project_bwd(saved, dy):
  _, transpose = jax.vjp(jnp.matmul, *saved)
  return transpose(dy.astype(saved[0].dtype))


project.defvjp(_project_fwd, _project_bwd)


def project_prepared(x: jax.Array, kernel: jax.Array, rows: jax.Array) -> jax.Array:
  """`convolve` with a 1x1 kernel that lies in memory output by output, too: [D, C]. For CPUs."""
  outputs, inputs = rows.shape
  if pixels.fewer_than(x, FEWEST_PIXELS):
    return jnp.moveaxis(lax.dot_general(rows, x, (((1,), (3,)), ((), ()))), 0, -1)
  if outputs > inputs and not pixels.fewer_than(x, MANY_PIXELS):
    return _convolve_default(x, kernel, 1, 0)
  return lax.dot_general(x, rows, (((3,), (1,)), ((), ())))


@jax.custom_vjp
def rectify(x: jax.Array, parameter: jax.Array) -> jax.Array:
  """max(x, 0) and the gradient behind it, each in memory once; see `pixels.materialize`."""
  return pixels.materialize(jnp.maximum(x, 0), parameter)


def _rectify_fwd(x, parameter):
  y = rectify(x, parameter)
  return y, (y, parameter)


def _rectify_bwd(saved, dy):
  y, parameter = saved
  return pixels.materialize(jnp.where(y > 0, dy, 0), parameter), jnp.zeros_like(parameter)


rectify.defvjp(_rectify_fwd, _rectify_bwd)
