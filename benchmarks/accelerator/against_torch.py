"""The same networks in PyTorch on the same device: training steps and heatmaps, in turns."""

import functools
import warnings
from collections.abc import Callable

import jax
import numpy as np
import torch

from benchmarks import network
from benchmarks import turns
from benchmarks.accelerator import rows
from mrpose_jax.models import folding

NETWORKS = ('simple_baseline', 'mrfeanet2')
CALLS = 10  # of a turn


def measure(table: rows.Rows):
  """Measures training and prediction of two networks, PyTorch eager and compiled."""
  sizes = table.sizes()
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  if device != 'cuda' and sizes != rows.TINY:
    table.about('PyTorch sees no GPU here, so there is nothing to compare with.')
    return
  table.about(
    f'bfloat16; PyTorch {torch.__version__}, autocast, channels_last, in turns with JAX. The '
    'work is the network alone, with crops and targets on the device, and both update with Adam. '
    'Ratios above 1 are in favour of this project.'
  )
  torch.backends.cudnn.benchmark = True
  warnings.simplefilter('ignore')  # of torch.compile
  forms = {
    'eager': lambda function: function,
    # For a CPU, the default backend would need a compiler of C++.
    'compiled': functools.partial(
      torch.compile, backend='inductor' if device == 'cuda' else 'eager'
    ),
  }
  pairs = [
    (name, work, people, *work(name, sizes, people, device))
    for name in NETWORKS
    for work, people in ((training, sizes.batch), (heatmaps, sizes.small_batch))
  ]
  for form, transform in forms.items():  # compiling takes longest, so it comes last
    for name, work, people, ours, make_theirs in pairs:
      what = f'{work.__name__} of {name} R{sizes.depth}, batch {people}, PyTorch {form}'
      calls = max(1, round(CALLS * sizes.seconds))
      try:
        found = turns.take_turns(
          what,
          repeated(ours, calls, jax.block_until_ready),
          repeated(make_theirs(transform), calls, finish(device)),
          turns=3,
          reference=form,
        )
      except RuntimeError as error:  # also what torch.compile raises
        table.add(what, error=str(error).strip().splitlines()[0][:200])
        continue
      ours_rate, theirs_rate = (
        turns.spread([people * calls / seconds for seconds in side], '.4g')
        for side in (found.ours, found.theirs)
      )
      table.add(
        what,
        **{'JAX, people/s': ours_rate, 'PyTorch, people/s': theirs_rate},
        ratio=turns.spread(found.ratios, '.2f'),
      )


def training(name, sizes, people, device):
  """Returns JAX's training step, and a function that makes PyTorch's from `transform`."""
  r = np.random.default_rng(0)
  images = r.standard_normal((people, *sizes.image_size, 3), np.float32)
  target = r.random((people, *(n // 4 for n in sizes.image_size), 17), np.float32)
  model, variables, torch_network = network.both(name, sizes.depth, sizes.width, 'bfloat16')
  ours = network.trainer(model, variables, images, target)
  torch_network.to(device, memory_format=torch.channels_last)
  inputs, their_target = (to_torch(array, device) for array in (images, target))
  adam = torch.optim.Adam(torch_network.parameters(), lr=1e-3, fused=device == 'cuda')

  def make_theirs(transform):
    function = transform(torch_network)

    def theirs():
      torch_network.train()
      adam.zero_grad(set_to_none=True)
      with torch.autocast(device, torch.bfloat16):
        predicted = function(inputs)
      (0.5 * (predicted.float() - their_target).square().mean()).backward()
      adam.step()

    return theirs

  return ours, make_theirs


def heatmaps(name, sizes, people, device):
  """The same for heatmaps of a batch, without the flip test."""
  images = np.random.default_rng(0).standard_normal((people, *sizes.image_size, 3), np.float32)
  model, variables, torch_network = network.both(name, sizes.depth, sizes.width, 'bfloat16')
  variables = jax.jit(folding.fold_batch_norm, static_argnums=0)(model, variables)
  predict = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
  on_device = jax.device_put(images)
  torch_network.eval().to(device, memory_format=torch.channels_last)
  inputs = to_torch(images, device)

  def make_theirs(transform):
    function = transform(torch_network)

    @torch.inference_mode()
    def theirs():
      with torch.autocast(device, torch.bfloat16):
        return function(inputs)

    return theirs

  return lambda: predict(variables, on_device), make_theirs


def to_torch(array: np.ndarray, device: str) -> torch.Tensor:
  """NHWC array -> NCHW tensor on the device, in the layout channels_last."""
  return torch.from_numpy(array.transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)


def repeated(function: Callable, calls: int, wait: Callable) -> Callable:
  """Returns a function that calls `function` several times and then waits for the last result."""

  def repeat():
    for _ in range(calls):
      result = function()
    wait(result)

  return repeat


def finish(device: str) -> Callable:
  """Returns a function that waits until the device has done its work."""
  return lambda _: torch.cuda.synchronize() if device == 'cuda' else None
