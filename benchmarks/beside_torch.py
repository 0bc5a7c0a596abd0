"""Trains a network in PyTorch beside `main.py`, and draws both curves.

  python -m benchmarks.beside_torch --config=configs/custom.py:mrfeanet2 --seed=0 --seed=1 \
      --output=runs/beside_torch

It accepts the same --config flags as main.py. Network, batch norm, automatic differentiation, loss
and Adam are PyTorch's. These arrays are handed over: the initial weights, and each step's crops,
target heatmaps and weights, so that both see the same people with the same augmentation. The
network is evaluated by the code that evaluates ours; only the network's call is PyTorch's. The
PCK@0.2 of each evaluation is written to OUTPUT/NETWORK_SEED.json.

  python -m benchmarks.beside_torch --picture=beside_torch.png --output=runs/beside_torch WORKDIR...

This draws the curves of `main.py`'s workdirs and of PyTorch's runs with the same networks and
seeds, and prints a table.
"""

import contextlib
import itertools
import math
import pathlib
import tempfile
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import torch
from absl import flags
from flax import linen as nn
from jax import numpy as jnp

import mrpose_jax
from benchmarks import torch_networks
from mrpose_jax import command_line
from mrpose_jax import defaults
from mrpose_jax import errors
from mrpose_jax import evaluate
from mrpose_jax import paths
from mrpose_jax import predict
from mrpose_jax import skeletons
from mrpose_jax import tables
from mrpose_jax import train
from mrpose_jax import training_step
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.host import loader
from mrpose_jax.input_pipeline.host import transfer
from mrpose_jax.models import pose_network
from mrpose_jax.runtime import checkpoint
from mrpose_jax.runtime import compilation
from mrpose_jax.runtime import configuration
from mrpose_jax.runtime import metric_writer

METRIC = 'PCK@0.2'
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7')  # of the seeds
# Fields that only JAX's side of a run reads, or that the loop here follows; any other field of the
# model and of training must have its default.
FOLLOWED = {
  'model': ('network', 'depth', 'width', 'channel_order', 'pretrained', 'precision'),
  'train': (
    *('batch_size', 'epochs', 'learning_rate', 'schedule', 'warmup_epochs', 'drop_epochs'),
    *('drop_factor', 'evaluate_every'),
    *('log_every', 'checkpoint_every', 'profile_steps', 'allow_other_data', 'wandb'),
  ),
}


def check(config: ml_collections.ConfigDict):
  """Raises ConfigError for invalid values and for options that the PyTorch loop does not have."""
  configuration.check(config)
  if config.model.depth not in torch_networks.STAGES:
    raise errors.ConfigError(
      f'model.depth={config.model.depth}: PyTorch has {list(torch_networks.STAGES)} here'
    )
  if config.eval.detections:
    raise errors.ConfigError('eval.detections: PCK needs the annotated boxes; leave it empty')
  usual = defaults.get_config()
  for section, followed in FOLLOWED.items():
    for name, value in config[section].items():
      if name not in followed and value != usual[section][name]:
        raise errors.ConfigError(
          f'{section}.{name}={value}: the PyTorch loop has no such option; leave it at '
          f'{usual[section][name]}'
        )


def run_seed(config: ml_collections.ConfigDict, seed: int, output: pathlib.Path) -> dict:
  """Trains the configured network with one seed; writes and returns the curve.

  Returns:
    {'network', 'seed', 'loss', 'PCK@0.2'}; the last two are lists of [step, value], the loss as
    mean over `train.log_every` steps.

  Raises:
    ConfigError: the file of this run exists.
    DataError: the data cannot be used.
    DivergedError: a loss is not finite.
  """
  config = config.copy_and_resolve_references()
  config.seed = seed
  config.eval.update({'metrics': (METRIC,), 'primary': ''})
  file = output / f'{config.model.network}_{seed}.json'
  if file.exists():
    raise errors.ConfigError(f'{file} exists; choose another --output, or move it away')
  dataset = configuration.open_dataset(config)
  run = train.build(config, dataset, output)
  network = initial_network(run)
  adam = torch.optim.Adam(network.parameters(), lr=config.train.learning_rate)
  predict_step = make_predict_step(network, config, dataset.skeleton)
  curve = {'network': config.model.network, 'seed': seed, 'loss': [], METRIC: []}
  interval = []
  for step, examples in enumerate(examples_of_steps(run), 1):
    for group in adam.param_groups:
      group['lr'] = float(run.schedule(step - 1))
    adam.zero_grad()
    loss = loss_of(network.train(), examples)
    loss.backward()
    adam.step()
    interval.append(loss.item())
    if not math.isfinite(interval[-1]):
      raise errors.DivergedError(f'loss {interval[-1]} at step {step} of {file.stem}')
    evaluates = step in run.evaluation_steps
    if evaluates or step % config.train.log_every == 0:
      curve['loss'].append([step, float(np.mean(interval))])
      print(f'{file.stem}: step {step}/{run.total_steps}, loss {np.mean(interval):.6f}', flush=True)
      interval = []
    if evaluates:
      network.eval()
      predictions = evaluate.predict_split(
        *(predict_step, {}, dataset, run.detections, config, run.mesh)
      )
      metrics = evaluate.score(predictions, dataset, config).metrics
      curve[METRIC].append([step, metrics[METRIC]])
      print(f'{file.stem}: step {step}, {tables.one_line(metrics)}', flush=True)
      paths.write_json(file, curve)
  return curve


def initial_network(run: train.Run) -> torch_networks.Network:
  """PyTorch's network with the weights that main.py starts from."""
  with (
    tempfile.TemporaryDirectory() as empty,
    contextlib.closing(checkpoint.Checkpoints(pathlib.Path(empty), create=True)) as checkpoints,
  ):
    state = train.restore_or_start(run, checkpoints)
  model = run.model
  network = torch_networks.Network(model.network, model.depth, model.num_keypoints, model.width)
  weights = mrpose_jax.export_torch_weights(state.variables, model)
  weights = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
  network.load_state_dict(weights, strict=False)  # num_batches_tracked is missing
  return network.to(memory_format=torch.channels_last)


def examples_of_steps(run: train.Run):
  """Yields the `training_step.Examples` of each step of main.py's run, as JAX arrays."""
  config = run.config
  examples_of = jax.jit(
    training_step.make_examples(
      predict.codec_of(config),
      augment.Augmentation(**config.augment),
      run.dataset.skeleton,
      config.seed,
      config.model.channel_order,
    )
  )
  batches = loader.train_batches(
    run.dataset, config.train.batch_size, config.seed, num_workers=config.data.num_workers
  )
  with contextlib.closing(transfer.to_device(batches)) as on_device:
    for step, batch in zip(range(run.total_steps), on_device):
      yield examples_of(np.int32(step), batch)


def loss_of(network: torch_networks.Network, examples: training_step.Examples) -> torch.Tensor:
  """Half the mean squared error of the heatmaps, as `losses.keypoint_mse_loss` defines it."""
  error = network(to_torch(examples.inputs)) - to_torch(examples.target)
  weights = torch.from_numpy(np.array(examples.weights))[:, :, None, None]
  return 0.5 * (error * weights).square().mean()


def make_predict_step(
  network: torch_networks.Network, config: ml_collections.ConfigDict, skeleton: skeletons.Skeleton
) -> Callable:
  """Returns `predict.make_predict_people` whose calls of our network PyTorch's answers."""
  predict_people = predict.make_predict_people(config, skeleton)

  def answer(next_fun, args, kwargs, context):
    if not isinstance(context.module, pose_network.PoseNetwork):
      return next_fun(*args, **kwargs)
    return jnp.asarray(network(to_torch(args[0])).permute(0, 2, 3, 1).numpy())

  def predict_step(variables, batch):
    with nn.intercept_methods(answer), torch.inference_mode():
      return predict_people(variables, batch)

  return predict_step


def to_torch(array: jax.Array) -> torch.Tensor:
  """[N, H, W, C] -> [N, C, H, W], whose memory stays channels-last."""
  return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)


def read_workdir(workdir: pathlib.Path) -> dict:
  """Reads the curve of a run of main.py, in the form that `run_seed` returns.

  Raises:
    DataError: the workdir has no configuration, or no evaluation with a PCK@0.2.
  """
  if not (workdir / 'config.json').exists():
    raise errors.DataError(f'{workdir}: has no config.json; is it a workdir of main.py?')
  stored = paths.read_json(workdir / 'config.json')
  lines = metric_writer.read(workdir / 'metrics.jsonl', math.inf)
  points = [[line['step'], line[f'eval/{METRIC}']] for line in lines if f'eval/{METRIC}' in line]
  if not points:
    raise errors.DataError(
      f'{workdir}/metrics.jsonl: no evaluation with {METRIC}; train with '
      f'--config.eval.metrics={METRIC}'
    )
  return {'network': stored['model']['network'], 'seed': stored['seed'], METRIC: points}


def compare(workdirs: list[pathlib.Path], output: pathlib.Path, picture: pathlib.Path) -> str:
  """Draws the curves of main.py's runs and of PyTorch's; returns a Markdown table.

  The table compares the last step of both.

  Raises:
    DataError: a curve is missing, or the two of a pair end at different steps.
  """
  pairs = []
  for workdir in workdirs:
    ours = read_workdir(workdir)
    file = output / f'{ours["network"]}_{ours["seed"]}.json'
    if not file.exists():
      raise errors.DataError(f'{file}: does not exist; run PyTorch with --seed={ours["seed"]}')
    theirs = paths.read_json(file)
    if ours[METRIC][-1][0] != theirs[METRIC][-1][0]:
      raise errors.DataError(
        f'{workdir} ends at step {ours[METRIC][-1][0]}, {file} at step {theirs[METRIC][-1][0]}'
      )
    pairs.append((ours, theirs))
  draw(pairs, picture)
  rows = []
  for ours, theirs in pairs:
    mine, other = ours[METRIC][-1][1], theirs[METRIC][-1][1]
    cells = (
      ours['network'],
      str(ours['seed']),
      f'{mine:.1f}',
      f'{other:.1f}',
      f'{mine - other:+.1f}',
    )
    rows.append(list(cells))
  header = ['network', 'seed', f'{METRIC}, this project', f'{METRIC}, PyTorch', 'difference']
  return tables.markdown_lines(header, rows)


def draw(pairs: list[tuple[dict, dict]], picture: pathlib.Path):
  """Draws PCK@0.2 over the steps: a plot for each network, a colour for each seed."""
  from matplotlib import figure

  networks = list(dict.fromkeys(ours['network'] for ours, _ in pairs))
  page = figure.Figure(figsize=(5.5 * len(networks), 4), dpi=120, layout='constrained')
  [axes] = page.subplots(1, len(networks), sharey=True, squeeze=False)
  for axis, network in zip(axes, networks):
    shown = [pair for pair in pairs if pair[0]['network'] == network]
    for color, pair in zip(itertools.cycle(COLORS), shown):
      for curve, name, style in zip(pair, ('this project', 'PyTorch'), ('-', '--')):
        label = f'{name}, seed {curve["seed"]}'
        axis.plot(*np.array(curve[METRIC]).T, style, color=color, label=label)
    axis.set_title(network)
    axis.set_xlabel('step')
    axis.grid(alpha=0.3)
    axis.legend(loc='lower right', frameon=False)
  axes[0].set_ylabel(f'{METRIC} of the validation people (%)')
  page.savefig(picture)


def make_folder(folder: pathlib.Path):
  """Creates a folder for results; raises ConfigError if that is not possible."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.ConfigError(f'{folder}: cannot be created ({error.strerror})') from error


def main(arguments):
  output = paths.parse_local(flags.FLAGS.output, '--output', written=True)
  if flags.FLAGS.picture:
    picture = paths.parse_local(flags.FLAGS.picture, '--picture', written=True)
    if picture.suffix != '.png':
      raise errors.ConfigError(f'--picture={picture}: give the name of a .png file')
    if not arguments:
      raise errors.ConfigError(f'--picture={picture}: name the workdirs of main.py to compare with')
    make_folder(picture.parent)
    print(compare([*map(paths.parse, arguments)], output, picture))
    return
  command_line.no_arguments(arguments)
  config = read_config()
  check(config)
  compilation.set_up(keep_programs=True)
  make_folder(output)
  for seed in flags.FLAGS.seed:
    run_seed(config, seed, output)


if __name__ == '__main__':
  read_config = command_line.define_config()
  flags.DEFINE_multi_integer('seed', [0], 'Random seed of a run; may be given several times.')
  flags.DEFINE_string('output', 'runs/beside_torch', "Folder of PyTorch's curves.")
  flags.DEFINE_string('picture', None, 'Draw the curves to this file instead of training.')
  command_line.run(main)
