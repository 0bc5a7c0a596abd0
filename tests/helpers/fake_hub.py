"""A server in place of the Hugging Face hub, for the requests of `snapshot_download`."""

import contextlib
import hashlib
import http.server
import json
import re
import threading


class Hub:
  """The repositories of a fake hub: (name, revision) -> folder; `requests` lists what was asked."""

  def __init__(self):
    self.folders = {}
    self.requests = []
    self.address = ''

  def commit(self, name, revision):
    """A commit hash for the current contents of a repository."""
    folder = self.folders[name, revision]
    contents = b''.join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())
    return hashlib.sha1(contents).hexdigest()

  def find(self, name, revision):
    """(commit, folder) of a revision, which may be a commit; None if there is none."""
    for (known, label), folder in self.folders.items():
      if known == name and revision in (label, self.commit(name, label)):
        return self.commit(name, label), folder
    return None


@contextlib.contextmanager
def serve():
  """Context of a running Hub; its `address` is for HF_ENDPOINT."""
  hub = Hub()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.answer(with_body=True)

    def do_HEAD(self):
      self.answer(with_body=False)

    def answer(self, with_body):
      hub.requests.append(f'{self.command} {self.path}')
      path = self.path.partition('?')[0]
      api = re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?', path)
      file = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/([^/]+)', path)
      name, revision = (api.group(1, 3) if api else file.group(1, 2)) if api or file else ('', '')
      found = hub.find(name, revision or 'main')
      if not found:
        known = any(name == other for other, _ in hub.folders)
        self.send(404, {'X-Error-Code': 'RevisionNotFound' if known else 'RepoNotFound'}, b'')
        return
      commit, folder = found
      files = sorted(path for path in folder.iterdir() if path.is_file())
      if file:
        content = (folder / file.group(3)).read_bytes()
        headers = {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': commit}
        self.send(200, headers, content if with_body else b'', len(content))
      elif api.group(2) == 'tree':
        entries = [
          {
            'type': 'file',
            'path': path.name,
            'size': path.stat().st_size,
            'oid': hashlib.sha1(path.read_bytes()).hexdigest(),
          }
          for path in files
        ]
        self.send(200, {'Content-Type': 'application/json'}, json.dumps(entries).encode())
      else:
        siblings = [{'rfilename': path.name} for path in files]
        info = {'id': name, 'modelId': name, 'sha': commit, 'siblings': siblings}
        self.send(200, {'Content-Type': 'application/json'}, json.dumps(info).encode())

    def send(self, code, headers, content, length=None):
      self.send_response(code)
      for header, value in headers.items():
        self.send_header(header, value)
      self.send_header('Content-Length', str(len(content) if length is None else length))
      self.end_headers()
      self.wfile.write(content)

    def log_message(self, *arguments):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  hub.address = f'http://127.0.0.1:{server.server_port}'
  try:
    yield hub
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
