"""Random poses of drawn people: the joints of a person who stands, walks, runs or sits.

Axes: x to the right of the image, y down, z towards the viewer; a person who faces the viewer has
their left at +x. Lengths are fractions of the person's standing height; the pelvis is the origin.
"""

import dataclasses

import numpy as np

SIDES = {'left': 1, 'right': -1}

# Ranges in degrees of swing (forwards) and spread (away from the middle), for the upper and for the
# lower limb. All angles are measured from hanging straight down, not from the upper limb.
ARMS = {
  'down': ((-12, 15), (5, 17), (0, 35), (-4, 12)),
  'swing': ((-35, 30), (4, 12), (5, 60), (-10, 8)),
  'akimbo': ((-20, 0), (35, 55), (5, 35), (-55, -35)),
  'folded': ((10, 30), (4, 15), (40, 75), (-72, -55)),
  'wave': ((0, 20), (65, 110), (0, 25), (140, 185)),
  'raised': ((0, 20), (135, 170), (0, 15), (145, 185)),
  'out': ((-5, 15), (70, 105), (-5, 20), (65, 110)),
  'forward': ((50, 90), (0, 18), (60, 105), (-18, 10)),
  'phone': ((10, 30), (20, 40), (120, 150), (-35, -15)),
  'behind': ((-35, -15), (8, 16), (-45, -10), (-50, -30)),
}
ARM_ODDS = {
  'down': 0.34, 'swing': 0.1, 'akimbo': 0.1, 'folded': 0.08, 'wave': 0.1, 'raised': 0.07,
  'out': 0.07, 'forward': 0.06, 'phone': 0.05, 'behind': 0.03,
}  # fmt: skip

# The leading leg and the other leg; which of them is the left one is random.
LEGS = {
  'stand': (((-4, 8), (1, 9), (-8, 2), (0, 6)), ((-4, 8), (1, 9), (-8, 2), (0, 6))),
  'astride': (((-4, 8), (10, 24), (-8, 2), (6, 20)), ((-4, 8), (10, 24), (-8, 2), (6, 20))),
  'walk': (((14, 30), (0, 6), (-4, 14), (0, 5)), ((-22, -8), (0, 6), (-52, -25), (0, 5))),
  'run': (((45, 80), (0, 8), (-30, 10), (-3, 5)), ((-25, -5), (0, 8), (-95, -60), (-3, 5))),
  'sit': (((70, 95), (4, 18), (-18, 12), (0, 12)), ((70, 95), (4, 18), (-18, 12), (0, 12))),
  'squat': (((70, 100), (8, 25), (-45, -20), (4, 14)), ((70, 100), (8, 25), (-45, -20), (4, 14))),
  'lift': (((55, 90), (0, 25), (-25, 15), (0, 12)), ((-4, 4), (0, 6), (-6, 0), (0, 4))),
}
LEG_ODDS = {
  'stand': 0.38, 'astride': 0.12, 'walk': 0.2, 'run': 0.1, 'sit': 0.1, 'squat': 0.04, 'lift': 0.06,
}  # fmt: skip


def rotation(axis: int, degrees: float) -> np.ndarray:
  """Matrix [3, 3] of a right-handed rotation about axis x, y or z (0, 1, 2)."""
  a, b = [i for i in range(3) if i != axis]
  matrix = np.eye(3)
  c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  matrix[[a, b], [a, b]] = c
  matrix[a, b], matrix[b, a] = (s, -s) if axis == 1 else (-s, s)
  return matrix


def _draw_limb(rng, ranges, side):
  """Unit vectors of the upper and the lower limb, drawn from the ranges."""
  swing, spread, lower_swing, lower_spread = np.radians([rng.uniform(*r) for r in ranges])
  return [
    np.array([side * np.sin(o), np.cos(o) * np.cos(s), np.cos(o) * np.sin(s)])
    for s, o in ((swing, spread), (lower_swing, lower_spread))
  ]


def _choose(rng, odds):
  return list(odds)[rng.choice(len(odds), p=list(odds.values()))]


@dataclasses.dataclass(frozen=True)
class Pose:
  """A pose as the camera sees it.

  Attributes:
    joints: positions [3] by name: COCO's 17 keypoints, pelvis, neck, the middle of the head, and
      the fingers, toes and heel of each side.
    chest, head: [3, 3] orientations; the columns are the person's left, down and front.
    sits: whether the person needs a seat under the pelvis.
  """

  joints: dict[str, np.ndarray]
  chest: np.ndarray
  head: np.ndarray
  sits: bool

  @classmethod
  def sample(cls, rng: np.random.Generator) -> 'Pose':
    stance = _choose(rng, LEG_ODDS)
    facing = rng.choice(['front', 'back', 'side'], p=[0.7, 0.15, 0.15])
    yaw = {
      'front': np.clip(rng.normal(0, 22), -48, 48),
      'back': 180 + np.clip(rng.normal(0, 22), -48, 48),
      'side': rng.choice([-1, 1]) * rng.uniform(60, 110),
    }[facing]
    roll = rng.normal(0, 4) if rng.random() < 0.93 else rng.uniform(-80, 80)
    view = rotation(2, roll) @ rotation(0, rng.uniform(-14, -4)) @ rotation(1, yaw)

    bend = rng.uniform(30, 70) if rng.random() < 0.07 else rng.uniform(-4, 12)
    twist = rotation(1, rng.normal(0, 8))
    chest = rotation(0, -bend) @ rotation(2, rng.normal(0, 5)) @ twist
    gaze = twist @ rotation(1, np.clip(rng.normal(0, 18), -40, 40))
    head = rotation(0, -0.5 * bend - rng.normal(4, 7)) @ rotation(2, rng.normal(0, 6)) @ gaze

    joints = {'pelvis': np.zeros(3), 'neck': chest @ [0, -rng.uniform(0.275, 0.3), 0]}
    joints['head'] = joints['neck'] + chest @ [0, -0.055, 0.01] + head @ [0, -0.055, 0.01]
    joints['nose'] = joints['head'] + head @ [0, 0.014, 0.079]
    shoulder, hip = rng.uniform(0.105, 0.128), rng.uniform(0.062, 0.076)
    arm, leg = rng.uniform(0.92, 1.06), rng.uniform(0.95, 1.06)
    arms = [_choose(rng, ARM_ODDS)] * 2
    if rng.random() < 0.45:
      arms[1] = _choose(rng, ARM_ODDS)
    if stance in ('walk', 'run') and rng.random() < 0.6:
      arms = ['swing', 'swing']
    legs = LEGS[stance][:: rng.choice([-1, 1])]
    for i, (name, side) in enumerate(SIDES.items()):
      joints[f'{name}_eye'] = joints['head'] + head @ [side * 0.027, -0.012, 0.062]
      joints[f'{name}_ear'] = joints['head'] + head @ [side * 0.07, 0.004, -0.004]

      upper, lower = (twist @ limb for limb in _draw_limb(rng, ARMS[arms[i]], side))
      joints[f'{name}_shoulder'] = joints['neck'] + chest @ [side * shoulder, 0.028, 0]
      joints[f'{name}_elbow'] = joints[f'{name}_shoulder'] + 0.165 * arm * upper
      joints[f'{name}_wrist'] = joints[f'{name}_elbow'] + 0.14 * arm * lower
      joints[f'{name}_fingers'] = joints[f'{name}_wrist'] + 0.07 * (lower + 0.15 * upper)

      upper, lower = _draw_limb(rng, legs[i], side)
      joints[f'{name}_hip'] = np.array([side * hip, 0, 0])
      joints[f'{name}_knee'] = joints[f'{name}_hip'] + 0.235 * leg * upper
      ankle = joints[f'{name}_knee'] + 0.225 * leg * lower
      # The foot is at a right angle to the shin, with the toes turned out a little.
      ahead = np.array([side * rng.uniform(0.05, 0.4), 0, 1])
      ahead -= (ahead @ lower) * lower
      ahead /= np.linalg.norm(ahead)
      joints[f'{name}_ankle'] = ankle
      joints[f'{name}_toes'] = ankle + 0.09 * ahead + 0.024 * lower
      joints[f'{name}_heel'] = ankle - 0.024 * ahead + 0.02 * lower
    joints = {name: view @ point for name, point in joints.items()}
    return cls(joints, view @ chest, view @ head, stance == 'sit')
