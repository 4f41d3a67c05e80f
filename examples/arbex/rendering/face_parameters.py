"""Parameters of a drawing: identity, facial actions, and viewing conditions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from examples.arbex.rendering.face_expressions import ACTION_NAMES

# fmt: off
SKIN = torch.tensor([
    [0.98, 0.87, 0.78], [0.96, 0.80, 0.68], [0.90, 0.72, 0.58],
    [0.80, 0.60, 0.44], [0.65, 0.46, 0.33], [0.48, 0.33, 0.24],
])
HAIR = torch.tensor([
    [0.12, 0.10, 0.10], [0.26, 0.16, 0.11], [0.43, 0.27, 0.15],
    [0.60, 0.28, 0.14], [0.82, 0.64, 0.34], [0.74, 0.73, 0.72],
])
IRIS = torch.tensor([
    [0.30, 0.18, 0.10], [0.22, 0.40, 0.62], [0.26, 0.46, 0.28], [0.36, 0.38, 0.42],
])
BACKGROUND = torch.tensor([
    [0.42, 0.50, 0.60], [0.60, 0.70, 0.76], [0.55, 0.62, 0.52],
    [0.82, 0.76, 0.64], [0.80, 0.62, 0.56], [0.56, 0.46, 0.56],
])
# fmt: on


class Faces(NamedTuple):
    """Parameters of N drawings; lengths in half heights of a head, angles in radians."""

    # Identity: the same in all pictures of a person.
    skin: Tensor  # (N, 3), colours in [0, 1]
    hair: Tensor  # (N, 3)
    iris: Tensor  # (N, 3)
    clothes: Tensor  # (N, 3)
    width: Tensor  # (N,) half width of the head
    jaw: Tensor  # (N,) how much the head narrows downwards
    eye_distance: Tensor
    eye_size: Tensor
    brow_height: Tensor
    brow_thickness: Tensor
    nose_size: Tensor
    mouth_height: Tensor
    mouth_size: Tensor
    hairline: Tensor  # (N,) height of the hair above the eyes; above 1 is bald
    parting: Tensor  # (N,) sideways slope of the hairline
    long_hair: Tensor  # (N,) 0 or 1
    beard: Tensor  # (N,) opacity
    # Facial actions.
    actions: Tensor  # (N, A)
    gaze: Tensor  # (N, 2)
    asymmetry: Tensor  # (N,)
    # Viewing conditions.
    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    scale: Tensor
    shift: Tensor  # (N, 2)
    light: Tensor  # (N, 3) direction to the light, of unit length
    contrast: Tensor  # (N,) strength of the shading in [0, 1]
    exposure: Tensor  # (N,) gain
    tint: Tensor  # (N, 3) gain of each colour
    background: Tensor  # (N, 2, 3) top and bottom
    glasses: Tensor  # (N,) 0 none, 1 clear, 2 dark
    mask: Tensor  # (N,) 0 or 1
    hand: Tensor  # (N, 3) 0 or 1, x, y
    blob: Tensor  # (N, 3) 0 or 1, x, y
    blur: Tensor  # (N,) weight of the blurred picture
    noise: Tensor  # (N,) standard deviation of the pixels' noise

    def at(self, rows: slice) -> "Faces":
        """Return some of the faces."""
        return Faces(*(column[rows] for column in self))


class Draws:
    """Random draws for N faces, from one generator."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return (N, *shape) draws, uniform in [low, high]."""
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator)

    def normal(self, deviation: float, *shape: int) -> Tensor:
        """Return (N, *shape) normal draws with mean 0, clipped at two standard deviations."""
        values = torch.randn(self.count, *shape, generator=self.generator)
        return deviation * values.clamp(-2.0, 2.0)

    def chance(self, probability: float) -> Tensor:
        """Return (N,) ones with that probability, else zeros."""
        return (torch.rand(self.count, generator=self.generator) < probability).float()

    def pick(self, colors: Tensor) -> Tensor:
        """Return (N, 3) random interpolations between adjacent colours of the list."""
        position = self.uniform(0.0, len(colors) - 1.001)
        below = position.long()
        share = (position - below).unsqueeze(-1)
        return colors[below].lerp(colors[below + 1], share)


def draw_parameters(
    identity: Tensor,
    actions: Tensor,
    *,
    num_identities: int,
    individuality: float,
    pose: float,
    light: float,
    occlusion: float,
    noise: float,
    generator: torch.Generator,
) -> Faces:
    """Draw identities, and for each face its pose, light, occluders and camera.

    Args:
        identity: (N,) int64 in [0, num_identities).
        actions: (N, A) strengths of the facial actions.
        num_identities: number of people.
        individuality: variation of resting faces and of facial actions, in [0, 1].
        pose: 1: yaw up to 40 degrees, pitch and roll up to 25; 0: frontal.
        light: 1: harsh light from any side; 0: even light.
        occlusion: probability of an occluder, in [0, 1].
        noise: 1: strong grain and blur; 0: none.
        generator: random number generator.
    """
    who, seen = Draws(num_identities, generator), Draws(len(identity), generator)
    resting = who.normal(0.22 * individuality, len(ACTION_NAMES))
    twitch = seen.normal(0.10 * individuality, len(ACTION_NAMES))
    bald, fringe = who.chance(0.12), who.uniform(0.42, 0.72)
    covered = seen.chance(occlusion)
    kind = torch.randint(0, 5, (seen.count,), generator=generator)
    side = seen.uniform(-1.0, 1.0)

    direction = torch.cat(
        [seen.uniform(-1.0, 1.0, 1) * light, 0.45 + seen.uniform(-0.7, 0.5, 1) * light], -1
    )
    direction = torch.cat([direction, torch.ones(seen.count, 1)], -1)
    spectacles = who.chance(0.18)[identity]

    def of(trait: Tensor) -> Tensor:
        return trait[identity]

    return Faces(
        skin=of((who.pick(SKIN) + who.normal(0.02, 3)).clamp(0.1, 1.0)),
        hair=of((who.pick(HAIR) + who.normal(0.03, 3)).clamp(0.03, 1.0)),
        iris=of(who.pick(IRIS)),
        clothes=of(who.uniform(0.15, 0.9, 3)),
        width=of(who.uniform(0.70, 0.82)),
        jaw=of(who.uniform(0.05, 0.30)),
        eye_distance=of(who.uniform(0.28, 0.34)),
        eye_size=of(who.uniform(0.16, 0.205)),
        brow_height=of(who.uniform(0.24, 0.29)),
        brow_thickness=of(who.uniform(0.028, 0.052)),
        nose_size=of(who.uniform(0.75, 1.25)),
        mouth_height=of(who.uniform(-0.54, -0.46)),
        mouth_size=of(who.uniform(0.25, 0.32)),
        hairline=of(fringe + 2.0 * bald),
        parting=of(who.uniform(-0.35, 0.35)),
        long_hair=of(who.chance(0.4) * (1.0 - bald)),
        beard=of(who.chance(0.15) * who.uniform(0.3, 0.8)),
        actions=actions + of(resting) + twitch,
        gaze=seen.normal(0.03, 2),
        asymmetry=seen.normal(0.10 * individuality),
        yaw=seen.uniform(-1.0, 1.0) * pose * math.radians(40),
        pitch=seen.uniform(-1.0, 1.0) * pose * math.radians(25),
        roll=seen.uniform(-1.0, 1.0) * pose * math.radians(25),
        scale=1.0 + seen.uniform(-0.12, 0.12) * pose,
        shift=seen.uniform(-0.10, 0.10, 2) * pose,
        light=torch.nn.functional.normalize(direction, dim=-1),
        contrast=0.35 + 0.45 * light * seen.uniform(0.0, 1.0),
        exposure=1.0 + light * seen.uniform(-0.35, 0.25),
        tint=1.0 + 0.12 * light * seen.uniform(-1.0, 1.0, 3),
        background=torch.stack([seen.pick(BACKGROUND), 0.8 * seen.pick(BACKGROUND)], 1),
        glasses=torch.where(covered * (kind == 0) > 0, 2.0, spectacles),
        mask=covered * (kind == 1),
        hand=torch.stack([covered * (kind == 2), 0.5 * side, seen.uniform(-0.75, 0.0)], -1),
        blob=torch.stack([covered * (kind >= 3), 0.6 * side, seen.uniform(-0.8, 0.6)], -1),
        blur=noise * seen.uniform(0.0, 1.0),
        noise=0.08 * noise * seen.uniform(0.2, 1.0),
    )
