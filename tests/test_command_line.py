"""What commands do when nobody reads their output, or when it cannot be written."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from mrpose_jax import command_line

ROOT = pathlib.Path(__file__).parents[1]
PRINTS_FOR_EVER = """
from mrpose_jax import command_line

def main(arguments):
  while True:
    print('a line of output')

command_line.run(main)
"""
ANOTHER_PIPE = """
import os
from mrpose_jax import command_line

def main(arguments):
  read, write = os.pipe()
  os.close(read)
  os.write(write, b'x')

command_line.run(main)
"""


CANNOT_WRITE = """
import os
from mrpose_jax import command_line

def main(arguments):
  raise OSError(int(arguments[0]), os.strerror(int(arguments[0])), 'run/eval')

command_line.run(main)
"""


def call(arguments, stdout):
  return subprocess.run(
    [sys.executable, *arguments], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True
  )


@pytest.fixture
def left():
  """Descriptor of a pipe whose reader has left."""
  read, write = os.pipe()
  os.close(read)
  yield write
  os.close(write)


@pytest.mark.parametrize(
  'arguments',
  [
    ('main.py', '--help'),
    ('main.py', '--mode=show', '--config=configs/coco.py'),
    ('-m', 'mrpose_jax.input_pipeline.prepare', '--help'),
    ('-m', 'mrpose_jax.report', '--help'),
    ('-m', 'examples.mice', '--help'),
    ('-c', PRINTS_FOR_EVER),
  ],
  ids=lambda arguments: ' '.join(arguments[:2]) if arguments[0] != '-c' else 'prints for ever',
)
def test_a_reader_that_left_ends_the_command_without_a_message(arguments, left):
  done = call(arguments, left)
  assert (done.returncode, done.stderr) == (command_line.READER_LEFT, '')


def test_an_error_keeps_its_line_and_its_exit_code(left):
  done = call(('main.py', '--mode=show'), left)
  assert done.returncode == 2
  assert done.stderr.startswith('ConfigError: --config is missing')


def test_another_broken_pipe_is_not_taken_for_standard_output():
  done = call(('-c', ANOTHER_PIPE), subprocess.DEVNULL)
  assert done.returncode == 1 and 'BrokenPipeError' in done.stderr


@pytest.mark.skipif(not pathlib.Path('/dev/full').exists(), reason='/dev/full is not here')
@pytest.mark.parametrize('argument', ['--help', '--mode=show'])
def test_a_full_disk_under_standard_output_is_one_line(argument):
  with open('/dev/full', 'w') as full:
    done = call(('main.py', argument, '--config=configs/coco.py'), full)
  assert done.returncode == 4
  assert done.stderr == 'CheckpointError: writing: No space left on device\n'


@pytest.mark.parametrize(
  ('number', 'words'), [(errno.EROFS, 'Read-only file system'), (errno.EACCES, 'Permission denied')]
)
def test_a_folder_that_cannot_be_written_is_one_line(number, words):
  done = call(('-c', CANNOT_WRITE, str(number)), subprocess.DEVNULL)
  assert (done.returncode, done.stderr) == (4, f'CheckpointError: run/eval: {words}\n')
