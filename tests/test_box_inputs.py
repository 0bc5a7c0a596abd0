"""Boxes from arrays, `supervision.Detections` and detectors of any form."""

import warnings

import numpy as np
import pytest

import mrpose_jax
from mrpose_jax import box_inputs
from tests import test_predict
from tests.helpers import tiny_run

with warnings.catch_warnings():  # supervision warns that it is slower without OpenCV
  warnings.simplefilter('ignore')
  import supervision

IMAGE = np.zeros((60, 80, 3), np.uint8)
CORNERS = np.array([[10, 5, 30, 45], [40, 0, 60, 50]], np.float64)
BOXES = [[10, 5, 20, 40], [40, 0, 20, 50]]
SCORES = np.array([0.9, 0.01])
DETECTIONS = supervision.Detections(CORNERS, confidence=SCORES, class_id=np.array([0, 0]))


@pytest.mark.parametrize(
  ('boxes', 'box_format', 'expected'),
  [
    (BOXES, 'xywh', BOXES),
    (CORNERS, 'xyxy', BOXES),
    (DETECTIONS, 'xywh', BOXES),
    (DETECTIONS[DETECTIONS.confidence > 0.5], 'xyxy', BOXES[:1]),
    (supervision.Detections.empty(), 'xywh', np.zeros((0, 4))),
    (None, 'xyxy', [[0, 0, 80, 60]]),
    ([], 'xywh', np.zeros((0, 4))),
    (lambda image: BOXES, 'xywh', BOXES),
    (lambda image: (BOXES, SCORES), 'xywh', BOXES),
    (lambda image: (CORNERS, SCORES, np.array([1, 62])), 'xyxy', BOXES[:1]),
    (lambda image: (CORNERS, SCORES, np.array([3, 62])), 'xyxy', np.zeros((0, 4))),
    (lambda image: ([], [], []), 'xyxy', np.zeros((0, 4))),
    (lambda image: DETECTIONS, 'xywh', BOXES),
  ],
)
def test_all_become_the_same_boxes(boxes, box_format, expected):
  found = box_inputs.to_xywh(boxes, IMAGE, box_format)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, expected)


def test_the_users_arrays_stay():
  corners = CORNERS.astype(np.float32)
  box_inputs.to_xywh(corners, IMAGE, 'xyxy')
  np.testing.assert_array_equal(corners, CORNERS)


@pytest.mark.parametrize(
  ('boxes', 'box_format', 'message'),
  [
    (lambda image: (BOXES, SCORES, [0, 62]), 'xywh', 'returns class 0, but classes are COCO'),
    (lambda image: np.zeros((3, 5)), 'xywh', r'boxes are \(3, 5\); they must be \[N, 4\] x, y'),
    (lambda image: (BOXES, SCORES), 'xyxy', 'positive width and height'),
    (BOXES, 'cxcywh', 'use one of xywh, xyxy'),
  ],
)
def test_what_are_no_boxes(boxes, box_format, message):
  with pytest.raises(ValueError, match=message):
    box_inputs.to_xywh(boxes, IMAGE, box_format)


def test_the_predictor_takes_them(tmp_path):
  predictor = mrpose_jax.load_predictor(tiny_run.write(tmp_path / 'run'))
  image, shapes = test_predict.picture(), []
  expected = predictor(image, BOXES)

  def detect(pixels):
    shapes.append(pixels.shape)
    return BOXES, SCORES

  np.testing.assert_array_equal(predictor(image, DETECTIONS), expected)
  np.testing.assert_array_equal(predictor(image, detect), expected)
  people = predictor([image, image[:, :90]], detect)
  np.testing.assert_allclose(people[0], expected, atol=1e-4)
  assert [len(found) for found in people] == [2, 2]
  assert shapes == [(100, 150, 3)] * 2 + [(100, 90, 3)]
