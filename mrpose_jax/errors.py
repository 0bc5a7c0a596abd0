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


class DivergedError(UserError):
  """A loss or a gradient in training is not finite."""

  exit_code = 5


class Stopped(UserError):
  """SIGTERM or SIGINT ended the run after its state was saved."""

  exit_code = 143
