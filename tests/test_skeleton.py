import dataclasses
import json

import numpy as np
import pytest
from pycocotools import cocoeval

from mrpose_jax import errors
from mrpose_jax import skeleton


@pytest.mark.parametrize(('known', 'k'), [(skeleton.COCO, 17), (skeleton.MPII, 16)])
def test_known_skeletons_hold_together(known, k):
  assert known.num_keypoints == len(set(known.keypoints)) == k
  assert sorted(known.flip_pairs) == sorted(
    tuple(sorted(pair)) for pair in skeleton.mirror_pairs(known.keypoints)
  )
  assert {i for limb in known.limbs for i in limb} == set(range(k))
  for left, right in known.flip_pairs:
    assert {known.side(left), known.side(right)} == {'left', 'right'}
  order = skeleton.flip_order(known.flip_pairs, k)
  np.testing.assert_array_equal(order[order], np.arange(k))


def test_sigmas_are_pycocotools():
  sigmas = cocoeval.Params('keypoints').kpt_oks_sigmas
  np.testing.assert_allclose(skeleton.COCO.sigmas, sigmas)


def test_from_dict_inverts_asdict_through_json():
  fields = json.loads(json.dumps(dataclasses.asdict(skeleton.COCO)))
  assert skeleton.from_dict(fields) == skeleton.COCO


def test_from_category():
  names = ['nose', 'left_paw', 'right_paw']
  dog = skeleton.from_category(
    {'name': 'dog', 'keypoints': names, 'skeleton': [[1, 2], [1, 3]]}, 'dogs.json'
  )
  assert dog.flip_pairs == ((1, 2),)
  assert dog.limbs == ((0, 1), (0, 2))
  assert dog.sigmas == ()
  assert [dog.side(k) for k in range(3)] == ['middle', 'left', 'right']
  official = {'name': 'person', 'keypoints': list(skeleton.COCO.keypoints)}
  assert skeleton.from_category(official, 'x') is skeleton.COCO


def test_bad_categories():
  with pytest.raises(errors.DataError, match='lists no keypoints'):
    skeleton.from_category({'name': 'person'}, 'instances_val2017.json')
  with pytest.raises(errors.DataError, match='beyond 1'):
    skeleton.from_category({'name': 'x', 'keypoints': ['a'], 'skeleton': [[1, 2]]}, 'x.json')
