"""Trains the paper's encoder and decoder on another dense task: masks of drawn people.

  python -m examples.masks --config=examples/masks_config.py --output=runs/masks

The paper names image segmentation as future work (section V). Here the encoder and the decoder of
`mrpose_jax.models` get a head for masks and are otherwise used as they are. The pictures and their
masks are drawn (`input_pipeline/datasets/synthetic`); the crops and their augmentation are those of
the pose networks. The command prints the intersection over union (IoU) with the true masks of the
validation people, beside that of two baselines, and writes a picture of some predictions.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax
from absl import flags
from flax import linen as nn
from jax import numpy as jnp
from PIL import Image

from mrpose_jax import command_line
from mrpose_jax import errors
from mrpose_jax import paths
from mrpose_jax import tables
from mrpose_jax import visualize
from mrpose_jax.input_pipeline.datasets import workers
from mrpose_jax.input_pipeline.datasets.synthetic import synthetic_people
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp
from mrpose_jax.input_pipeline.host import cores
from mrpose_jax.models import decoders
from mrpose_jax.models import layers
from mrpose_jax.models import resnet
from mrpose_jax.runtime import compilation

CANVAS = 384  # largest side of a drawn picture, in pixels
AUGMENTATION = augment.Augmentation(rotation=30.0, scale=0.3, flip=0.5, draw='uniform')
THRESHOLDS = np.linspace(0.1, 0.9, 17)  # of the mean mask
NUM_SHOWN = 8  # people in the picture of predictions


class MaskNetwork(nn.Module):
  """Encoder, decoder, and a 1x1 convolution to logits, which are enlarged to the image's size."""

  decoder: str
  depth: int
  width: int

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """[N, H, W, 3] normalised RGB -> [N, H, W] logits, positive inside the mask."""
    norm = functools.partial(layers.BatchNorm, not train)
    encoder = resnet.ResNet(self.depth, self.width, layers.conv, norm, name='encoder')
    decoder = decoders.DECODERS[self.decoder](
      num_keypoints=1,
      deconv_features=4 * self.width,
      deconv=layers.deconv,
      norm=norm,
      up=functools.partial(layers.Up, deconv=layers.deconv, norm=norm),
      head=functools.partial(nn.Conv, features=1, kernel_size=(1, 1)),
      name='decoder',
    )
    logits = decoder(encoder(images))[..., 0]  # [N, H/4, W/4]
    return jax.image.resize(logits, images.shape[:3], 'bilinear')


class Person(NamedTuple):
  """A person in a picture: its `image` uint8 [H, W, 3], the `mask` bool [H, W] of the person's
  visible pixels, and the person's `box` x, y, width, height in pixels."""

  image: np.ndarray
  mask: np.ndarray
  box: np.ndarray


def draw_people(split: str, num_images: int, seed: int) -> list[Person]:
  """Draws the pictures of a split; returns the people of whom at least one pixel is visible."""
  seeds = [synthetic_people.scene_seed(split, seed, i) for i in range(num_images)]
  scenes = workers.in_order(synthetic_people.render_scene, seeds, cores.available())
  return [
    Person(image, person['mask'], np.array(person['box'], np.float32))
    for image, people in scenes
    for person in people
    if person['mask'].any()
  ]


def batch_of(people: list[Person], aspect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Makes arrays of N people.

  Returns:
    canvas uint8 [N, CANVAS, CANVAS, 4], whose channels are RGB and 255 inside the mask, and center
    [N, 2] and size [N, 2] of the regions around the boxes.
  """
  canvas = np.zeros((len(people), CANVAS, CANVAS, 4), np.uint8)
  for pixels, person in zip(canvas, people):
    height, width = person.mask.shape
    pixels[:height, :width, :3] = person.image
    pixels[:height, :width, 3] = 255 * person.mask
  return canvas, *geometry.box_to_region(np.stack([p.box for p in people]), aspect, 1.25)


def crop(image_size, canvas, center, size, drawn: augment.Draw | None = None):
  """Crops pictures and masks by one resampling.

  Args:
    image_size: (height, width) of the crops.
    canvas, center, size: from `batch_of`.
    drawn: from `augment.draw`, or None for no augmentation.

  Returns:
    inputs [N, H, W, 3] normalised RGB, and masks [N, H, W], the fraction of each pixel in 0..1.
  """
  rotation, flip = 0.0, False
  if drawn is not None:
    size, rotation, flip = size * drawn.scale[:, None], drawn.rotation, drawn.flip
  matrix = geometry.region_to_crop(center, size, image_size, rotation, flip)
  crops = warp.affine(canvas, matrix, image_size)
  return augment.normalize(crops[..., :3], 'rgb'), crops[..., 3] / 255


def iou(predicted, target) -> np.ndarray:
  """Intersection over union of bool masks [N, H, W], [N] in 0..1; 1 where both are empty."""
  predicted, target = np.asarray(predicted), np.asarray(target)
  union = (predicted | target).sum((1, 2))
  return np.where(union > 0, (predicted & target).sum((1, 2)) / np.maximum(union, 1), 1.0)


def make_train_step(model: MaskNetwork, optimizer, image_size) -> Callable:
  """Returns the pure function (variables, opt_state, key, batch) -> variables, opt_state, loss."""

  def train_step(variables, opt_state, key, batch):
    drawn = augment.draw(key, len(batch[0]), AUGMENTATION)
    inputs, masks = crop(image_size, *batch, drawn)

    def loss_fn(params):
      logits, updated = model.apply(
        {**variables, 'params': params}, inputs, train=True, mutable=['batch_stats']
      )
      return optax.sigmoid_binary_cross_entropy(logits, masks).mean(), updated

    (loss, updated), gradients = jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])
    updates, opt_state = optimizer.update(gradients, opt_state)
    params = optax.apply_updates(variables['params'], updates)
    return {'params': params, **updated}, opt_state, loss

  return train_step


def train(config: ml_collections.ConfigDict, people: list[Person]) -> tuple[dict, list[float]]:
  """Trains on `people`; returns the network's variables and the loss of each step."""
  model, image_size = model_of(config), tuple(config.image_size)
  optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
  key, images = jax.random.key(config.seed), jnp.zeros((1, *image_size, 3))
  variables = jax.jit(functools.partial(model.init, train=False))(key, images)
  opt_state = jax.jit(optimizer.init)(variables['params'])
  train_step = compilation.jit(make_train_step(model, optimizer, image_size), donate_argnums=(0, 1))
  order, losses = np.random.default_rng(config.seed), []
  for step in range(config.steps):
    rows = order.integers(len(people), size=config.batch_size)
    batch = batch_of([people[row] for row in rows], image_size[1] / image_size[0])
    step_key = jax.random.fold_in(key, step)
    variables, opt_state, loss = train_step(variables, opt_state, step_key, batch)
    losses.append(loss)
    if (step + 1) % 100 == 0:
      print(f'step {step + 1}/{config.steps}, loss {np.mean(losses[-100:]):.4f}', flush=True)
  return variables, [float(loss) for loss in losses]


def apply_to_people(function: Callable, people: list[Person], config: ml_collections.ConfigDict):
  """Applies function(inputs, masks) to the crops of all people, batch by batch; concatenates."""
  image_size, size = tuple(config.image_size), config.batch_size
  compiled = compilation.jit(lambda *batch: function(*crop(image_size, *batch)))
  results = []
  for start in range(0, len(people), size):
    # The last batch is completed with the last person, so that one program is compiled.
    batch = [people[min(row, len(people) - 1)] for row in range(start, start + size)]
    results.append(compiled(*batch_of(batch, image_size[1] / image_size[0])))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(people)], *results)


def evaluate(config, variables, train_people, people) -> tuple[dict[str, float], np.ndarray]:
  """Returns the mean IoU of the network and of two baselines by name, and a picture.

  The box is the prediction that every pixel in the box is the person's. The mean mask is that of
  the training people, cut off at the threshold that is best for them.
  """
  model = model_of(config)

  def predict(inputs, masks):
    return inputs, masks > 0.5, model.apply(variables, inputs, train=False) > 0

  inputs, target, predicted = apply_to_people(predict, people, config)
  _, train_target = apply_to_people(lambda *crops: crops, train_people, config)
  train_target = train_target > 0.5
  mean = train_target.mean(0, keepdims=True)
  best = max(THRESHOLDS, key=lambda threshold: iou(mean > threshold, train_target).mean())
  _, boxes = apply_to_people(lambda *crops: crops, [fill_box(person) for person in people], config)
  masks = {'box': boxes > 0.5, 'mean mask': mean > best, config.decoder: predicted}
  scores = {name: iou(mask, target) for name, mask in masks.items()}
  pixels = augment.to_pixels(inputs[:NUM_SHOWN], 'rgb')
  picture = draw_masks(pixels, target, predicted, scores[config.decoder])
  return {name: float(score.mean()) for name, score in scores.items()}, picture


def fill_box(person: Person) -> Person:
  """The person with the whole box as mask."""
  x, y, width, height = person.box.astype(int)
  mask = np.zeros_like(person.mask)
  mask[y : y + height, x : x + width] = True
  return person._replace(mask=mask)


def draw_masks(pixels, target, predicted, scores) -> np.ndarray:
  """Draws crops uint8 [N, H, W, 3] in a row, and below them what lies in the two masks of each.

  The captions of the predicted masks give their IoU.
  """
  cut = [np.where(mask[: len(pixels), ..., None], pixels, 255) for mask in (target, predicted)]
  images = [image for row in (pixels, *cut) for image in row.astype(np.uint8)]
  captions = ['crop'] * len(pixels) + ['true mask'] * len(pixels)
  captions += [f'predicted {score:.2f}' for score in scores[: len(pixels)]]
  return visualize.contact_sheet(images, len(pixels), pixels.shape[1:3], captions)


def model_of(config: ml_collections.ConfigDict) -> MaskNetwork:
  """Builds the network that a configuration describes."""
  return MaskNetwork(config.decoder, config.depth, config.width)


def check(config: ml_collections.ConfigDict):
  """Raises ConfigError for values that cannot work."""
  known = {'decoder': decoders.DECODERS, 'depth': resnet.STAGES}
  for name, values in known.items():
    if config[name] not in values:
      raise errors.ConfigError(f'{name}={config[name]}: use one of {", ".join(map(str, values))}')
  for name in ('width', 'train_images', 'validation_images', 'batch_size', 'steps'):
    if config[name] < 1:
      raise errors.ConfigError(f'{name}={config[name]}: must be positive')
  if any(n < 32 or n % 32 for n in config.image_size):
    raise errors.ConfigError(f'image_size={config.image_size}: give multiples of 32')


def main(arguments):
  command_line.no_arguments(arguments)
  config = read_config()
  output = paths.parse_local(flags.FLAGS.output, '--output', written=True)
  check(config)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.ConfigError(f'--output={output}: cannot be created ({error.strerror})') from error
  compilation.set_up(keep_programs=True)
  train_people = draw_people('train', config.train_images, config.seed)
  people = draw_people('validation', config.validation_images, config.seed)
  print(f'{len(train_people)} people to train on, {len(people)} to evaluate', flush=True)
  variables, _ = train(config, train_people)
  scores, picture = evaluate(config, variables, train_people, people)
  rows = [[name, f'{100 * score:.1f}'] for name, score in scores.items()]
  print(tables.markdown_lines(['', 'IoU'], rows))
  Image.fromarray(picture).save(output / 'masks.png')
  print(f'predictions: {output / "masks.png"}')


if __name__ == '__main__':
  read_config = command_line.define_config()
  flags.DEFINE_string('output', 'runs/masks', 'Folder for the picture.')
  command_line.run(main)
