"""The names of metrics, the choice of a configuration, and which metric picks the best checkpoint.

A name is one number of metrics.json:

- AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL: COCO's, for data with OKS sigmas;
- Head, Shoulder, Elbow, Wrist, Hip, Knee, Ankle, Mean, Mean@0.1, Mean@0.11: MPII's PCKh;
- PCK@T, AUC, NME, each alone or with :LENGTH; PCKh@T, which is PCK@T:head; and EPE.

T is the threshold as a fraction of the length. LENGTH is torso, head, box, or two keypoints, such
as in NME:left_eye-right_eye. Without it, PCK and AUC are normalised by the torso, or by the box if
the skeleton has no torso, and NME by the box.
"""

import logging
import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple

from mrpose_jax import errors
from mrpose_jax import skeletons
from mrpose_jax.metrics import coco
from mrpose_jax.metrics import pck

log = logging.getLogger(__name__)

# Rows of `pck.pckh`.
MPII = (
  *('Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle'),
  *('Mean', 'Mean@0.1', 'Mean@0.11'),
)
# Default of data without OKS sigmas.
WITHOUT_SIGMAS = ('PCK@0.2', 'EPE')
# Where nothing is chosen, the first of these metrics that the data set has compares checkpoints.
PRIMARY = ('AP', 'Mean', 'PCK@0.2')
_NAME = re.compile(r'(PCKh?)@(\d+\.?\d*|\.\d+)(?::(.+))?|(AUC|NME)(?::(.+))?|(EPE)')


class Metric(NamedTuple):
  """A metric that compares keypoints one by one, or a number of COCO's or MPII's benchmark.

  Attributes:
    name: as chosen.
    kind: 'PCK', 'AUC', 'NME' or 'EPE'; the name itself for the benchmarks' numbers.
    threshold: of PCK, as a fraction of the length; 0 for others.
    length: 'torso', 'head', 'box' or 'KEYPOINT-KEYPOINT'; '' if there is none, or for the default.
  """

  name: str
  kind: str
  threshold: float = 0.0
  length: str = ''


def parse(name: str) -> Metric:
  """Splits a name into its parts.

  Raises:
    ConfigError: the name is unknown; the message lists the possible ones.
  """
  if name in coco.METRICS or name in MPII:
    return Metric(name, name)
  found = _NAME.fullmatch(name)
  if found:
    pck_kind, threshold, pck_length, kind, length, epe = found.groups()
    if pck_kind == 'PCK' and float(threshold) > 0:
      return Metric(name, 'PCK', float(threshold), pck_length or '')
    if pck_kind == 'PCKh' and float(threshold) > 0 and not pck_length:
      return Metric(name, 'PCK', float(threshold), 'head')
    if kind or epe:
      return Metric(name, kind or epe, length=length or '')
  raise errors.ConfigError(
    f'eval.metrics: there is no metric {name!r}; possible: {", ".join(coco.METRICS)}; for MPII '
    f'{", ".join(MPII)}; PCK@0.2 and PCKh@0.5 at any threshold, AUC, EPE, NME, where PCK, AUC and '
    'NME may end in :torso, :head, :box or :KEYPOINT-KEYPOINT'
  )


def is_known(name: str) -> bool:
  """Whether `parse` knows a name."""
  try:
    return bool(parse(name))
  except errors.ConfigError:
    return False


def names_of(settings: Mapping) -> tuple[str, ...]:
  """Names in the field `metrics` of a configuration's part `eval`; () chooses the default.

  One text may hold several names: ('PCK@0.2,EPE',) is ('PCK@0.2', 'EPE').
  """
  names = (name.strip() for text in settings.get('metrics', ()) for name in text.split(','))
  return tuple(dict.fromkeys(filter(None, names)))


def check_names(settings: Mapping):
  """Raises ConfigError if `eval.metrics` or `eval.primary` names no metric, or if they differ."""
  names, primary_name = names_of(settings), settings.get('primary', '')
  for name in (*names, *filter(None, [primary_name])):
    parse(name)
  if primary_name and names and primary_name not in names:
    raise errors.ConfigError(
      f'eval.primary={primary_name!r}: is not among eval.metrics={", ".join(names)}; add it there'
    )


def of_dataset(settings: Mapping, dataset) -> tuple[list[Metric], list[str]]:
  """Returns the metrics that are computed for the validation split, and notes for the user.

  Chosen metrics that the data set does not have are left out, and a note says why.

  Args:
    settings: the configuration's part `eval`.
    dataset: from `prepared_data.open_dataset`.

  Raises:
    ConfigError: no chosen metric is left, or the primary one is not.
  """
  skeleton, chosen = dataset.skeleton, names_of(settings)
  names = chosen or _default(dataset)
  metrics, by_box, left_out = [], [], {}
  for name in names:
    metric = parse(name)
    reason = _unavailable(metric, dataset)
    if reason:
      left_out.setdefault(reason, []).append(name)
      continue
    if metric.kind in ('PCK', 'AUC') and not metric.length:
      torso = set(pck.TORSO) <= set(skeleton.keypoints)
      metric = metric._replace(length='torso' if torso else 'box')
      by_box += [name] * (not torso)
    if metric.kind == 'NME' and not metric.length:
      metric = metric._replace(length='box')
    metrics.append(metric)
  notes = [
    f'{", ".join(found)} {"is" if len(found) == 1 else "are"} left out: {reason}'
    for reason, found in left_out.items()
  ]
  if by_box:
    notes.append(
      f"{', '.join(by_box)}: normalised by the box's longer side, because no keypoints are called "
      f'{" and ".join(pck.TORSO)}'
    )
  primary_name = settings.get('primary', '')
  missing = primary_name and primary_name not in [metric.name for metric in metrics]
  if not metrics or missing:
    what = f'eval.primary={primary_name!r}' if missing else f'eval.metrics={", ".join(chosen)}'
    reasons = notes or [f'by default {", ".join(names)} are computed; name it in eval.metrics too']
    raise errors.ConfigError(f'{what}: not computed for {dataset.folder}: {"; ".join(reasons)}')
  return metrics, notes


def check(settings: Mapping, dataset):
  """Logs which metrics a run computes, if anything about them is to be said.

  Raises:
    ConfigError: see `of_dataset`.
  """
  if 'validation' in dataset.annotation_files and 'validation' not in dataset.test_sets:
    for note in of_dataset(settings, dataset)[1]:
      log.warning('%s: %s', dataset.folder, note)


def primary(names: Iterable[str], settings: Mapping) -> str:
  """The one of the computed metrics by which checkpoints are compared.

  This is `eval.primary`; by default, it is the first of `eval.metrics`, or of `PRIMARY` where these
  are the default.

  Args:
    names: names of the computed metrics, at least one.
    settings: the configuration's part `eval`; an older one may lack both fields.
  """
  names = list(names)
  candidates = (settings.get('primary', ''), *names_of(settings), *PRIMARY, *names)
  return next(name for name in candidates if name in names)


def lower_is_better(name: str) -> bool:
  return name.partition(':')[0] in ('EPE', 'NME')


def score(name: str, value: float) -> float:
  """A metric's value as a score, of which the higher one is better."""
  return -value if lower_is_better(name) else value


def ground_truth(dataset):
  """Path of the benchmark's ground truth of an MPII split, which may be missing."""
  return dataset.folder / f'gt_{dataset.image_set("validation")}.mat'


def head_of(skeleton: skeletons.Skeleton) -> tuple[str, str] | None:
  """The keypoints that PCKh measures a head between; None if there are none."""
  return next((ends for ends in pck.HEADS if set(ends) <= set(skeleton.keypoints)), None)


def ends_of(length: str, skeleton: skeletons.Skeleton) -> tuple[str, str] | None:
  """The two keypoints that a length is measured between; None if the skeleton lacks one."""
  if length == 'torso':
    return pck.TORSO if set(pck.TORSO) <= set(skeleton.keypoints) else None
  if length == 'head':
    return head_of(skeleton)
  # A name may contain a hyphen itself.
  splits = ((length[:i], length[i + 1 :]) for i, c in enumerate(length) if c == '-')
  return next((s for s in splits if set(s) <= set(skeleton.keypoints) and s[0] != s[1]), None)


def _default(dataset) -> tuple[str, ...]:
  if dataset.kind == 'mpii':
    return *MPII, 'PCK@0.2'
  return coco.METRICS if dataset.skeleton.sigmas else WITHOUT_SIGMAS


def _unavailable(metric, dataset) -> str | None:
  """Why a data set does not have a metric."""
  if metric.kind in coco.METRICS:
    if dataset.kind == 'mpii':
      return "it is COCO's"
    return None if dataset.skeleton.sigmas else 'the data give no OKS sigmas (see data.sigmas)'
  if metric.kind in MPII or (metric.length == 'head' and dataset.kind == 'mpii'):
    if dataset.kind != 'mpii':
      return "it is MPII's"
    file = ground_truth(dataset)
    return None if file.exists() else f'there is no file {file}'
  if metric.length in ('', 'box') or ends_of(metric.length, dataset.skeleton):
    return None
  return (
    f'there are no two keypoints for {metric.length!r} among '
    f'{", ".join(dataset.skeleton.keypoints)}'
  )
