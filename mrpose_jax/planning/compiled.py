"""Costs of a compiled program according to XLA: memory, FLOPs, traffic, collectives and loops."""

import dataclasses
import math
import re

import jax

_COLLECTIVE = re.compile(
  '(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?'
)
_FREE = ('bitcast', 'constant', 'get-tuple-element', 'parameter', 'tuple')
_COMPUTATION = re.compile(r'(?:ENTRY )?%([\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)')
_SLICE = re.compile(r'slice_sizes=\{([\d,]*)\}')


@dataclasses.dataclass(frozen=True)
class Program:
  """Costs of one call on one device.

  Attributes:
    memory: peak memory in bytes, including arguments and the program itself.
    flops: number of floating-point operations.
    traffic: bytes read from and written to main memory.
    collectives: (kind, number of operations, bytes of their results) for each kind.
    loops: number of iterations of each loop.
    single_gathers: number of instructions that fetch hundreds of pixels or numbers one by one.
  """

  memory: float
  flops: float
  traffic: float
  collectives: tuple[tuple[str, int, float], ...]
  loops: tuple[int, ...]
  single_gathers: int

  @property
  def collective_bytes(self) -> float:
    return sum(size for _, _, size in self.collectives)


def measure(lowered: jax.stages.Lowered, counted: jax.stages.Lowered | None = None) -> Program:
  """Compiles a program and returns its costs.

  Traffic is counted here from the program's text. XLA's own count includes an asynchronous copy
  three times, counts a slice like the whole array, and includes data that stays in a TPU's vector
  memory. For a loop, only arrays that collect one row per iteration are counted.

  Args:
    lowered: the program.
    counted: source of the FLOPs for GPU programs, whose arithmetic XLA does not count: the same
      program for one device, lowered for a CPU.

  Raises:
    jax.errors.JaxRuntimeError: the program cannot be compiled or, on TPUs, does not fit in memory.
  """
  # XLA selects Triton's matrix products by running them on the GPU, which fails without a GPU.
  compiled = lowered.compile({'xla_gpu_enable_triton_gemm': False} if counted else None)
  computations, entry = parse(compiled.as_text())
  instructions = [instruction for body in computations.values() for instruction in body]
  collectives, loops, collected = {}, [], 0
  for instruction in instructions:
    if match := _COLLECTIVE.fullmatch(instruction.opcode):
      number, size = collectives.get(match[1], (0, 0))
      collectives[match[1]] = number + 1, size + instruction.size
    elif instruction.opcode == 'while':
      iterations = _iterations(instruction, computations)
      loops.append(iterations)
      collected += 2 * sum(a.size for a in instruction.arrays if a.shape[:1] == (iterations,))
  memory = compiled.memory_analysis()
  return Program(
    memory=memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes,
    flops=(counted or compiled).cost_analysis()['flops'],
    traffic=_traffic(computations[entry]) + collected,
    collectives=tuple((kind, *totals) for kind, totals in sorted(collectives.items())),
    loops=tuple(loops),
    single_gathers=sum(_is_single(i) for i in instructions)
    + sum(_slices_singly(i, computations) for i in instructions if i.opcode == 'while'),
  )


@dataclasses.dataclass(frozen=True)
class Array:
  """An array in XLA's text.

  In TPU programs XLA assigns arrays to memory spaces: S(1) is the vector memory on the chip.
  """

  dtype: str
  shape: tuple[int, ...]
  in_main_memory: bool = True

  @property
  def size(self) -> int:
    """Size in bytes."""
    bits = re.search(r'\d+', self.dtype)
    return math.prod(self.shape) * (int(bits[0]) // 8 if bits else 1)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of XLA's text: name, result arrays, opcode, and the text after the parenthesis."""

  name: str
  arrays: tuple[Array, ...]
  opcode: str
  rest: str

  @property
  def size(self) -> int:
    return sum(array.size for array in self.arrays)

  def called(self, *kinds: str) -> list[str]:
    """Names of the computations that it calls as one of `kinds`, e.g. calls, body, condition."""
    return re.findall(rf'(?:{"|".join(kinds)})=%([\w.-]+)', self.rest)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """Parses XLA's text into the instructions of each computation; also returns the entry's name."""
  computations, entry, body = {}, '', []
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      body = computations[match[1]] = []
      entry = match[1] if line.startswith('ENTRY') else entry
    elif match := _INSTRUCTION.match(line):
      name, shape, opcode, rest = match.groups()
      arrays = tuple(
        Array(dtype, tuple(int(n) for n in dims.split(',') if n), 'S(1)' not in layout)
        for dtype, dims, layout in re.findall(r'(\w+)\[([\d,]*)\](\{[^}]*\})?', shape)
      )
      body.append(Instruction(name, arrays, opcode, rest))
  return computations, entry


def _iterations(loop, computations):
  """A loop's number of iterations: XLA's own, or the constant that the counter is compared with."""
  if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
    return int(match[1])
  (condition,) = loop.called('condition')
  limits = [i.rest for i in computations[condition] if i.opcode == 'constant']
  return max((int(n) for rest in limits for n in re.findall(r'^(\d+)\)', rest)), default=1)


def _traffic(body):
  """Bytes in main memory read as operands (once per reader) or written as results."""
  arrays = {i.name: i.arrays for i in body}
  total = 0
  for i in body:
    if i.opcode in ('copy-start', 'slice-start'):  # results: source, destination and a token
      sides = [a for a in i.arrays if a.shape]
      total += min(a.size for a in sides) * sum(a.in_main_memory for a in sides)
    elif i.opcode not in _FREE and i.opcode != 'while' and not i.opcode.endswith('-done'):
      names = re.findall(r'%([\w.-]+)', i.rest.split(')')[0])
      touched = [*i.arrays, *(a for name in names for a in arrays.get(name, ()))]
      total += sum(a.size for a in touched if a.in_main_memory)
  return total


def _is_single(instruction):
  """Whether this gathers at least 100 slices of at most four numbers (a pixel has three)."""
  if instruction.opcode != 'gather':
    return False
  length = _slice_length(instruction)
  return length <= 4 and math.prod(instruction.arrays[0].shape) >= 100 * length


def _slices_singly(loop, computations):
  """Whether a loop does the same slice by slice; index tables (s32, u32) do not count."""
  if _iterations(loop, computations) < 100:
    return False
  names, slices = loop.called('body'), []
  while names:
    body = computations[names.pop()]
    slices += [
      i for i in body if i.opcode == 'dynamic-slice' and i.arrays[0].dtype not in ('s32', 'u32')
    ]
    names += [name for i in body for name in i.called('calls', 'body', 'to_apply')]
  return any(_slice_length(i) <= 4 for i in slices)


def _slice_length(instruction):
  sizes = _SLICE.search(instruction.rest)[1]
  return math.prod(int(n) for n in sizes.split(',') if n)
