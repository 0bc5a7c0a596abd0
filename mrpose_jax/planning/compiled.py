"""What a compiled program costs, read from XLA: memory, arithmetic, traffic, collectives, loops."""

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
    memory: peak bytes; arguments and the program itself included.
    flops: floating-point operations.
    traffic: bytes that its operations read from main memory and write to it.
    collectives: (kind, number, bytes of their results), each kind once.
    loops: trips of each loop.
    single_gathers: instructions that fetch hundreds of pixels or numbers one by one.
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
  """Compiles, and reads the costs.

  Traffic is counted here, from the program's text: XLA's own count has an asynchronous copy three
  times, a slice of an array like the array, and what stays in a TPU's vector memory like the rest.
  Of a loop, what it collects in an array, a row a trip, is counted.

  Args:
    lowered: the program.
    counted: for GPUs, of whose programs XLA counts no arithmetic, the same program of one device
      lowered for a CPU.

  Raises:
    jax.errors.JaxRuntimeError: the program cannot be compiled, or (TPUs) does not fit.
  """
  # XLA tries Triton's matrix products on the GPU and takes what works; without one it stops.
  compiled = lowered.compile({'xla_gpu_enable_triton_gemm': False} if counted else None)
  computations, entry = parse(compiled.as_text())
  instructions = [instruction for body in computations.values() for instruction in body]
  collectives, loops, collected = {}, [], 0
  for instruction in instructions:
    if found := _COLLECTIVE.fullmatch(instruction.opcode):
      number, size = collectives.get(found[1], (0, 0))
      collectives[found[1]] = number + 1, size + instruction.size
    elif instruction.opcode == 'while':
      trips = _trips(instruction, computations)
      loops.append(trips)
      collected += 2 * sum(a.size for a in instruction.arrays if a.shape[:1] == (trips,))
  memory = compiled.memory_analysis()
  return Program(
    memory=memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes,
    flops=(counted or compiled).cost_analysis()['flops'],
    traffic=_traffic(computations[entry]) + collected,
    collectives=tuple((kind, *found) for kind, found in sorted(collectives.items())),
    loops=tuple(loops),
    single_gathers=sum(_is_single(i) for i in instructions)
    + sum(_slices_singly(i, computations) for i in instructions if i.opcode == 'while'),
  )


@dataclasses.dataclass(frozen=True)
class Array:
  """dtype, shape, whether it lies in main memory, and size in bytes.

  XLA places arrays of TPU programs in memory spaces: S(1) is the vector memory, on the chip.
  """

  dtype: str
  shape: tuple[int, ...]
  in_main_memory: bool = True

  @property
  def size(self) -> int:
    bits = re.search(r'\d+', self.dtype)
    return math.prod(self.shape) * (int(bits[0]) // 8 if bits else 1)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of XLA's text: name, result arrays, opcode, and the rest behind the parenthesis."""

  name: str
  arrays: tuple[Array, ...]
  opcode: str
  rest: str

  @property
  def size(self) -> int:
    return sum(array.size for array in self.arrays)

  def called(self, *kinds: str) -> list[str]:
    """Names of the computations that it calls as `kinds`: calls, body, condition, to_apply."""
    return re.findall(rf'(?:{"|".join(kinds)})=%([\w.-]+)', self.rest)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """XLA's text -> instructions of each computation, and the name of the entry."""
  computations, entry, body = {}, '', []
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      body = computations[found[1]] = []
      entry = found[1] if line.startswith('ENTRY') else entry
    elif found := _INSTRUCTION.match(line):
      name, shape, opcode, rest = found.groups()
      arrays = tuple(
        Array(dtype, tuple(int(n) for n in dims.split(',') if n), 'S(1)' not in layout)
        for dtype, dims, layout in re.findall(r'(\w+)\[([\d,]*)\](\{[^}]*\})?', shape)
      )
      body.append(Instruction(name, arrays, opcode, rest))
  return computations, entry


def _trips(loop, computations):
  """Number of trips: what XLA says, or the constant that the loop's counter is compared with."""
  if found := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
    return int(found[1])
  (condition,) = loop.called('condition')
  limits = [i.rest for i in computations[condition] if i.opcode == 'constant']
  return max((int(n) for rest in limits for n in re.findall(r'^(\d+)\)', rest)), default=1)


def _traffic(body):
  """Bytes of main memory that are read as operands or written as results, once by each reader."""
  arrays = {i.name: i.arrays for i in body}
  total = 0
  for i in body:
    if i.opcode in ('copy-start', 'slice-start'):  # its results: both sides, and a token
      sides = [a for a in i.arrays if a.shape]
      total += min(a.size for a in sides) * sum(a.in_main_memory for a in sides)
    elif i.opcode not in _FREE and i.opcode != 'while' and not i.opcode.endswith('-done'):
      names = re.findall(r'%([\w.-]+)', i.rest.split(')')[0])
      touched = [*i.arrays, *(a for name in names for a in arrays.get(name, ()))]
      total += sum(a.size for a in touched if a.in_main_memory)
  return total


def _is_single(instruction):
  """A gather of at least a hundred slices of at most four numbers (a pixel has three)."""
  if instruction.opcode != 'gather':
    return False
  length = _slice_length(instruction)
  return length <= 4 and math.prod(instruction.arrays[0].shape) >= 100 * length


def _slices_singly(loop, computations):
  """A loop that does the same, slice by slice; tables of indices (s32, u32) do not count."""
  if _trips(loop, computations) < 100:
    return False
  names, found = loop.called('body'), []
  while names:
    body = computations[names.pop()]
    found += [i for i in body if i.opcode == 'dynamic-slice' and i.arrays[0].dtype[1:] != '32']
    found += [i for i in body if i.opcode == 'dynamic-slice' and i.arrays[0].dtype == 'f32']
    names += [name for i in body for name in i.called('calls', 'body', 'to_apply')]
  return any(_slice_length(i) <= 4 for i in found)


def _slice_length(instruction):
  sizes = _SLICE.search(instruction.rest)[1]
  return math.prod(int(n) for n in sizes.split(',') if n)
