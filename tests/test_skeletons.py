import dataclasses
import json

import numpy as np
import pytest
from pycocotools import cocoeval

from mrpose_jax import errors
from mrpose_jax import skeletons
from tests.helpers import shared_data


@pytest.mark.parametrize(('known', 'k'), [(skeletons.COCO, 17), (skeletons.MPII, 16)])
def test_known_skeletons_hold_together(known, k):
  assert known.num_keypoints == len(set(known.keypoints)) == k
  assert sorted(known.flip_pairs) == sorted(
    tuple(sorted(pair)) for pair in skeletons.mirror_pairs(known.keypoints)
  )
  assert {i for limb in known.limbs for i in limb} == set(range(k))
  for left, right in known.flip_pairs:
    assert {known.side(left), known.side(right)} == {'left', 'right'}
  order = skeletons.flip_order(known.flip_pairs, k)
  np.testing.assert_array_equal(order[order], np.arange(k))


def test_sigmas_are_pycocotools():
  sigmas = cocoeval.Params('keypoints').kpt_oks_sigmas
  np.testing.assert_allclose(skeletons.COCO.sigmas, sigmas)


def test_from_dict_inverts_asdict_through_json():
  fields = json.loads(json.dumps(dataclasses.asdict(skeletons.COCO)))
  assert skeletons.from_dict(fields) == skeletons.COCO


def test_from_category():
  names = ['nose', 'left_paw', 'right_paw']
  dog = skeletons.from_category(
    {'name': 'dog', 'keypoints': names, 'skeleton': [[1, 2], [1, 3]]}, 'dogs.json'
  )
  assert dog.flip_pairs == ((1, 2),)
  assert dog.limbs == ((0, 1), (0, 2))
  assert dog.sigmas == ()
  assert dog.suppression_sigmas == (skeletons.ESTIMATED_SIGMA,) * 3
  assert [dog.side(k) for k in range(3)] == ['middle', 'left', 'right']
  official = {'name': 'person', 'keypoints': list(skeletons.COCO.keypoints)}
  assert skeletons.from_category(official, 'x') is skeletons.COCO


def test_bad_categories():
  with pytest.raises(errors.DataError, match='lists no keypoints'):
    skeletons.from_category({'name': 'person'}, 'instances_val2017.json')
  with pytest.raises(errors.DataError, match='beyond 1'):
    skeletons.from_category({'name': 'x', 'keypoints': ['a'], 'skeleton': [[1, 2]]}, 'x.json')


@pytest.mark.parametrize(
  ('left', 'right'),
  [
    ('left_ear', 'right_ear'),
    ('Left Ear', 'Right Ear'),
    ('L_Eye', 'R_Eye'),
    ('leftEar', 'rightEar'),
    ('front_paw_l', 'front_paw_r'),
    ('RearPawL2', 'RearPawR2'),
    ('l-1', 'r-1'),
    ('左 left', '左 right'),
    ('leftear', 'rightear'),
    ('LeftEar', 'RightEar'),
    ('LEFTEAR', 'RIGHTEAR'),
    ('ear_left', 'ear_right'),
    ('earleft', 'earright'),
    ('L.Ear', 'R.Ear'),
    ('left-ear', 'right-ear'),
    ('earL', 'earR'),
    ('LEar', 'REar'),
  ],
)
def test_pairs_from_names(left, right):
  names = ['tail', right, left]
  assert skeletons.mirror_pairs(names) == ((2, 1),)
  found = skeletons.Skeleton('x', tuple(names), (), ())
  assert [found.side(k) for k in range(3)] == ['middle', 'right', 'left']


def test_the_pair_of_deeplabcuts_example():
  file = shared_data.data('openfield') / 'annotations/train.json'
  category = json.loads(file.read_text())['categories'][0]
  mouse = skeletons.from_category(category, file)
  assert skeletons.named_pairs(mouse) == 'leftear - rightear'
  assert [mouse.side(k) for k in range(4)] == ['middle', 'left', 'right', 'middle']


def test_names_that_only_look_like_sides():
  names = [
    'rump',
    'lump',
    'leftover',
    'ear',
    'r2',
    'left_tip',
    'bright',
    'cleft',
    'upright',
    'Lear',
  ]
  assert skeletons.mirror_pairs([*names, 'Rear_tip']) == ()
  assert skeletons.mirror_pairs([*names, 'right', 'left']) == ((11, 10),)


def test_glued_letters_are_sides_where_two_pairs_of_names_differ_so():
  """One such pair could be other words, as `lump` and `rump` are."""
  names = ['rhip', 'lhip', 'neck', 'lknee', 'rknee']
  assert skeletons.mirror_pairs(names) == ((1, 0), (3, 4))
  found = skeletons.Skeleton('x', tuple(names), (), ())
  assert [found.side(k) for k in range(5)] == ['right', 'left', 'middle', 'left', 'right']
  assert skeletons.mirror_pairs(['paw1LH_top', 'paw1RH_top', 'pawLF', 'pawRF']) == ((0, 1), (2, 3))
  assert skeletons.mirror_pairs(['hipl', 'eyer', 'hipr', 'eyel']) == ((0, 2), (3, 1))


def test_a_name_is_in_one_pair_at_most_and_words_come_first():
  names = ['left_ear', 'right_ear', 'leftear', 'rightear', 'l_eye', 'reye', 'r_eye', 'leye']
  assert skeletons.mirror_pairs(names) == ((0, 1), (2, 3), (4, 6))


def test_what_is_estimated_is_said(caplog):
  with caplog.at_level('INFO', 'mrpose_jax'):
    names = ['left_ear', 'right_ear', 'paw_l', 'leftpaw', 'tail']
    category = {'name': 'dog', 'keypoints': names}
    skeletons.log_assumptions(skeletons.from_category(category, 'd.json'), 'd.json')
  assert "d.json: flip pairs of 'dog': left_ear - right_ear" in caplog.text
  assert 'a mirror partner, which mirroring does not exchange: paw_l, leftpaw\n' in caplog.text
  assert 'gives no OKS sigmas, so there is no AP' in caplog.text


def test_sigmas_that_an_older_version_assumed_are_none():
  category = {'name': 'dog', 'keypoints': ['a', 'b'], 'sigmas': [0.067, 0.067]}
  dog = skeletons.from_category(category, 'd.json')
  assert dog.sigmas == ()
  fields = dataclasses.asdict(dog) | {'sigmas': [0.067, 0.067]}
  assert skeletons.from_dict(fields) == dog
  assert skeletons.from_dict(fields | {'sigmas': [0.067, 0.05]}).sigmas == (0.067, 0.05)
  assert skeletons.change(dog, sigmas=(0.067, 0.067)).sigmas == (0.067, 0.067)  # asked for


def test_sigmas_and_pairs_of_the_file(caplog):
  fish = {'name': 'fish', 'keypoints': ['a', 'b', 'c'], 'sigmas': [0.1, 0.2, 0.3]}
  found = skeletons.from_category(fish | {'flip_pairs': [['c', 'a']]}, 'fish.json')
  assert found.sigmas == (0.1, 0.2, 0.3)
  assert found.flip_pairs == ((2, 0),)
  skeletons.log_assumptions(found, 'fish.json')
  assert 'sigmas' not in caplog.text
  for wrong, message in (
    ({'sigmas': [0.1, 0.2]}, '3 positive numbers are needed'),
    ({'sigmas': [0.1, 0.2, 0]}, '3 positive numbers are needed'),
    ({'sigmas': ['a', 'b', 'c']}, 'are not numbers'),
    ({'flip_pairs': [['a', 'd']]}, "there is no keypoint 'd' \\(a, b, c\\)"),
    ({'flip_pairs': [['a', 'b'], ['b', 'c']]}, 'each name once'),
    ({'flip_pairs': [['a', 'b', 'c']]}, 'pairs of names are needed'),
    ({'sigmas': 'abc'}, 'are not numbers'),
    ({'sigmas': [10**400] * 3}, 'are not numbers'),
    ({'sigmas': {'a': 1}}, 'are not numbers'),
    ({'flip_pairs': 'ab'}, 'pairs of names are needed'),
    ({'flip_pairs': 5}, 'pairs of names are needed'),
    ({'flip_pairs': [1, 2]}, 'pairs of names are needed'),
    ({'flip_pairs': [[1, 2]]}, 'there is no keypoint 1'),
    ({'flip_pairs': [[['a'], 'b']]}, 'pairs of names are needed'),
    ({'keypoints': ['a', 'b', '\ud800']}, 'is no valid text'),
    ({'flip_pairs': {'a': 'b'}}, 'pairs of names are needed'),
    ({'skeleton': [1, 2]}, 'pairs of keypoint numbers are needed'),
    ({'skeleton': [[1, 'x']]}, 'pairs of keypoint numbers are needed'),
    ({'skeleton': [[1, 2, 3]]}, 'pairs of keypoint numbers are needed'),
    ({'skeleton': 5}, 'pairs of keypoint numbers are needed'),
    ({'skeleton': [[1, float('inf')]]}, 'pairs of keypoint numbers are needed'),
    ({'keypoints': ['a', 'b', 'a']}, 'each needs a unique name'),
    ({'keypoints': 'abc'}, 'each needs a unique name'),
    ({'keypoints': 3}, 'each needs a unique name'),
    ({'keypoints': [1, 2, 3]}, 'each needs a unique name'),
    ({'keypoints': [['a'], 'b', 'c']}, 'each needs a unique name'),
  ):
    with pytest.raises(errors.DataError, match=rf"^fish\.json: .*'fish'.*{message}"):
      skeletons.from_category(fish | wrong, 'fish.json')


def test_mirroring_without_known_pairs(caplog):
  fish = skeletons.from_category({'name': 'fish', 'keypoints': ['0', '1']}, 'fish.json')
  assert (fish.mirroring(None, 0.5), fish.mirroring(None, True)) == (0, False)
  assert (fish.mirroring(0.3, 0.5), fish.mirroring(True, True)) == (0.3, True)
  assert (skeletons.COCO.mirroring(None, 0.5), skeletons.COCO.mirroring(None, True)) == (0.5, True)
  assert (skeletons.COCO.mirroring(0.0, 0.5), skeletons.COCO.mirroring(False, True)) == (0, False)
  skeletons.log_assumptions(fish, 'fish.json')
  assert "flip pairs of 'fish': none; mirroring (augment.flip) and the flip test" in caplog.text


def test_matching_by_name():
  """COCO has 12 of MPII's 16 keypoints, and MPII 12 of COCO's 17."""
  positions = skeletons.match(skeletons.COCO, skeletons.MPII)
  assert positions == (-1, -1, -1, -1, -1, 13, 12, 14, 11, 15, 10, 3, 2, 4, 1, 5, 0)
  positions = skeletons.match(skeletons.MPII, skeletons.COCO)
  assert positions == (16, 14, 12, 11, 13, 15, -1, -1, -1, -1, 10, 8, 6, 5, 7, 9)
  assert skeletons.match(skeletons.COCO, skeletons.COCO) == tuple(range(17))


def test_matching_with_synonyms():
  own = skeletons.Skeleton('own', ('neck', 'crown', 'tail'), (), ())
  synonyms = (('upper_neck', 'neck'), ['crown', 'head_top', 'top'])
  positions = skeletons.match(skeletons.MPII, own, synonyms)
  assert positions == (-1, -1, -1, -1, -1, -1, -1, -1, 0, 1, -1, -1, -1, -1, -1, -1)
  assert skeletons.match(own, skeletons.MPII, synonyms) == (8, 9, -1)
  assert skeletons.match(skeletons.MPII, own) == (-1,) * 16


@pytest.mark.parametrize(
  ('synonyms', 'message'),
  [
    ((('nose', 'left_eye'),), "nose and left_eye are both keypoints of 'coco'"),
    ((('snout', 'thorax', 'pelvis'),), "pelvis and thorax are both keypoints of 'mpii'"),
    (
      ('nose', 'snout'),
      r"synonyms \('nose', 'snout'\): groups of names are needed, each name once",
    ),
    ((('nose',),), 'groups of names are needed'),
    ((('nose', 'snout'), ('snout', 'muzzle')), 'each name once'),
    ((('nose', 3),), 'groups of names are needed'),
    ((('nose', ['snout']),), 'groups of names are needed'),
    ((5,), 'groups of names are needed'),
  ],
)
def test_bad_synonyms(synonyms, message):
  with pytest.raises(ValueError, match=message):
    skeletons.match(skeletons.COCO, skeletons.MPII, synonyms)
