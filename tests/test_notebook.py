"""Runs docs/quickstart.ipynb from top to bottom, with a smaller network and fewer pictures."""

import pathlib

import nbclient
import nbformat
import pytest
from nbformat import v4

NOTEBOOK = pathlib.Path(__file__).parents[1] / 'docs' / 'quickstart.ipynb'
SMALL = 'num_images = 8\nwidth = 4\nepochs = 1'


def is_parameters(cell):
  return 'parameters' in cell.metadata.get('tags', ())


@pytest.fixture(scope='module')
def notebook(tmp_path_factory):
  """The notebook after it ran in an empty folder, its parameters overwritten by `SMALL`."""
  root = NOTEBOOK.parents[1]
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  (index,) = [i for i, cell in enumerate(notebook.cells) if is_parameters(cell)]
  notebook.cells.insert(index + 1, v4.new_code_cell(SMALL))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', str(root))
    patch.setenv('XLA_FLAGS', '')  # one device
    folder = tmp_path_factory.mktemp('notebook')
    nbclient.NotebookClient(
      notebook, timeout=300, kernel_name='python3', resources={'metadata': {'path': str(folder)}}
    ).execute()
  notebook.metadata['folder'] = str(folder)
  return notebook


def printed(notebook, part):
  """What the cell whose source contains `part` printed to stdout."""
  (cell,) = [c for c in notebook.cells if c.cell_type == 'code' and part in c.source]
  return ''.join(o.text for o in cell.outputs if o.get('name') == 'stdout')


def test_curves_and_picture_are_shown(notebook):
  pictures = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', ())
    if 'image/png' in output.get('data', ())
  ]
  assert len(pictures) == 2


def test_exported_files_predict(notebook):
  folder = pathlib.Path(notebook.metadata['folder'], 'runs/notebook')
  assert (folder / 'pose.stablehlo').exists() and (folder / 'pose.onnx').exists()
  told = printed(notebook, 'pose.stablehlo').rpartition('largest difference from the predictor: ')
  assert float(told[2]) < 0.01  # pixels
  assert printed(notebook, 'pose.onnx').endswith('(2, 17, 2) (2, 17)\n')


def test_notebook_in_the_repository_is_small():
  assert NOTEBOOK.stat().st_size < 300_000
