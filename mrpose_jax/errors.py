"""Errors whose message is written for the person at the command line.

Each says in one line what is wrong, where, and what to do; main.py prints that line and exits with
the class's code. Any other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
  exit_code = 1


class ConfigError(UserError):
  """A configuration or a flag that cannot be run."""

  exit_code = 2


class DataError(UserError):
  """A file of images, annotations, detections or prepared records that cannot be used."""

  exit_code = 3


class CheckpointError(UserError):
  """A workdir, checkpoint or weights file that is missing, damaged or of another network."""

  exit_code = 4


class BucketError(UserError):
  """A bucket of Cloud Storage that cannot be read or written any more."""

  exit_code = 4


class DivergedError(UserError):
  """A loss or a gradient in training is not finite."""

  exit_code = 5


class Stopped(UserError):
  """SIGTERM or SIGINT ended the run after its state was saved."""

  exit_code = 143


def brief(error: Exception) -> str:
  """The first line of an error's message, at most 200 characters."""
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text.splitlines()[0][:200]
