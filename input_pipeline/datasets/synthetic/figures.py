"""An articulated person: a body around a pose, its clothes, and how they are painted.

A person is a set of convex hulls of balls: a limb is the hull of two or three balls, a torso the
union of three hulls. Without perspective, a ball appears as a disc and a hull of balls as the hull
of their discs, so one formula (`painting.outline`) draws every part from every side. Parts are
painted in order of depth, the farthest first.

Axes and units are those of `poses` until the person is drawn.
"""

import dataclasses

import numpy as np

from mrpose_jax import skeletons
from mrpose_jax.input_pipeline.datasets.synthetic import painting
from mrpose_jax.input_pipeline.datasets.synthetic import poses

# Each part has its own id in `Canvas.ids`, from which the visibility flags are derived.
_ON_EACH_SIDE = ('ear', 'upper_arm', 'forearm', 'hand', 'thigh', 'shin', 'foot')
PARTS = (
  *('torso', 'pelvis', 'neck', 'head', 'hair'),
  *(f'{side}_{part}' for side in poses.SIDES for part in _ON_EACH_SIDE),
)

# The parts on which a keypoint is visible; any other part on top hides it.
SEEN_ON = {'nose': ('head',)}
for _side in poses.SIDES:
  SEEN_ON |= {
    f'{_side}_eye': ('head',),
    f'{_side}_ear': (f'{_side}_ear',),
    f'{_side}_shoulder': (f'{_side}_upper_arm', 'torso'),
    f'{_side}_elbow': (f'{_side}_upper_arm', f'{_side}_forearm'),
    f'{_side}_wrist': (f'{_side}_forearm', f'{_side}_hand'),
    f'{_side}_hip': (f'{_side}_thigh', 'torso', 'pelvis'),
    f'{_side}_knee': (f'{_side}_thigh', f'{_side}_shin'),
    f'{_side}_ankle': (f'{_side}_shin', f'{_side}_foot'),
  }

SKINS = ((250, 220, 196), (240, 200, 170), (224, 172, 134), (198, 140, 100), (150, 98, 66),
         (112, 72, 48), (84, 54, 38))  # fmt: skip
HAIRS = ((30, 24, 22), (58, 38, 26), (96, 62, 36), (150, 104, 54), (206, 170, 106), (152, 66, 34),
         (150, 150, 152))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Look:
  """A person's clothes and build; colours are RGB in 0..255."""

  skin: np.ndarray
  hair: np.ndarray
  shirt: np.ndarray
  stripe: np.ndarray | None
  trousers: np.ndarray
  shoes: np.ndarray
  hat: np.ndarray | None
  # Length of the cloth along arms and legs: 0.5 covers half of the upper limb, 2 covers both limbs.
  sleeves: float
  legs: float
  skirt: bool
  long_hair: bool
  # How far the shirt is open below the neck.
  neckline: float
  # Cosine at which the hair begins; a lower one covers more of the head.
  hairline: float
  # Factor on the thickness of trunk and limbs.
  build: float

  @classmethod
  def sample(cls, rng: np.random.Generator) -> 'Look':
    def cloth():
      hue = rng.uniform(0, 1, 3)
      return 255 * np.clip(rng.uniform(0.3, 1.5) * (0.45 + 0.75 * (hue - hue.mean())), 0.06, 0.97)

    skirt = rng.random() < 0.12
    tone = rng.uniform(0, len(SKINS) - 1)
    # Against dark skin only black and grey hair stand out.
    hair = HAIRS[rng.integers(len(HAIRS)) if tone < 3.5 else rng.choice([0, 0, -1])]
    return cls(
      skin=np.stack([np.interp(tone, range(len(SKINS)), c) for c in zip(*SKINS, strict=True)]),
      hair=np.array(hair) * rng.uniform(0.85, 1.1),
      shirt=cloth(),
      stripe=cloth() if rng.random() < 0.25 else None,
      trousers=cloth(),
      shoes=cloth() * rng.choice([0.35, 0.7, 1]),
      hat=cloth() if rng.random() < 0.14 else None,
      sleeves=rng.choice([0, 0.55, 0.7, 1.9], p=[0.12, 0.28, 0.2, 0.4]),
      legs=0.5 if skirt else rng.choice([0.6, 0.9, 1.95], p=[0.16, 0.16, 0.68]),
      skirt=skirt,
      long_hair=rng.random() < 0.3,
      neckline=rng.uniform(0.02, 0.055),
      hairline=rng.uniform(-0.08, 0.16),
      build=rng.uniform(0.86, 1.18),
    )


@dataclasses.dataclass(frozen=True)
class Part:
  name: str
  hulls: tuple[np.ndarray, ...]  # each [N, 4]: x, y, z, radius
  colour: np.ndarray
  depth: float
  soft: float = 1.0  # 0 paints flat, as for the small features of a face
  stripes: bool = False
  cap: tuple[np.ndarray, float] | None = None  # axis [3] and threshold, see Canvas.paint


def _balls(*balls) -> np.ndarray:
  return np.array([[*point, radius] for point, radius in balls])


class Figure:
  """A person in a pose.

  Attributes:
    pose: positions of the joints.
    look: clothes and build.
    parts: in painting order.
  """

  def __init__(self, rng: np.random.Generator):
    self.pose = poses.Pose.sample(rng)
    self.look = Look.sample(rng)
    parts = self._trunk() + self._head() + self._limbs()
    self.parts = sorted(parts, key=lambda part: part.depth)

  def _trunk(self) -> list[Part]:
    at, look, chest = self.pose.joints, self.look, self.pose.chest

    def level(height, half):
      return [at['neck'] * height + chest @ [side * half, 0, 0] for side in (1, -1)]

    b = look.build
    shoulders = [
      (at[f'{side}_shoulder'] * 0.93 + at['neck'] * 0.07, 0.04 * b) for side in poses.SIDES
    ]
    ribs = [(point, 0.062 * b) for point in level(0.66, 0.058 * b)]
    waist = [(point, 0.06 * b) for point in level(0.3, 0.045 * b)]
    hips = [(at[f'{side}_hip'], 0.066 * b) for side in poses.SIDES]
    hem = [(0.7 * h[0] + 0.3 * w[0], 0.069 * b) for h, w in zip(hips, waist, strict=True)]
    collar = (at['neck'] + chest @ [0, 0.008, 0], 0.036 * b)
    depth = at['neck'][2] / 2 + 0.02
    shirt = (
      _balls(collar, *shoulders, *ribs),
      _balls(*ribs, *waist),
      _balls(*waist, *hem),
    )
    chin = at['head'] + self.pose.head @ [0, 0.03, -0.008]
    neck = _balls((at['neck'], 0.035 * b), (chin, 0.033 * b))
    parts = [
      Part('torso', shirt, look.shirt, depth, stripes=True),
      Part('pelvis', (_balls(*waist, *hips),), look.trousers, depth - 0.01),
      # The collar covers the neck from every viewpoint.
      Part('neck', (neck,), look.skin * 0.92, depth - 0.005),
    ]
    if chest[2, 2] > 0.3:
      # The neckline distinguishes the front of a shirt from its back.
      throat = at['neck'] + chest @ [0, 0.006, 0.034]
      dip = at['neck'] + chest @ [0, look.neckline, 0.05]
      parts.append(
        Part(
          'neck', (_balls((throat, 0.03 * b), (dip, 0.009)),), look.skin * 0.92, depth + 0.001, 0
        )
      )
    if look.skirt:
      flare = []
      for side, sign in poses.SIDES.items():
        knee, hip = at[f'{side}_knee'], at[f'{side}_hip']
        flare.append((hip + 0.72 * (knee - hip) + chest @ [sign * 0.035, 0, 0], 0.062 * b))
      thighs = max(0.5 * at[f'{side}_knee'][2] for side in poses.SIDES)
      skirt = _balls(*waist, *hips, *flare)
      parts.append(Part('pelvis', (skirt,), look.trousers, max(depth - 0.008, thighs + 0.03)))
    return parts

  def _head(self) -> list[Part]:
    at, look, head = self.pose.joints, self.look, self.pose.head

    def on(*point):
      return at['head'] + head @ point

    depth = at['head'][2] + 0.03
    skull, jaw = on(0, -0.018, -0.004), on(0, 0.044, 0.018)
    face = _balls((skull, 0.066), (jaw, 0.04))
    parts = [Part('head', (face,), look.skin, depth)]
    backwards = np.array([0, -0.8, -0.6])
    hair = _balls((skull, 0.071))
    parts.append(
      Part('hair', (hair,), look.hair, depth + 0.002, cap=(head @ backwards, look.hairline))
    )
    if look.long_hair:
      fall = _balls((on(0, 0, -0.02), 0.068), (on(0, 0.085, -0.04), 0.052))
      # Seen from the front it hangs behind the shoulders, seen from the back in front of them.
      if head[2, 2] > 0.35:
        hanging = min(depth, at['neck'][2] / 2) - 0.02
      else:
        hanging = depth + (0.03 if head[2, 2] < -0.2 else -0.005)
      parts.append(Part('hair', (fall,), look.hair, hanging))
    if look.hat is not None:
      crown = head @ np.array([0, -0.97, -0.24])
      hat = _balls((on(0, -0.022, -0.004), 0.076))
      parts.append(Part('hair', (hat,), look.hat, depth + 0.006, cap=(crown, 0.3)))
      brim = _balls((on(0.04, -0.05, 0.055), 0.012), (on(-0.04, -0.05, 0.055), 0.012),
                    (on(0, -0.046, 0.105), 0.014))  # fmt: skip
      lift = 0.007 if head[2, 2] > 0 else -0.007
      parts.append(Part('hair', (brim,), look.hat * 0.85, depth + lift, soft=0.5))

    for side, sign in poses.SIDES.items():
      ear = _balls((on(sign * 0.069, -0.007, -0.006), 0.0135), (on(sign * 0.066, 0.017, 0), 0.01))
      near = head[2, 0] * sign > -0.12
      lift = 0.004 if near else -0.004
      parts.append(Part(f'{side}_ear', (ear,), look.skin * 0.9, depth + lift, soft=0.5))
      if not self.sees(sign * 0.027, -0.012, 0.062):
        continue
      x = sign * 0.027
      white = _balls((on(x - 0.007, -0.012, 0.062), 0.0085), (on(x + 0.007, -0.012, 0.062), 0.0085))
      pupil = _balls((on(x, -0.012, 0.064), 0.0078))
      brow = _balls((on(x - 0.011, -0.031, 0.06), 0.0042), (on(x + 0.011, -0.031, 0.06), 0.0042))
      parts += [
        Part('head', (white,), np.array([240, 240, 236]), depth + 0.0010, soft=0),
        Part('head', (pupil,), np.array([34, 26, 24]), depth + 0.0011, soft=0),
        Part('head', (brow,), look.hair * 0.8, depth + 0.0012, soft=0),
      ]
    if self.sees(0, 0.014, 0.079):
      nose = _balls((on(0, -0.01, 0.066), 0.006), (on(0, 0.014, 0.075), 0.011))
      parts.append(Part('head', (nose,), look.skin * 0.86, depth + 0.0015, soft=0.5))
      mouth = _balls((on(0.017, 0.046, 0.05), 0.0055), (on(-0.017, 0.046, 0.05), 0.0055))
      lips = look.skin * (0.72, 0.45, 0.45)
      parts.append(Part('head', (mouth,), lips, depth + 0.0014, soft=0))
    return parts

  def sees(self, x, y, z) -> bool:
    """Whether a point on the head's surface, in the head's axes, faces the viewer."""
    return (self.pose.head @ [x, y, z])[2] > 0.004

  def _limbs(self) -> list[Part]:
    at, look, b = self.pose.joints, self.look, self.look.build
    parts = []
    for side in poses.SIDES:
      a = {name.split('_')[1]: p for name, p in at.items() if name.startswith(side)}
      calf = 0.7 * a['knee'] + 0.3 * a['ankle'] - 0.12 * (a['toes'] - a['ankle'])
      arm = (
        ('upper_arm', [(a['shoulder'], 0.039 * b), (a['elbow'], 0.029 * b)], 0),
        ('forearm', [(a['elbow'], 0.029 * b), (a['wrist'], 0.02 * b)], 1),
      )
      leg = (
        ('thigh', [(a['hip'], 0.062 * b), (a['knee'], 0.043 * b)], 0),
        ('shin', [(a['knee'], 0.041 * b), (calf, 0.043 * b), (a['ankle'], 0.027 * b)], 1),
      )
      for limbs, cloth, length, lift in (
        (arm, look.shirt, look.sleeves, 0.035),
        (leg, look.trousers, look.legs, 0.0),
      ):
        for name, balls, order in limbs:
          depth = np.mean([balls[0][0][2], balls[-1][0][2]]) + lift
          skin = Part(f'{side}_{name}', (_balls(*balls),), look.skin, depth)
          covered = np.clip(length - order, 0, 1)
          if covered < 0.95:
            parts.append(skin)
          if covered > 0.05:
            (start, r0), (end, r1) = balls[0], balls[-1]
            middle = [(p, r + 0.005) for p, r in balls[1:-1]] if covered > 0.6 else []
            last = (start + covered * (end - start), r0 + covered * (r1 - r0) + 0.008)
            sleeve = _balls((start, r0 + 0.005), *middle, last)
            striped = cloth is look.shirt
            parts.append(Part(skin.name, (sleeve,), cloth, depth + 0.001, stripes=striped))
      palm = 0.5 * (a['wrist'] + a['fingers'])
      hand = _balls((a['wrist'], 0.019 * b), (palm, 0.025 * b), (a['fingers'], 0.013 * b))
      foot = _balls((a['ankle'], 0.026 * b), (a['heel'], 0.026 * b), (a['toes'], 0.022 * b))
      forearm_depth = np.mean([a['elbow'][2], a['wrist'][2]])
      parts += [
        Part(f'{side}_hand', (hand,), look.skin, max(palm[2], forearm_depth) + 0.034),
        Part(f'{side}_foot', (foot,), look.shoes, a['ankle'][2] - 0.004),
      ]
    return parts

  def bounds(self) -> np.ndarray:
    """Minimum and maximum (x, y) of all parts, [2, 2]."""
    balls = np.concatenate([hull for part in self.parts for hull in part.hulls])
    xy, radius = balls[:, :2], balls[:, 3:]
    return np.stack([(xy - radius).min(0), (xy + radius).max(0)])

  def draw(self, canvas: painting.Canvas, origin, scale: float, person: int) -> np.ndarray:
    """Paints the person with the pelvis at `origin` (x, y) and a standing height of `scale` px.

    The ids of a person's parts are consecutive: 1 + person * len(PARTS) + index in PARTS.

    Returns:
      bool [H, W]: mask of the person's pixels.
    """
    mask = np.zeros(canvas.ids.shape, bool)
    down = self.pose.chest[:2, 1]
    axis = down / max(np.linalg.norm(down), 1e-6)
    for part in self.parts:
      discs = [hull[:, [0, 1, 3]] * scale + (*origin, 0) for hull in part.hulls]
      stripes = cap = None
      if part.stripes and self.look.stripe is not None:
        stripes = self.look.stripe, discs[0][0, :2], axis, max(0.045 * scale, 3)
      if part.cap is not None:
        cap = discs[0][0, :2], discs[0][0, 2], *part.cap
      painted = canvas.paint(
        [painting.outline(d) for d in discs],
        part.colour,
        1 + person * len(PARTS) + PARTS.index(part.name),
        part.soft * np.mean([d[:, 2].max() for d in discs]),
        stripes,
        cap,
      )
      if painted is not None:
        mask[painted[0]] |= painted[1]
    return mask

  def flags(self, ids: np.ndarray, keypoints: np.ndarray, person: int) -> np.ndarray:
    """COCO's visibility [17] of this person's keypoints [17, 2], from the finished picture of ids.

    A flag is 0 outside the frame, and for nose and eyes of a face turned well away. It is 2 where
    the topmost part at the keypoint's pixel is one of this person's parts in SEEN_ON, and 1
    otherwise. A shoulder or hip on the far side is hidden, although the torso on top is in SEEN_ON.
    """
    height, width = ids.shape
    columns, rows = np.round(keypoints).astype(int).T
    result = np.zeros(len(keypoints), int)
    for k, name in enumerate(skeletons.COCO.keypoints):
      if not (0 <= columns[k] < width and 0 <= rows[k] < height):
        continue
      part = ids[rows[k], columns[k]] - 1 - person * len(PARTS)
      on_top = PARTS[part] if 0 <= part < len(PARTS) else None
      visible = on_top in SEEN_ON[name]
      if on_top in ('torso', 'pelvis'):
        middle = self.pose.joints['neck' if 'shoulder' in name else 'pelvis'][2]
        visible &= self.pose.joints[name][2] - middle > -0.055
      if k < 3:
        turn = (self.pose.joints[name] - self.pose.joints['head'])[2]
        if turn < -0.02:
          continue
        visible &= turn > 0
      result[k] = 2 if visible else 1
    return result
