"""Names of metrics, what a data set has, and which one picks the best checkpoint."""

import pathlib
from typing import NamedTuple

import pytest

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.metrics import choice
from mrpose_jax.metrics import coco

FISH = skeletons.Skeleton('fish', ('left-eye', 'right-eye', 'tail'), (), ())
LSP = skeletons.Skeleton('lsp', ('right_hip', 'left_shoulder', 'neck', 'head_top'), (), ())


class Dataset(NamedTuple):
  skeleton: skeletons.Skeleton
  kind: str = 'coco'
  folder: pathlib.Path = pathlib.Path('/nowhere')
  annotation_files: tuple = ('validation',)
  test_sets: tuple = ()

  def image_set(self, split):
    return 'valid'


def chosen(skeleton, *names, primary='', **dataset):
  """Names with their lengths, and the notes."""
  settings = {'metrics': names, 'primary': primary}
  metrics, notes = choice.of_dataset(settings, Dataset(skeleton, **dataset))
  return [(metric.name, metric.length) for metric in metrics], notes


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('AP75', ('AP75', 0, '')),
    ('Mean@0.11', ('Mean@0.11', 0, '')),
    ('PCK@0.2', ('PCK', 0.2, '')),
    ('PCK@.05:box', ('PCK', 0.05, 'box')),
    ('PCK@1:left-eye-right-eye', ('PCK', 1, 'left-eye-right-eye')),
    ('PCKh@0.5', ('PCK', 0.5, 'head')),
    ('AUC:head', ('AUC', 0, 'head')),
    ('NME', ('NME', 0, '')),
    ('EPE', ('EPE', 0, '')),
  ],
)
def test_names(name, expected):
  assert choice.parse(name) == (name, *expected)


@pytest.mark.parametrize(
  'name',
  [
    *('PKC@0.2', 'PCK', 'PCK@', 'PCK@0', 'PCK@-0.2', 'PCK@0.2:', 'PCK@0.2.1', 'PCKh@0.5:box'),
    *('EPE:box', 'ap', 'AUC@0.5', 'AP ', 'NME:'),
  ],
)
def test_unknown_names_are_refused_in_one_line(name):
  with pytest.raises(errors.ConfigError, match=r"there is no metric '.*'; possible: AP, AP50") as e:
    choice.parse(name)
  assert '\n' not in str(e.value)


def test_names_of_a_configuration():
  assert choice.names_of({}) == ()
  assert choice.names_of({'metrics': ('EPE, PCK@0.2', 'EPE', '')}) == ('EPE', 'PCK@0.2')
  choice.check_names({'metrics': ('EPE',), 'primary': 'EPE'})
  choice.check_names({'metrics': (), 'primary': 'APL'})
  with pytest.raises(errors.ConfigError, match=r"eval\.primary='AP': is not among .*=EPE, NME"):
    choice.check_names({'metrics': ('EPE,NME',), 'primary': 'AP'})
  with pytest.raises(errors.ConfigError, match="there is no metric 'best'"):
    choice.check_names({'metrics': (), 'primary': 'best'})


def test_defaults():
  assert chosen(skeletons.COCO) == ([(name, '') for name in coco.METRICS], [])
  assert chosen(LSP) == ([('PCK@0.2', 'torso'), ('EPE', '')], [])
  metrics, (note,) = chosen(FISH)
  assert metrics == [('PCK@0.2', 'box'), ('EPE', '')]
  assert note.startswith("PCK@0.2: normalised by the box's longer side, because no keypoints")
  with_sigmas = skeletons.change(FISH, sigmas=(0.1, 0.1, 0.1))
  assert chosen(with_sigmas) == ([(name, '') for name in coco.METRICS], [])


def test_mpii(tmp_path):
  metrics, notes = chosen(skeletons.MPII, kind='mpii', folder=tmp_path)
  assert metrics == [('PCK@0.2', 'torso')]
  path = f'{tmp_path}/gt_valid.mat'
  assert notes == [f'{", ".join(choice.MPII)} are left out: there is no file {path}']
  (tmp_path / 'gt_valid.mat').touch()
  metrics, notes = chosen(skeletons.MPII, kind='mpii', folder=tmp_path)
  assert [name for name, _ in metrics] == [*choice.MPII, 'PCK@0.2'] and notes == []
  metrics, notes = chosen(
    skeletons.MPII, 'PCKh@0.5', 'AP', 'Mean', 'AUC:head', kind='mpii', folder=tmp_path
  )
  assert metrics == [('PCKh@0.5', 'head'), ('Mean', ''), ('AUC:head', 'head')]
  assert notes == ["AP is left out: it is COCO's"]


def test_what_a_data_set_lacks_is_left_out():
  names = 'AP', 'Mean', 'PCKh@0.5', 'AUC', 'NME', 'NME:torso', 'NME:left-eye-right-eye'
  metrics, notes = chosen(FISH, *names)
  assert metrics == [
    *(('AUC', 'box'), ('NME', 'box')),
    ('NME:left-eye-right-eye', 'left-eye-right-eye'),
  ]
  reasons = ('no OKS sigmas', "MPII's", "for 'head' among", "for 'torso' among left-eye, ", 'box')
  assert all(reason in note for reason, note in zip(reasons, notes, strict=True))
  assert chosen(LSP, 'PCKh@0.5', 'NME:head') == ([('PCKh@0.5', 'head'), ('NME:head', 'head')], [])
  pair = skeletons.MPII.keypoints  # with the name upper_neck
  assert choice.ends_of('head', skeletons.Skeleton('m', pair, (), ())) == ('head_top', 'upper_neck')
  assert choice.ends_of('tail-tail', FISH) is None


@pytest.mark.parametrize(
  ('names', 'primary', 'message'),
  [
    (
      ('AP',),
      '',
      r'^eval\.metrics=AP: not computed for /nowhere: AP is left out: the data give',
    ),
    (('AP', 'EPE'), 'AP', r"^eval\.primary='AP': .* AP is left out"),
    ((), 'NME', r"^eval\.primary='NME': .* by default PCK@0.2, EPE are computed; name it in"),
    (('NME:tail-fin',), '', r"no two keypoints for 'tail-fin' among left-eye, right-eye, tail"),
  ],
)
def test_a_run_without_its_metric_is_refused(names, primary, message):
  skeleton = FISH if primary != 'NME' else LSP
  with pytest.raises(errors.ConfigError, match=message):
    chosen(skeleton, *names, primary=primary)


def test_notes_are_logged_once_and_not_for_test_sets(caplog):
  choice.check({}, Dataset(FISH))
  assert len(caplog.messages) == 1
  settings = {'metrics': ('AP',)}
  choice.check(settings, Dataset(FISH, test_sets=('validation',)))
  choice.check(settings, Dataset(FISH, annotation_files=('train',)))
  assert len(caplog.messages) == 1


def test_the_primary_metric():
  assert choice.primary(coco.METRICS, {}) == 'AP'  # also for the configuration of an older run
  assert choice.primary((*choice.MPII, 'PCK@0.2'), {'metrics': (), 'primary': ''}) == 'Mean'
  assert choice.primary(('PCK@0.2',), {}) == 'PCK@0.2'
  assert choice.primary(('EPE', 'AP'), {'metrics': ('EPE', 'AP')}) == 'EPE'
  assert choice.primary(('EPE', 'AP'), {'metrics': ('EPE', 'AP'), 'primary': 'AP'}) == 'AP'
  assert choice.primary(('NME',), {'metrics': ('AP', 'NME')}) == 'NME'  # AP was left out


def test_errors_are_better_when_they_are_lower():
  assert choice.score('EPE', 3.0) == -3 and choice.score('NME:torso', 2.0) == -2
  assert choice.score('AP', 0.5) == 0.5 and choice.score('AUC', 60.0) == 60
