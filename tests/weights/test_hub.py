"""Downloads from a server in place of the Hugging Face hub, and from the cache without it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mrpose_jax import errors
from mrpose_jax import predictors
from mrpose_jax import skeletons
from mrpose_jax.weights import hub
from mrpose_jax.weights import publishing
from tests.helpers import fake_hub
from tests.helpers import tiny_run

# Prints a JSON list with the kernel of each network's head, or the error, and with the kernel that
# training would start from.
CODE = """
import json, sys
import mrpose_jax
from mrpose_jax import errors, predictors
from mrpose_jax.weights import importing
results = []
for source in sys.argv[1:]:
  try:
    variables, meta, step = predictors.restore(source)
    results.append(variables['params']['decoder']['head']['kernel'].ravel().tolist())
  except errors.CheckpointError as error:
    results.append(str(error))
model = mrpose_jax.create_model('simple_baseline', 18, width=4)
variables = importing.pretrained(sys.argv[1], model, 'rgb')
results.append(variables['params']['decoder']['head']['kernel'].ravel().tolist())
print(json.dumps(results))
"""


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
  """What other processes restored from a fake hub, from the cache, and with no hub at all.

  The network owner/net has a branch main and a tag v1, which are told apart by their heads.
  """
  folder = tmp_path_factory.mktemp('hub')
  workdir = tiny_run.write(folder / 'run')
  publishing.publish(workdir, folder / 'main')
  publishing.publish(tiny_run.write(folder / 'other', skeleton=skeletons.MPII), folder / 'v1')
  heads = {
    name: predictors.restore(folder / name)[0]['params']['decoder']['head']['kernel']
    for name in ('main', 'v1')
  }
  foreign = folder / 'foreign'
  foreign.mkdir()
  (foreign / 'config.json').write_text('{"model_type": "vitpose"}')
  partial = shutil.copytree(folder / 'main', folder / 'partial')
  (partial / 'model.safetensors').unlink()

  def restore(address, *sources, **environment):
    environment = (
      os.environ | {'HF_ENDPOINT': address, 'HF_HOME': str(folder / 'home')} | environment
    )
    done = subprocess.run(
      [sys.executable, '-c', CODE, *sources], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

  with fake_hub.serve() as server:
    server.folders = {
      ('owner/net', 'main'): folder / 'main',
      ('owner/net', 'v1'): folder / 'v1',
      ('owner/foreign', 'main'): foreign,
      ('owner/partial', 'main'): partial,
    }
    online = restore(
      server.address,
      *('hf://owner/net', 'hf://owner/net@v1', 'hf://owner/net@v2', 'hf://owner/none'),
      *('hf://owner/foreign', 'hf://owner/partial', 'hf://owner/net'),
    )
    requests = len(server.requests)
    offline = restore(
      *(server.address, 'hf://owner/net', 'hf://owner/net@v1', 'hf://owner/none'),
      HF_HUB_OFFLINE='1',
    )
    assert len(server.requests) == requests  # nothing was asked
    address = server.address
  unreachable = restore(address, 'hf://owner/net', 'hf://owner/none')
  return {
    'heads': {name: np.asarray(head).ravel().tolist() for name, head in heads.items()},
    'online': online,
    'offline': offline,
    'requests': server.requests,
    'unreachable': unreachable,
  }


def test_downloads_to_the_bit(networks):
  heads = networks['heads']
  assert heads['main'] != heads['v1']
  assert networks['online'][:2] == [heads['main'], heads['v1']]


def test_initial_weights(networks):
  for results in ('online', 'offline', 'unreachable'):
    assert networks[results][-1] == networks['heads']['main']


def test_what_the_hub_does_not_have_is_one_line(networks):
  no_revision, no_repository, foreign, partial = networks['online'][2:6]
  assert no_revision == 'hf://owner/net@v2: has no revision v2'
  assert no_repository.startswith('hf://owner/none: there is no such repository, or it is private')
  assert foreign == 'hf://owner/foreign: holds no network of mrpose_jax'
  assert 'model.safetensors: cannot be read' in partial
  assert not any('\n' in text for text in (no_revision, no_repository, foreign, partial))


def test_offline_from_the_cache(networks):
  heads = networks['heads']
  assert networks['offline'][:2] == [heads['main'], heads['v1']]
  assert networks['offline'][2] == (
    'hf://owner/none: is not in the cache, and the hub cannot be reached'
  )


def test_the_cache_is_used_again(networks):
  assert networks['online'][6] == networks['heads']['main']
  downloads = [request for request in networks['requests'] if request.startswith('GET /owner/net/')]
  assert len(downloads) == len(set(downloads)) == 6  # three files of each revision, once
  assert networks['unreachable'][0] == networks['heads']['main']
  assert 'is not in the cache, and the hub cannot be reached' in networks['unreachable'][1]


@pytest.mark.parametrize('address', ['hf://', 'hf://net', 'hf://a/b/c', 'hf://a/b@', 'hf://a/b c'])
def test_malformed_addresses(address):
  with pytest.raises(errors.CheckpointError, match='write hf://owner/name'):
    hub.download(address)


def test_addresses():
  assert hub.is_address('hf://owner/name@main')
  assert not hub.is_address('runs/hf')


def test_the_package_is_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(errors.CheckpointError, match=r"pip install 'mrpose_jax\[hub\]'"):
    hub.download('hf://owner/name')
