"""Costs read from compiled programs: one program by hand, and real ones on CPU devices."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from mrpose_jax.input_pipeline.device import warp
from mrpose_jax.planning import compiled
from mrpose_jax.runtime import parallel

TEXT = """HloModule a

%body (p: (s32[], u8[3,9,9,3], u8[200,4,4,3])) -> (s32[], u8[3,9,9,3], u8[200,4,4,3]) {
  %p = (s32[], u8[3,9,9,3]{3,2,1,0:T(8,128)(4,1)}, u8[200,4,4,3]{3,2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], u8[3,9,9,3], u8[200,4,4,3]) fusion(%p), kind=kLoop, calls=%slices
}

%slices (q: u8[3,9,9,3]) -> u8[1,SIZE,SIZE,3] {
  %q = u8[3,9,9,3] parameter(0)
  %z = s32[] constant(0)
  %index = s32[1,4] dynamic-slice(%q, %z), dynamic_slice_sizes={1,4}
  ROOT %s = u8[1,SIZE,SIZE,3] dynamic-slice(%q, %z), dynamic_slice_sizes={1,SIZE,SIZE,3}
}

%condition (p: (s32[], u8[3,9,9,3], u8[200,4,4,3])) -> pred[] {
  %n = s32[]{:T(128)} constant(200)
  %c = (s32[], u8[3,9,9,3], u8[200,4,4,3]) parameter(0)
  ROOT %less = pred[] compare(%c, %n), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  %m = f32[6,4] parameter(1)
  %w = (s32[], u8[3,9,9,3], u8[200,4,4,3]) while(%x), condition=%condition, body=%body
  %g = f32[500,3] gather(%x, %x), offset_dims={1}, slice_sizes={1,3}
  %k = f32[17,64,2] gather(%x, %x), offset_dims={0,2}, slice_sizes={64,1,2}
  %r = (bf16[8,4], f32[2]) all-reduce-start(%x, %x), to_apply=%add
  %v = ((f32[6,4]{1,0:T(8,128)}), f32[2,4]{1,0:T(8,128)S(1)}, s32[]) slice-start(%m), slice={[0:2]}
  %y = f32[2,4]{1,0:T(8,128)S(1)} slice-done(%v)
  %u = (f32[8,4]{1,0}, f32[8,4]{1,0:S(1)}, u32[]) copy-start(%x)
  ROOT %d = f32[8,4] all-reduce-done(%r)
}
"""


class Text:
  """Stub of a lowered and compiled program with this text and these costs."""

  def __init__(self, text, costs):
    self.text, self.costs = text, costs

  def compile(self, options):
    return self

  def as_text(self):
    return self.text

  def cost_analysis(self):
    return self.costs

  def memory_analysis(self):
    class Memory:
      peak_memory_in_bytes = 700
      generated_code_size_in_bytes = 50

    return Memory()


@pytest.mark.parametrize(('side', 'singly'), [(4, 0), (1, 1)])
def test_a_program_by_hand(side, singly):
  text = TEXT.replace('SIZE', str(side))
  program = compiled.measure(Text(text, {'flops': 5.0}))
  assert program.memory == 750
  assert program.flops == 5
  assert program.loops == (200,)
  # Only main memory counts, and x and y lie elsewhere. It holds the results of the gathers and the
  # all-reduce, the slice that y is copied from, the copy of x, and what the loop collects.
  gathers, reduce = 500 * 3 * 4 + 17 * 64 * 2 * 4, 8 * 4 * 2 + 2 * 4
  assert program.traffic == gathers + reduce + 2 * 4 * 4 + 8 * 4 * 4 + 2 * 200 * 4 * 4 * 3
  assert program.collectives == (('all-reduce', 1, 8 * 4 * 2 + 2 * 4),)
  # The gather of pixels counts, the one of whole rows of keypoints does not; the loop counts if it
  # slices single pixels.
  assert program.single_gathers == 1 + singly


def test_a_product_on_four_devices():
  mesh = parallel.data_mesh()
  n = 8 * jax.device_count()
  x = jax.ShapeDtypeStruct((n, 16), np.float32, sharding=parallel.batched(mesh))
  product = jax.jit(lambda x: jnp.sum(x.T @ x), out_shardings=parallel.replicated(mesh))
  program = compiled.measure(product.lower(x))
  ((kind, number, size),) = program.collectives
  assert (kind, number) == ('all-reduce', 1)
  assert size in (4, 4 * 16 * 16)  # XLA reduces the sum or the matrix
  assert 2 * 8 * 16 * 16 <= program.flops < 2.5 * 8 * 16 * 16
  assert program.memory >= 8 * 16 * 4
  assert program.loops == ()
  assert program.single_gathers == 0


def test_arithmetic_that_xla_does_not_count_comes_from_the_program_for_a_cpu():
  counted = Text('', {'flops': 640.0})
  program = compiled.measure(Text(TEXT.replace('SIZE', '4'), None), counted)
  assert program.flops == 640


def test_by_gathering_takes_pixels_one_by_one():
  images = jax.ShapeDtypeStruct((2, 40, 40, 3), np.uint8)
  matrix = jax.ShapeDtypeStruct((2, 2, 3), np.float32)
  lowered = jax.jit(lambda i, m: warp.affine(i, m, (32, 32))).lower(images, matrix)
  assert compiled.measure(lowered).single_gathers > 0
