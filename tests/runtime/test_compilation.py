import os
import types

import pytest

from mrpose_jax.runtime import compilation


@pytest.mark.parametrize(
  ('cache_home', 'home', 'expected'),
  [
    ('', '/home/me', '/home/me/.cache/mrpose_jax/compiled'),
    ('/cache', '/home/me', '/cache/mrpose_jax/compiled'),
    ('/cache', None, '/cache/mrpose_jax/compiled'),
    ('', None, None),  # neither HOME nor an entry in /etc/passwd
  ],
)
def test_compiled_programs_are_kept_where_there_is_a_home(monkeypatch, cache_home, home, expected):
  settings = {}
  config = types.SimpleNamespace(jax_compilation_cache_dir=None, update=settings.__setitem__)
  monkeypatch.setattr(compilation, 'jax', types.SimpleNamespace(config=config))
  monkeypatch.setattr(compilation, 'set_up_memory', lambda: None)
  monkeypatch.setenv('XDG_CACHE_HOME', cache_home)
  monkeypatch.setattr(os.path, 'expanduser', lambda path: path.replace('~', home or '~'))
  compilation.set_up(keep_programs=True)
  assert settings.get('jax_compilation_cache_dir') == expected
