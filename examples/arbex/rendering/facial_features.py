"""Draw nose, eyes and mouth, and the lines around them, as the facial actions move them."""

from typing import NamedTuple

import torch
from torch import Tensor

from examples.arbex.rendering.canvas import Canvas, capsule, ellipse, per_picture
from examples.arbex.rendering.face_expressions import ACTION_NAMES
from examples.arbex.rendering.face_parameters import Faces

WHITE = torch.tensor([0.97, 0.97, 0.96])
DARK = torch.tensor([0.16, 0.07, 0.07])
TONGUE = torch.tensor([0.80, 0.36, 0.38])


class View(NamedTuple):
    """Coordinates of each pixel, (B, S, S) each."""

    x: Tensor  # of the head, as seen
    y: Tensor
    u: Tensor  # on the face, turned back to the front
    v: Tensor
    normal: Tensor  # (B, 3, S, S) of the head's surface


def draw_nose(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Draw the nose, its wrinkles, and the nasolabial folds."""
    size, wrinkle = per_picture(faces.nose_size), _action(faces, "nose_wrinkle").clamp_min(0.0)
    # The nose protrudes from the face, so it moves further.
    u, v = view.u - 0.10 * per_picture(faces.yaw), view.v - 0.05 * per_picture(faces.pitch)
    shadow = 0.72 * faces.skin
    bridge = capsule(u - 0.055, v + 0.02, 0.035, -0.17, 0.014 * size)
    canvas.fill(bridge, shadow, within=head, opacity=0.55)
    tip = v + 0.22 - 0.04 * wrinkle
    canvas.fill(ellipse(u, tip, 0.085 * size, 0.055), 0.93 * faces.skin, within=head)
    canvas.fill(
        ellipse(u.abs() - 0.062 * size, tip + 0.028, 0.026, 0.018), 0.5 * faces.skin, within=head
    )
    side = u.abs()
    for height in (0.03, -0.05):
        crease = capsule(side - 0.02, v - height, 0.075, 0.035, 0.013)
        canvas.fill(crease, 0.62 * faces.skin, within=head, opacity=wrinkle.clamp_max(1.0))
    smile = _action(faces, "mouth_curve").clamp_min(0.0) * 0.8
    fold = capsule(view.u.abs() - 0.15, view.v + 0.24, 0.15, -0.18, 0.014)
    depth = torch.maximum(smile, wrinkle).clamp(0.0, 0.9)
    canvas.fill(fold, 0.66 * faces.skin, within=head, opacity=depth)


def draw_eyes(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Draw eyes, lids, brows, and the lines between the brows and on the forehead."""
    u, v, side = view.u, view.v, view.u.sign()
    size, distance = per_picture(faces.eye_size), per_picture(faces.eye_distance)
    outward = u.abs() - distance
    along = outward / size
    arch = (1.0 - along.square()).clamp_min(-0.5)
    height = v - 0.10
    opening = 1.0 + _action(faces, "eye_open") + per_picture(faces.asymmetry) * side
    opening = opening.clamp(0.12, 1.9)
    inner, outer = _action(faces, "brow_inner"), _action(faces, "brow_outer")
    # Angry brows press the inner lid down; sad ones let the outer lid hang.
    slant = 0.035 * (inner.clamp(-1.0, 1.0) - outer.clamp(-1.0, 1.0)) * -along
    upper = 0.105 * opening * arch + slant * arch.clamp_min(0.0)
    raised = _action(faces, "lower_lid").clamp(-0.2, 1.2)
    lower = -0.085 * opening.clamp_max(1.35) * (1.0 - 0.75 * raised) * arch
    eye = canvas.fill(torch.maximum(height - upper, lower - height), WHITE, within=head)
    gaze_u, gaze_v = per_picture(faces.gaze[:, 0]) * side, per_picture(faces.gaze[:, 1])
    iris_u, iris_v = outward - gaze_u, height - gaze_v - 0.005
    canvas.fill(torch.hypot(iris_u, iris_v) - 0.085, faces.iris, within=eye)
    canvas.fill(torch.hypot(iris_u, iris_v) - 0.042, DARK * 0.5, within=eye)
    canvas.fill(torch.hypot(u - side * distance + 0.03, height - 0.035) - 0.022, WHITE, within=eye)
    lash = torch.maximum((height - upper).abs() - 0.016, outward.abs() - 1.02 * size)
    canvas.fill(lash, DARK, within=head)
    bag = torch.maximum((height - lower + 0.02).abs() - 0.010, outward.abs() - 0.8 * size)
    canvas.fill(bag, 0.70 * faces.skin, within=head, opacity=0.35 + 0.5 * raised.clamp(0.0, 1.0))

    furrow = _action(faces, "brow_furrow")
    along = (outward + 0.05 * furrow) / (1.15 * size)
    # Inner end at -1, outer end at 1.
    lift = 0.11 * inner * (0.5 - 0.5 * along) + 0.09 * outer * (0.5 + 0.5 * along)
    arch = 0.045 * (1.0 - along.square())
    line = v - 0.10 - per_picture(faces.brow_height) - lift - arch
    thickness = per_picture(faces.brow_thickness) * (1.0 - 0.45 * (0.5 + 0.5 * along))
    brow = torch.maximum(line.abs() - thickness, (along.abs() - 1.0) * size)
    canvas.fill(brow, 0.75 * faces.hair, within=head)
    frown = capsule(u.abs() - 0.045, v - 0.20, 0.012, 0.13, 0.012)
    canvas.fill(frown, 0.62 * faces.skin, within=head, opacity=(0.9 * furrow).clamp(0.0, 0.9))
    lines = ((v - 0.56 - 0.02 * u.abs()).abs() - 0.045).abs() - 0.010
    lines = torch.maximum(lines, u.abs() - 0.30)
    raised_brows = (0.5 * (inner + outer) - 0.15).clamp(0.0, 0.7)
    canvas.fill(lines, 0.72 * faces.skin, within=head, opacity=raised_brows)


def draw_mouth(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Draw lips, and teeth and tongue between them."""
    wide, curve = _action(faces, "mouth_wide"), _action(faces, "mouth_curve")
    opened = _action(faces, "mouth_open").clamp_min(0.0)
    lifted = _action(faces, "upper_lip").clamp_min(0.0)
    press = _action(faces, "lip_press").clamp(0.0, 1.0)
    half = per_picture(faces.mouth_size) * (1.0 + 0.35 * wide).clamp(0.45, 1.5)
    along = view.u / half
    arch = 1.0 - along.square()
    tilt = 0.05 * per_picture(faces.asymmetry) * along
    # A smile raises the corners and lowers the middle equally.
    middle = (
        view.v - per_picture(faces.mouth_height) - 0.15 * curve * (along.square() - 0.45) - tilt
    )
    upper = (0.11 * opened + 0.05 * lifted) * arch
    lower = -(0.24 * opened + 0.01) * arch
    lip = 0.055 * (1.0 - 0.65 * press)
    peak = lip * (0.75 + 0.9 * lifted) * arch.clamp_min(-0.3)
    lips = torch.maximum(middle - upper - peak, lower - 1.15 * lip * arch.clamp_min(-0.3) - middle)
    red = (faces.skin * torch.tensor([0.86, 0.50, 0.50])).clamp_max(1.0)
    canvas.fill(lips, red, within=head)
    inside = canvas.fill(torch.maximum(middle - upper, lower - middle), DARK, within=head)
    canvas.fill(ellipse(view.u, middle - lower - 0.02, 0.6 * half, 0.10), TONGUE, within=inside)
    teeth = _action(faces, "teeth").clamp(0.0, 1.0)
    rim = upper - 0.085
    canvas.fill(rim - middle, WHITE, within=inside, opacity=teeth)
    corner = capsule(view.u.abs() - half, middle, 0.02, 0.0, 0.016)
    canvas.fill(corner, 0.45 * faces.skin, within=head, opacity=0.8)


def _action(faces: Faces, name: str) -> Tensor:
    return per_picture(faces.actions[:, ACTION_NAMES.index(name)])
