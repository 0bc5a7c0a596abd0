"""The report: the paper's tables, their comparison with runs, the page and its figures."""

import base64
import html.parser
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import figure
from PIL import Image

from configs import coco
from configs import mpii
from mrpose_jax import errors
from mrpose_jax import predict
from mrpose_jax import predictors
from mrpose_jax import tables
from mrpose_jax import train
from mrpose_jax.report import comparison
from mrpose_jax.report import paper_figures
from mrpose_jax.report import paper_tables
from mrpose_jax.report import run_figures
from tests.helpers import tiny_people

ROOT = pathlib.Path(__file__).parents[2]
BROWSER = shutil.which('chromium') or shutil.which('google-chrome')

# Metrics of an invented run.
OURS = {'AP': 0.712, 'AP50': 0.8844, 'AP75': 0.7836, 'APM': -1.0, 'APL': 0.78, 'AR': 0.768}


def fake_run(folder, config, steps):
  """Writes a workdir of `config` without checkpoints; steps: {step: metrics}."""
  folder.mkdir()
  config.data.data_dir = str(folder / 'no_data')
  (folder / 'config.json').write_text(json.dumps(config.to_dict()))
  for step, metrics in steps.items():
    (folder / 'eval' / str(step)).mkdir(parents=True)
    (folder / 'eval' / str(step) / 'metrics.json').write_text(json.dumps(metrics))
  return folder


class Page(html.parser.HTMLParser):
  """Parses a page: its pictures, the rows of its tables, and the elements left open."""

  def __init__(self, text):
    super().__init__()
    self.open, self.pictures, self.rows = [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    if tag == 'img':
      kind, data = dict(attrs)['src'].split(',')
      self.pictures.append(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
      assert kind == f'data:{self.pictures[-1].get_format_mimetype()};base64'
    else:  # the page must not load other files
      assert not {'src', 'href', 'srcset', 'style'} & dict(attrs).keys()
      assert tag not in ('link', 'script', 'iframe', 'object')
    if tag not in ('img', 'meta'):
      self.open.append(tag)
    if tag == 'tr':
      self.rows.append([])

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] == 'style':
      assert 'url(' not in data and '@import' not in data
    if self.open and self.open[-1] in ('td', 'th'):
      self.rows[-1].append(data)


def test_the_papers_numbers():
  val, test_dev, mpii_rows = (
    table.rows for table in (paper_tables.COCO_VAL, paper_tables.COCO_TEST_DEV, paper_tables.MPII)
  )
  assert (len(val), len(test_dev), len(mpii_rows)) == (9, 9, 15)
  for table in (paper_tables.COCO_VAL, paper_tables.COCO_TEST_DEV, paper_tables.MPII):
    assert all(len(row) == len(table.columns) for row in table.rows.values())
  assert paper_tables.COCO_VAL.metrics('mrfeanet2', 152)['AP'] == 72.6
  assert paper_tables.COCO_VAL.metrics('mrheatnet1', 50)['ARL'] == 82.4
  assert val['simple_baseline', 101] == (71.4, 89.3, 79.3, 68.1, 78.1, 77.1, 93.4, 84.0, 73.0, 83.2)
  assert paper_tables.COCO_TEST_DEV.metrics('mrfeanet2', 50)['AP'] == 70.4
  assert paper_tables.COCO_TEST_DEV.metrics('mrheatnet2', 50)['ARL'] == 81.2
  assert mpii_rows['mrfeanet1', 152] == (97.2, 95.9, 90.2, 85.3, 89.3, 85.4, 82.0, 89.8)
  assert paper_tables.MPII.metrics('simple_baseline', 50)['Ankle'] == 79.6


@pytest.mark.parametrize('config', [coco, mpii])
def test_every_row_of_the_paper_is_a_configuration(config):
  rows = (
    paper_tables.MPII.rows
    if config is mpii
    else {**paper_tables.COCO_VAL.rows, **paper_tables.COCO_TEST_DEV.rows}
  )
  for network, depth in rows:
    row_config = config.get_config(f'{network},depth={depth}')
    assert (row_config.model.network, row_config.model.depth) == (network, depth)
    assert predict.model_of(row_config, num_keypoints=17).depth == depth


def test_markdown_table():
  table = tables.markdown_table({'a': {'AP': 0.5, 'APM': -1.0}, 'b': {'AP': 0.25, 'APM': 1.0}})
  assert table == '| | AP | APM |\n|---|---|---|\n| a | 50.0 | - |\n| b | 25.0 | 100.0 |'
  assert tables.one_line({'Mean': 88.46, 'Mean@0.1': float('nan')}) == 'Mean 88.5, Mean@0.1 -'


def test_differences_to_table_1(tmp_path):
  """The paper's mrfeanet2 R50: AP 70.9, AP50 88.8, AP75 78.3, APM 67.2, APL 78.1, AR 76.8."""
  steps = {9: {**OURS, 'AP': 0.5}, 10: OURS, 11: {**OURS, 'AP': float('nan')}}
  run = comparison.read_run(fake_run(tmp_path / 'a', coco.get_config('mrfeanet2'), steps))
  header, (ours, paper, difference) = comparison.make_table([run])
  assert header[-6:] == ['AP', 'AP50', 'AP75', 'APM', 'APL', 'AR']
  assert ours.cells[:5] == ['a', 'mrfeanet2', '50', '10', 'ours']
  assert ours.cells[-6:] == ['71.2', '88.4', '78.4', '-', '78.0', '76.8']
  assert paper.cells[-7:] == ['paper, table I', '70.9', '88.8', '78.3', '67.2', '78.1', '76.8']
  assert difference.cells[-6:] == ['+0.3', '-0.4', '+0.1', '-', '-0.1', '+0.0']


def test_one_checkpoints_own_folder_names_the_step(tmp_path):
  steps = {9: {**OURS, 'AP': 0.5}, 10: OURS}
  workdir = fake_run(tmp_path / 'a', coco.get_config('mrfeanet2'), steps)
  assert comparison.read_run(workdir / 'checkpoints' / '9').step == 9


def test_differences_to_table_3_and_columns_that_some_runs_lack(tmp_path):
  configs = [mpii.get_config(f'mrfeanet1,depth={depth}') for depth in (152, 101)]
  metrics = [{'Head': 97.0, 'Mean': 90.0, 'PCK@0.2': 80.0}, {'Mean': 88.06}]
  runs = [
    comparison.read_run(fake_run(tmp_path / str(i), config, {1: metrics[i]}))
    for i, config in enumerate(configs)
  ]
  header, rows = comparison.make_table(runs)
  assert header[-3:] == ['Head', 'Mean', 'PCK@0.2']
  assert [row.cells[-3:] for row in rows] == [
    ['97.0', '90.0', '80.0'],
    ['97.2', '89.8', '-'],
    ['-0.2', '+0.2', '-'],
    ['-', '88.1', '-'],
    ['96.8', '89.4', '-'],
    ['-', '-1.3', '-'],
  ]


def test_what_is_not_the_papers_is_not_compared(tmp_path):
  def rows_of(name, config, metrics):
    run = comparison.read_run(fake_run(tmp_path / name, config, {1: metrics}))
    return [(row.kind, row.cells[4]) for row in comparison.make_table([run])[1]]

  own = coco.get_config('mrheatnet1,depth=101')
  own.data.name = 'synthetic_people'
  assert rows_of('data', own, OURS) == [('ours', 'ours'), ('paper', 'paper, COCO val2017, R50')]
  small = coco.get_config('mrfeanet2,depth=152')
  small.data.image_size = (128, 96)
  small.eval.detections = 'boxes.json'
  rows = rows_of('size', small, OURS)
  assert rows == [('ours', 'ours, detected boxes'), ('paper', 'paper, COCO val2017, R152')]
  # The evaluation of the step tells which boxes it used, not the run's configuration.
  (tmp_path / 'size' / 'eval' / '1' / 'settings.json').write_text('{"detections": ""}')
  assert not comparison.read_run(tmp_path / 'size').detected_boxes
  narrow = mpii.get_config('mrfeanet2')
  narrow.model.width = 32
  assert rows_of('width', narrow, {'Mean': 1.0})[1:] == [('paper', 'paper, MPII, R50')]
  assert rows_of('metric', mpii.get_config(), {'PCK@0.2': 1.0}) == [('ours', 'ours')]


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda run: (run / 'config.json').unlink(), 'no config.json here'),
    (lambda run: (run / 'config.json').write_text('{'), 'cannot be read'),
    (lambda run: (run / 'config.json').write_text('[]'), 'not the configuration of a run'),
    (lambda run: (run / 'config.json').write_text('{"model": {}}'), 'not the configuration'),
    (lambda run: (run / 'eval/1/metrics.json').unlink(), 'holds no metrics'),
    (lambda run: (run / 'eval/1/metrics.json').write_text('{}'), 'on a validation split'),
    (lambda run: (run / 'eval/1/metrics.json').write_text('{"AP": "high"}'), 'not the metrics'),
    (lambda run: (run / 'eval/1/metrics.json').write_text('{"loss": 1}'), 'not the metrics'),
  ],
)
def test_workdirs_that_cannot_be_used(tmp_path, damage, message):
  run = fake_run(tmp_path / 'run', coco.get_config(), {1: OURS})
  damage(run)
  with pytest.raises(errors.CheckpointError, match=message) as caught:
    comparison.write([run], tmp_path / 'report')
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'report').exists()


def test_what_is_no_run_is_left_out_of_several(tmp_path, caplog):
  run = fake_run(tmp_path / 'run', coco.get_config(), {1: OURS})
  (tmp_path / 'data').mkdir()
  (tmp_path / 'notes.txt').write_text('')
  runs = comparison.read_runs(sorted(tmp_path.iterdir()))
  assert [read.workdir for read in runs] == [run]
  assert [line.split(':')[0] for line in caplog.messages] == ['left out', 'left out']
  with pytest.raises(errors.CheckpointError, match=r'no config\.json here'):
    comparison.read_runs([tmp_path / 'data', tmp_path / 'notes.txt'])
  with pytest.raises(errors.CheckpointError, match='absent'):
    comparison.read_runs([run, tmp_path / 'absent'])


def test_no_matplotlib(tmp_path, monkeypatch):
  monkeypatch.setattr(paper_figures.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.ConfigError, match=r"pip install 'mrpose_jax\[report\]'"):
    comparison.write([], tmp_path)


def test_a_report_without_data_or_checkpoints(tmp_path):
  folders = [
    fake_run(tmp_path / 'a|b<c>', mpii.get_config('mrfeanet1,depth=101'), {1: {'Mean': 89.0}}),
    fake_run(tmp_path / 'deep', mpii.get_config('mrfeanet1,depth=152'), {1: {'Mean': 90.0}}),
    fake_run(tmp_path / 'nothing', coco.get_config(), {1: {'AP': -1.0}}),
  ]
  page = comparison.write(folders, tmp_path / 'report')
  parsed = Page(page.read_text())
  assert not parsed.open
  names = [row[0] for row in parsed.rows if row and row[0] in ('nothing', 'a|b<c>', 'deep')]
  assert names == ['nothing', 'a|b<c>', 'deep']  # COCO first, as in the paper
  files = ['figure5_coco_256x192.png', 'figure5_mpii_256x256.png']
  assert sorted(file.name for file in page.parent.glob('*.png')) == files
  assert [picture.format for picture in parsed.pictures] == ['PNG', 'PNG']
  markdown = (page.parent / 'report.md').read_text()
  assert '| a\\|b<c> | mrfeanet1 | 101 | 1 | ours | 89.0 |' in markdown
  assert all(f']({file})' in markdown for file in files)
  assert markdown.count('Figures 6 and 7 are left out') == 2
  assert 'mrpose_jax.input_pipeline.prepare --dataset=mpii' in markdown


def test_figure_5_without_a_number(tmp_path):
  config = coco.get_config()
  config.data.name = 'synthetic_people'
  page = comparison.write(
    [fake_run(tmp_path / 'run', config, {1: {'AP': -1.0}})], tmp_path / 'report'
  )
  assert 'Figure 5 is left out: no run has a finite AP' in page.read_text()


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Workdir of a short training run."""
  folder = tmp_path_factory.mktemp('report') / 'tiny'
  train.train_and_evaluate(tiny_people.config(epochs=1.0), folder)
  return folder


def test_the_command_draws_a_trained_run(workdir, tmp_path):
  def call(*arguments):
    command = [sys.executable, '-m', 'mrpose_jax.report', *map(str, arguments)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run(
      command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

  # The second run has no checkpoint.
  untrained = fake_run(tmp_path / 'gone', tiny_people.config(), {7: {'AP': 0.0, 'AR': 0.0}})
  done = call(workdir, untrained, '--output=out', '--num_images=2', f'--data_dir={workdir}/absent')
  assert done.returncode == 0, done.stderr
  assert 'Figures 6 and 7 are left out' in (tmp_path / 'out' / 'report.md').read_text()

  options = ('--num_images=2', f'--data_dir={tiny_people.data_dir()}')
  done = call(workdir, untrained, '--output=out', *options)
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'{tmp_path}/out/report.html and report.md\n'
  page = tmp_path / 'out' / 'report.html'
  parsed = Page(page.read_text())
  assert not parsed.open
  names = ('figure5', 'figure6', 'figure7', 'curves', 'keypoints', 'sides', 'worst', 'best', 'pck')
  for name, picture in zip(names, parsed.pictures, strict=True):
    suffix = 'jpg' if picture.format == 'JPEG' else 'png'
    with Image.open(tmp_path / 'out' / f'{name}_coco_128x96.{suffix}') as file:
      np.testing.assert_array_equal(np.asarray(file), np.asarray(picture))
  in_chromium(page, tmp_path)
  markdown = (tmp_path / 'out' / 'report.md').read_text()
  assert 'are without simple_baseline R18, width 4' in markdown
  assert 'cannot be compared' in markdown
  assert 'Errors by keypoint are without gone: no errors.json' in markdown

  for arguments, code, message in (
    (['--output=out'], 2, 'no workdirs'),
    ([workdir, '--output=out', '--num_images=0'], 2, 'num_images'),
    (['absent', '--output=out'], 4, 'absent: no config.json here'),
  ):
    done = call(*arguments)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.skipif(not BROWSER, reason='no Chromium is installed')
def test_what_the_console_says_is_noticed(tmp_path):
  page = tmp_path / 'page.html'
  page.write_text('<script>absent();</script>')
  with pytest.raises(AssertionError):
    in_chromium(page, tmp_path)


def in_chromium(page, folder):
  """Shows the page in Chromium, if installed, and checks that the console stays empty."""
  if not BROWSER:
    return
  options = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--hide-scrollbars')
  done = subprocess.run(
    [
      *(BROWSER, *options, '--enable-logging=stderr', '--window-size=1400,3000'),
      *(f'--user-data-dir={folder}/browser', f'--screenshot={folder}/page.png', page.as_uri()),
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  assert 'CONSOLE' not in done.stderr
  with Image.open(folder / 'page.png') as picture:
    shown = np.asarray(picture.convert('RGB'))
  assert shown.shape == (3000, 1400, 3)
  assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 1000  # pictures, not an error page


def test_curves_of_a_run(tmp_path):
  lines = [
    {'step': 10, 'loss': 0.5, 'learning_rate': 1e-3},
    {'step': 20, 'loss': float('nan')},
    {'step': 20, 'eval/AP': 0.25},
    {'step': 30, 'loss': 0.25},
    {'step': 30, 'eval/AP': -1.0},
  ]
  file = tmp_path / 'metrics.jsonl'
  file.write_text(''.join(json.dumps(line) + '\n' for line in lines) + '{"step": 40, "lo')
  loss, scores = run_figures.read_curves(file, 'AP')
  np.testing.assert_array_equal(loss, [[10, 0.5], [30, 0.25]])
  np.testing.assert_array_equal(scores, [[20, 25.0]])
  loss, scores = run_figures.read_curves(tmp_path / 'absent', 'AP')
  assert loss.shape == scores.shape == (0, 2)


@pytest.mark.parametrize(
  ('values', 'limits'),
  [([0, 100], (-3.3, 103.3)), ([40, 60], (39, 61)), ([98, 100], (97.9, 100.066))],
)
def test_per_cent_end_at_0_and_100(values, limits):
  axes = figure.Figure().add_subplot()
  axes.plot([0, 1], values)
  paper_figures.show_per_cent(axes, 'AP')
  np.testing.assert_allclose(axes.get_ylim(), limits, rtol=1e-3)
  assert max(t for t in axes.get_yticks() if t <= axes.get_ylim()[1]) <= 100


def test_runs_of_one_network_are_told_apart(tmp_path):
  """Two runs with curves and errors, without checkpoints or data."""
  errors_file = {
    'people': 2,
    'missed': 1,
    'keypoints': {
      'left_hand': {'annotated': 2, 'quartiles': [0.1, 0.2, 0.3]},
      'tail': {'annotated': 0, 'quartiles': None},
    },
    'pairs': {'hand': [[3, 1, 0], [1, 2, 1]]},
  }
  folders = []
  for name in ('first', 'second'):
    folders.append(fake_run(tmp_path / name, coco.get_config(), {1: OURS}))
    (folders[-1] / 'metrics.jsonl').write_text(
      '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'
    )
    (folders[-1] / 'eval' / '1' / 'errors.json').write_text(json.dumps(errors_file))
  page = comparison.write(folders, tmp_path / 'report')
  names = sorted(file.name.split('_')[0] for file in page.parent.glob('*.png'))
  assert names == ['curves', 'figure5', 'keypoints', 'sides']
  text = page.read_text()
  assert 'People without any prediction are left out: first 1, second 1' in text
  (folders[0] / 'eval' / '1' / 'errors.json').write_text('{}')
  with pytest.raises(errors.CheckpointError, match=r'errors.json: damaged; evaluate again'):
    comparison.write(folders, tmp_path / 'report')


def by_keypoint(value):
  """Content of keypoints.json with this EPE of the first keypoint."""
  curve = {'length': 'box', 'thresholds': [0, 0.25, 0.5], 'Mean': [0, 40.0, 80.0]}
  curve['keypoints'] = {'left_ear': [0, 50.0, 90.0], 'fin': [None, None, None]}
  return {
    'people': 3,
    'missed': 0,
    'keypoints': ['left_ear', 'fin'],
    'metrics': {
      'PCK@0.2': {'length': 'box', 'Mean': 40.0, 'keypoints': [40.0, None], 'counted': [3, 0]},
      'EPE': {'length': '', 'Mean': value, 'keypoints': [value, None], 'counted': [3, 0]},
      'NME': {'length': 'box', 'Mean': 7.0, 'keypoints': [7.0, None], 'counted': [3, 0]},
    },
    'curve': curve,
  }


def test_tables_and_curves_by_keypoint(tmp_path):
  """Two runs on data without sigmas, compared by EPE, which is better when it is lower."""
  folders = []
  for name, errors_of_steps in (
    ('first', {1: 9.0, 2: 4.0, 3: float('nan')}),
    ('second', {1: 5.25}),
  ):
    config = coco.get_config()
    config.data.name = 'synthetic_people'
    config.eval.metrics = ('EPE', 'PCK@0.2')
    steps = {step: {'EPE': value, 'PCK@0.2': 40.0} for step, value in errors_of_steps.items()}
    folders.append(fake_run(tmp_path / name, config, steps))
    lines = [{'step': 1, 'loss': 0.5}, {'step': 2, 'loss': 0.4}, {'step': 2, 'eval/EPE': 4.0}]
    (folders[-1] / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  runs = [comparison.read_run(folder) for folder in folders]
  assert [(run.step, run.primary) for run in runs] == [(2, 'EPE'), (1, 'EPE')]
  ranks = [paper_figures.rank(run, 'EPE') for run in runs]
  assert ranks == [-4.0, -5.25]
  page = comparison.write(folders[:1], tmp_path / 'report')
  assert 'By keypoint' not in page.read_text()  # evaluated by an older version
  for folder, step, value in ((folders[0], 2, 4.0), (folders[1], 1, 5.25)):
    file = folder / 'eval' / str(step) / 'keypoints.json'
    file.write_text(json.dumps(by_keypoint(value)))
  page = comparison.write(folders, tmp_path / 'report')
  rows = Page(page.read_text()).rows
  assert rows[0][-2:] == ['EPE', 'PCK@0.2'] and rows[1][-2:] == ['4.00', '40.0']
  header = next(row for row in rows if row[0] == 'keypoint')
  assert header[1:6] == [
    *('annotated', 'PCK@0.2 (%), first', 'PCK@0.2 (%), second'),
    *('EPE (pixels), first', 'EPE (pixels), second'),
  ]
  start = rows.index(header)
  assert rows[start + 1] == ['left_ear', '3', '40.0', '40.0', '4.00', '5.25', '7.00', '7.00']
  assert rows[start + 2] == ['fin', '0', *['-'] * 6]
  assert rows[start + 3] == ['all', '3', '40.0', '40.0', '4.00', '5.25', '7.00', '7.00']
  markdown = page.with_suffix('.md').read_text()
  assert 'in per cent, except EPE, which is in pixels' in markdown
  note = "PCK@0.2: divided by the box's longer side; NME: divided by the root of the box's area."
  assert note in markdown
  names = sorted(file.name.split('_')[0] for file in page.parent.glob('*.png'))
  assert names == ['curves', 'figure5', 'pck']
  (folders[0] / 'eval' / '2' / 'keypoints.json').write_text('[]')
  with pytest.raises(errors.CheckpointError, match=r'keypoints\.json: damaged; evaluate again'):
    comparison.write(folders, tmp_path / 'report')


def test_a_narrow_screen(tmp_path):
  """The page has the width of the screen: tables scroll in their frames and pictures shrink."""
  folder = fake_run(tmp_path / 'run', coco.get_config(), {1: OURS})
  (folder / 'eval' / '1' / 'keypoints.json').write_text(json.dumps(by_keypoint(4.0)))
  text = comparison.write([folder], tmp_path / 'report').read_text()
  assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
  assert text.count('<table') == text.count('<div class="table"><table') == 2
  assert '.table { overflow-x: auto; }' in text
  assert 'figure img { max-width: min(100%' in text


def test_heatmaps_are_what_the_predictor_decodes(workdir):
  """Their peaks are the predicted keypoints, and the crop shows the box."""
  predictor = predictors.load_predictor(workdir)
  image = np.full((160, 200, 3), (200, 100, 50), np.uint8)
  image[40:130, 60:140] = (20, 60, 250)
  box = np.array([70, 50, 48, 64], np.float32)
  crop, heatmaps = predictor.heatmaps(image, box)
  assert crop.dtype == np.uint8 and crop.shape == (128, 96, 3)
  assert heatmaps.dtype == np.float32 and heatmaps.shape == (32, 24, 17)
  assert np.abs(crop.astype(int) - (20, 60, 250)).max() <= 1  # the region is 60 x 80 from (64, 42)
  person = predictor(image, box[None])[0]
  np.testing.assert_allclose(heatmaps.max((0, 1)), person[:, 2], atol=1e-5)
  y, x = np.unravel_index(heatmaps.reshape(-1, 17).argmax(0), (32, 24))
  in_heatmap = (person[:, :2] - (64, 42)) * 24 / 60  # with its quarter offset
  positive = person[:, 2] > 0
  assert np.abs(in_heatmap - np.stack([x, y], -1))[positive].max(initial=0) < 0.26
  with pytest.raises(ValueError, match='positive width'):
    predictor.heatmaps(image, [0, 0, 0, 5])
