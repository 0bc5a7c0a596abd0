"""--mode=publish: writes a trained network as a folder that others can load, with a model card."""

import copy
import json
import os
import pathlib

import jax

from mrpose_jax import defaults
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import predictors
from mrpose_jax import tables
from mrpose_jax.runtime import checkpoint
from mrpose_jax.weights import hub
from mrpose_jax.weights import published

# Fields that name files and accounts of the person who trained the network.
_PERSONAL = (
  ('data', 'data_dir'),
  ('data', 'mix'),
  ('eval', 'detections'),
  ('model', 'pretrained'),
  ('train', 'wandb'),
)
# Fields that the model card lists.
_RECIPE = {
  'model': ('network', 'depth', 'width', 'dtype', 'channel_order'),
  'data': ('name', 'image_size', 'codec', 'sigma'),
  'augment': tuple(defaults.get_config().augment),
  'train': (
    *('batch_size', 'epochs', 'optimizer', 'weight_decay', 'learning_rate', 'warmup_epochs'),
    *('schedule', 'drop_epochs', 'drop_factor', 'gradient_clip', 'hard_keypoints', 'ema'),
  ),
}
_CITATION = """@inproceedings{tran2020simple,
  title     = {Simple Multi-Resolution Representation Learning for Human Pose Estimation},
  author    = {Tran, Trung Q. and Nguyen, Giang V. and Kim, Daeyoung},
  booktitle = {International Conference on Pattern Recognition (ICPR)},
  year      = {2020},
  url       = {https://arxiv.org/abs/2004.06366}
}"""


def publish(workdir: str | os.PathLike, output: str | os.PathLike):
  """Writes the network that `load_predictor(workdir)` uses, see `published.write`.

  Fields of the configuration that name files of this machine are reset to their defaults.

  Raises:
    CheckpointError: `workdir` holds no usable checkpoint.
    ConfigError: `workdir` is no run, or the folder holds other files or cannot be written.
  """
  if hub.is_address(output):
    raise errors.ConfigError(
      f'--output={output}: name a folder, and upload it with `hf upload '
      f'{output.removeprefix(hub.PREFIX)} FOLDER`'
    )
  if hub.is_address(workdir) or published.is_published(paths.parse(workdir)):
    raise errors.ConfigError(f'--workdir={workdir}: is published already; name the folder of a run')
  folder = paths.parse_local(output, '--output', written=True).absolute()
  variables, meta, step = predictors.restore(workdir)
  evaluation = checkpoint.locate(workdir)[0] / 'eval' / str(step)
  num_parameters = sum(x.size for x in jax.tree.leaves(variables['params']))
  text = card(folder.name, num_parameters, meta, step, evaluation)
  config = without_personal_fields(meta['config'])
  meta = {'config': config, 'skeleton': meta['skeleton'], 'crops': meta['crops'], 'step': step}
  published.write(folder, jax.device_get(variables), meta, text)
  size = sum((folder / name).stat().st_size for name in published.FILES)
  print(f'{folder}: {size / 1e6:.1f} MB, step {step}')
  print(f'choose the license in {folder / published.CARD}')
  print(f'then `hf upload OWNER/NAME {folder}` shares it as hf://OWNER/NAME')


def without_personal_fields(config: dict) -> dict:
  """A stored configuration whose fields that name files or accounts have their default values."""
  default = defaults.get_config().to_dict()
  config = copy.deepcopy(config)
  for section, fields in config.items():
    for name, value in fields.items() if isinstance(fields, dict) else ():
      if (section, name) in _PERSONAL or _holds_path(value):
        fields[name] = default.get(section, {}).get(name, '')
  return config


def card(name: str, num_parameters: int, meta: dict, step: int, evaluation: pathlib.Path) -> str:
  """The model card: Markdown below YAML that the hub reads.

  Args:
    name: name of the network.
    num_parameters: number of its parameters.
    meta, step: of the checkpoint.
    evaluation: folder of the step's evaluation, which may be missing.
  """
  config, skeleton = meta['config'], meta['skeleton']
  model, data = config['model'], config['data']
  metrics, settings = {}, {}
  if (evaluation / 'metrics.json').exists():
    metrics = paths.read_json(evaluation / 'metrics.json')
    metrics = {m: v for m, v in metrics.items() if tables.per_cent(m, v) is not None}
    if (evaluation / 'settings.json').exists():
      settings = paths.read_json(evaluation / 'settings.json')
  height, width = data['image_size']
  return f"""---
{_front_matter(name, data['name'], metrics)}
---

# {name}

{model['network']} on a ResNet-{model['depth']} with {num_parameters / 1e6:.2f} M parameters and an
input of {height}x{width} pixels. It predicts the keypoints of each person or object in its bounding
box. It is a network of *Simple Multi-Resolution Representation Learning for Human Pose Estimation*
([arXiv:2004.06366](https://arxiv.org/abs/2004.06366)).

## How to load it

With mrpose_jax and its extra `hub` installed:

```python
import mrpose_jax

predictor = mrpose_jax.load_predictor('hf://OWNER/{name}')  # or the path of this folder
people = predictor('photo.jpg', [[20, 10, 60, 90]])  # boxes x, y, width, height -> [N, K, 3]
```

`--config.model.pretrained=hf://OWNER/{name}` starts training from it.

## Keypoints

{', '.join(skeleton['keypoints'])} ({skeleton['name']})

## Data and recipe

{_recipe(config, step, trained=bool(meta['iterator']))}

## Results

{_results(model['network'], data['name'], metrics, settings)}

## License

Not chosen yet: set `license` at the top of this file and name it here. The licences of the training
data may restrict the use of the weights.

## Citation

```bibtex
{_CITATION}
```
"""


def _front_matter(name, data, metrics):
  """YAML; strings and lists are written as JSON, which YAML includes."""
  fields = {
    'library_name': 'mrpose_jax',
    'pipeline_tag': 'keypoint-detection',
    'license': 'unknown',
    'tags': ['jax', 'flax', 'pose-estimation', 'keypoint-detection', 'arxiv:2004.06366'],
  }
  lines = [f'{field}: {json.dumps(value)}' for field, value in fields.items()]
  if metrics:
    result = {
      'task': {'type': 'keypoint-detection'},
      'dataset': {'type': data, 'name': data},
      'metrics': [{'type': metric, 'value': round(v, 6)} for metric, v in metrics.items()],
    }
    lines += ['model-index:', f'- {json.dumps({"name": name, "results": [result]})}']
  return '\n'.join(lines)


def _recipe(config, step, trained):
  if trained:
    mix = [f'{name} (weight {weight:g})' for name, _, weight in config['data']['mix']]
    origin = (
      f'Checkpoint of step {step} of a training run with mrpose_jax on '
      f'{", ".join(mix) or config["data"]["name"]}. Initial weights: '
      f'{_name_of(config["model"]["pretrained"]) or "none"}. `config.json` holds all settings.'
    )
  else:
    origin = 'Weights that were imported. Their training is not known here.'
  rows = [
    [f'`{section}.{field}`', f'`{config[section][field]}`']
    for section, fields in _RECIPE.items()
    if trained or section not in ('augment', 'train')
    for field in fields
  ]
  return f'{origin}\n\n{tables.markdown_lines(["field", "value"], rows)}'


def _results(network, data, metrics, settings):
  if not metrics:
    return 'This checkpoint was not evaluated.'
  boxes = 'the annotated boxes'
  if settings.get('detections'):
    boxes = f'the detected boxes of {_name_of(settings["detections"])}'
  table = tables.markdown_table({network: metrics})
  return f'{table}\n\nMeasured on the validation split of `{data}` with {boxes}.'


def _holds_path(value):
  """Whether a value is a path, or a list that holds one."""
  if isinstance(value, list | tuple):
    return any(map(_holds_path, value))
  return isinstance(value, str) and (value.startswith('~') or '/' in value or '\\' in value)


def _name_of(source):
  """Name of a file or folder without those above it; an address of the hub as it is."""
  return source if hub.is_address(source) else source.replace('\\', '/').rstrip('/').split('/')[-1]
