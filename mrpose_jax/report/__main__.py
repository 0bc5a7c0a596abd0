"""Compares evaluated runs with the paper's tables.

  python -m mrpose_jax.report runs/coco runs/mpii --output=runs/report

This command writes report.md, report.html (one file that contains its pictures) and the pictures
to --output: the paper's figures 5, 6 and 7 for these runs, training curves, errors by keypoint,
confusion of left and right, and the best and worst predicted people. It needs matplotlib:
pip install 'mrpose_jax[report]'.

Exit codes: 0 success, 2 wrong flags or no matplotlib, 4 unusable workdir.
"""

from absl import flags

from mrpose_jax import command_line
from mrpose_jax import errors
from mrpose_jax.report import comparison
from mrpose_jax.runtime import parallel

_OUTPUT = flags.DEFINE_string('output', 'runs/report', 'Folder to write to.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Folder of prepared data [as in the configuration of each run].'
)
_NUM_IMAGES = flags.DEFINE_integer(
  'num_images', 4, 'Number of images in figure 6 and of people in figure 7.', lower_bound=1
)


def main(workdirs: list[str]):
  if not workdirs:
    raise errors.ConfigError(
      'no workdirs: use python -m mrpose_jax.report WORKDIR... --output=FOLDER, where each WORKDIR '
      'is the folder of an evaluated run'
    )
  parallel.start_devices()
  page = comparison.write(workdirs, _OUTPUT.value, _DATA_DIR.value or None, _NUM_IMAGES.value)
  print(f'{page} and {page.with_suffix(".md").name}')


if __name__ == '__main__':
  command_line.run(main)
