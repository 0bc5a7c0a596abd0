"""Measures how much JPEG changes the training crops, and the size of the encoded patches.

  python -m benchmarks.jpeg_quality --source=/data/coco --set=train2017

Every person's patch is encoded at several qualities. Augmented 256x192 crops of the decoded patch
are compared with the same crops of the original image. Patches that were scaled down to the canvas
are listed separately, because the scaling loses more than JPEG.
"""

import collections

import jax
import numpy as np
from absl import flags

from mrpose_jax import command_line
from mrpose_jax import paths
from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.datasets import coco
from mrpose_jax.input_pipeline.datasets import pose_builder
from mrpose_jax.input_pipeline.device import augment
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp
from mrpose_jax.input_pipeline.formats import coco_json
from mrpose_jax.input_pipeline.host import image_files

CROP = (256, 192)
DRAWS = 4  # augmented crops per person
QUALITIES = (90, 94, 95, 96, 97, 98)
SUBSAMPLING = {'4:4:4': 0, '4:2:0': 2}
SIDE = 640  # images are padded to this size, so that one compiled program serves all

_SOURCE = flags.DEFINE_string('source', None, 'Folder of a COCO data set.', required=True)
_SET = flags.DEFINE_string('set', 'train2017', 'Image set of --source.')
_PEOPLE = flags.DEFINE_integer('people', None, 'Number of people to use, from the first [all].')

_affine = jax.jit(warp.affine, static_argnums=2)


def main(arguments):
  command_line.no_arguments(arguments)
  split = coco.find_split(paths.parse_local(_SOURCE.value, '--source'), _SET.value)
  crops = pose_builder.CropSettings()
  people = [
    (entry, person)
    for entry in coco_json.read(split.annotation_file).images
    for person in entry.people
  ][: _PEOPLE.value]
  results = collections.defaultdict(lambda: collections.defaultdict(list))
  file_sizes = collections.defaultdict(list)
  for number, (entry, person) in enumerate(people):
    image = image_files.read(split.image_folder / entry.file_name)
    patch = pose_builder.train_patch(image, person, crops, skeletons.COCO)
    group = 'scaled down' if patch.zoom.min() < 1 else 'not scaled'
    matrices = draw_matrices(person.box, crops, number)
    expected, inside = crops_of(image, matrices)
    from_patch = geometry.compose(matrices, patch_to_image(patch))
    versions = {('no JPEG', ''): patch.pixels}
    for name, subsampling in SUBSAMPLING.items():
      for quality in QUALITIES:
        data = image_files.encode_jpeg(patch.pixels, quality, subsampling)
        file_sizes[quality, name].append(len(data))
        versions[quality, name] = image_files.decode(data, 'patch')
    for key, pixels in versions.items():
      decoded, _ = crops_of(pixels, from_patch)
      results[group][key] += psnr(decoded, expected, inside)

  print(f'{len(people)} people of {split.annotation_file}, {DRAWS} crops each')
  for group, psnr_of in results.items():
    count = len(next(iter(psnr_of.values())))
    print(f'\n{count} crops of patches that were {group}:\n')
    print(
      '| quality | chroma | bytes per person | min dB | 5 % | median | mean | >= 40 dB | >= 45 dB |'
    )
    print('|---' * 9 + '|')
    for (quality, name), values in psnr_of.items():
      low, median = np.percentile(values, [5, 50])
      shares = [100 * np.mean(np.array(values) >= bound) for bound in (40, 45)]
      mean_size = f'{np.mean(file_sizes[quality, name]):.0f}' if name else ''
      print(
        f'| {quality} | {name} | {mean_size} | {min(values):.1f} | {low:.1f} | {median:.1f} | '
        f'{np.mean(values):.1f} | {shares[0]:.1f} % | {shares[1]:.1f} % |'
      )


def draw_matrices(box, crops, seed):
  """Random matrices [DRAWS, 2, 3] from image to crop, with the paper's augmentation."""
  center, size = geometry.box_to_region(box, crops.aspect, crops.padding)
  recipe = augment.Augmentation(rotation=30.0, scale=crops.scale, flip=0.5, draw='uniform')
  drawn = augment.draw(jax.random.key(seed), DRAWS, recipe)
  scale, rotation, flip = map(np.asarray, (drawn.scale, drawn.rotation, drawn.flip))
  center = np.broadcast_to(center, (DRAWS, 2))
  return geometry.region_to_crop(center, size * scale[:, None], CROP, rotation, flip)


def patch_to_image(patch):
  """Matrix [2, 3] from patch pixels to image pixels."""
  shift = patch.origin + 0.5 / patch.zoom - 0.5
  return np.concatenate([np.diag(1 / patch.zoom), shift[:, None]], -1)


def crops_of(pixels, matrices):
  """Returns crops [DRAWS, 256, 192, 3] and a mask of the pixels that lie wholly in the image."""
  height, width = pixels.shape[:2]
  padded = np.zeros((max(SIDE, height), max(SIDE, width), 4), np.uint8)
  padded[:height, :width, :3] = pixels
  padded[:height, :width, 3] = 255
  crops = np.asarray(_affine(np.broadcast_to(padded, (DRAWS, *padded.shape)), matrices, CROP))
  return crops[..., :3], crops[..., 3] > 254.9


def psnr(decoded, expected, inside):
  """PSNR in dB over the pixels inside the image, for each crop that has such pixels."""
  squared_errors = np.square(decoded - expected).mean(-1)
  return [
    10 * np.log10(255**2 / max(squared_error[mask].mean(), 1e-3))
    for squared_error, mask in zip(squared_errors, inside)
    if mask.any()
  ]


if __name__ == '__main__':
  command_line.run(main)
