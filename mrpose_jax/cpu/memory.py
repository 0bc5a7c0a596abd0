"""How the C library keeps the memory of a process that trains on a CPU."""

import ctypes

import jax


def keep_freed_memory():
  """Lets the process keep the memory that it frees, where the C library is glibc.

  A training step frees more than a gigabyte and asks for it again. glibc returns it to the kernel
  in between, which clears it page by page: a quarter of the time of a step. With these settings
  large blocks stay in the heap of the main thread, so computations are dispatched synchronously,
  and allocate in that thread. The heaps of the other threads serve the small blocks that every
  product takes and returns thousands of times in a step.

  Call it before JAX starts its threads.
  """
  if mallopt := getattr(ctypes.CDLL(None), 'mallopt', None):
    mallopt(-4, 0)  # M_MMAP_MAX: take large blocks from the heap, too
    mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
    jax.config.update('jax_cpu_enable_async_dispatch', False)
