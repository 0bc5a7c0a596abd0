"""The exported file: its platforms, its use without this project, and equality to Predictor."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import mrpose_jax
from mrpose_jax import errors
from mrpose_jax.inference import export
from tests import test_predict
from tests.helpers import tiny_run

# How a user with only the file and JAX runs it, without this project.
READ = """
import pathlib, sys
import jax
import numpy as np
function = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
data = np.load(sys.argv[2])
np.save(sys.argv[3], function.call(data['images'], data['boxes']))
assert not any(name.startswith(('mrpose_jax', 'input_pipeline', 'flax')) for name in sys.modules)
"""


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.write(tmp_path_factory.mktemp('run'), 'mrfeanet2')


@pytest.fixture(scope='module')
def file(workdir):
  file = workdir / 'exported' / 'pose.stablehlo'
  export.export(workdir, file)
  return file


def test_equals_the_predictor_without_the_project(workdir, file, tmp_path):
  predictor = mrpose_jax.load_predictor(workdir)
  images = np.stack([test_predict.picture(n) for n in range(3)])
  boxes = np.stack([test_predict.BOXES[:2], test_predict.BOXES[1:], test_predict.BOXES[:2] * 0.7])
  np.savez(tmp_path / 'data.npz', images=images, boxes=boxes)
  subprocess.run(
    [sys.executable, '-c', READ, file, tmp_path / 'data.npz', tmp_path / 'people.npy'],
    check=True,
    cwd=tmp_path,
  )
  people = np.load(tmp_path / 'people.npy')
  expected = np.stack(predictor(list(images), list(boxes)))
  assert people.shape == (3, 2, 17, 3)
  np.testing.assert_allclose(people, expected, atol=1e-4)


def test_platforms_and_symbolic_shapes(file):
  exported = jax.export.deserialize(bytearray(file.read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  images, boxes = exported.in_avals
  assert (str(images.shape), images.dtype) == ('(n, h, w, 3)', np.uint8)
  assert (str(boxes.shape), boxes.dtype) == ('(n, m, 4)', np.float32)
  assert str(exported.out_avals[0].shape) == '(n, m, 17, 3)'


def test_says_what_it_wrote(workdir, tmp_path, capsys):
  export.export(workdir, tmp_path / 'a' / 'pose')  # a StableHLO program by default
  output = capsys.readouterr().out
  assert 'step 0, float32, cpu, cuda, tpu' in output
  assert 'keypoints: nose, left_eye' in output
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.ConfigError, match=r'--output=.*x\.stablehlo: cannot be written'):
    export.export(workdir, pathlib.Path(tmp_path / 'file' / 'x.stablehlo'))
