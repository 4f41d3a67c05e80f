"""Draw faces from their parameters: flat shapes, then one shading over the whole head."""

from typing import NamedTuple

import torch
from canvas import Canvas, box, capsule, ellipse, per_picture
from face_expressions import ACTION_NAMES
from face_parameters import Faces
from torch import Tensor
from torch.nn import functional as F

VIEW = 1.25  # the picture spans [-VIEW, VIEW]; a head has half height 1
DEPTH = 0.75  # of the face's relief: how far features slide when the head turns
WHITE = torch.tensor([0.97, 0.97, 0.96])
DARK = torch.tensor([0.16, 0.07, 0.07])
TONGUE = torch.tensor([0.80, 0.36, 0.38])
CLOTH_MASK = torch.tensor([0.66, 0.80, 0.88])
FRAME = torch.tensor([0.14, 0.13, 0.16])


class View(NamedTuple):
    """Coordinates of each pixel, (B, S, S) each."""

    x: Tensor  # of the head, as seen
    y: Tensor
    u: Tensor  # on the face, turned back to the front
    v: Tensor
    normal: Tensor  # (B, 3, S, S) of the head's surface


def draw_faces(faces: Faces, size: int, generator: torch.Generator) -> Tensor:
    """Draw (B, 3, size, size) uint8 pictures.

    Args:
        faces: B of them.
        size: height and width in pixels.
        generator: of the camera's grain.
    """
    view = _look(faces, size)
    background = _background(faces, size)
    canvas = Canvas(background, per_picture(2.0 * VIEW / size / faces.scale))
    _draw_behind(canvas, faces, view)
    head = _draw_head(canvas, faces, view)
    _draw_nose(canvas, faces, view, head)
    _draw_eyes(canvas, faces, view, head)
    _draw_mouth(canvas, faces, view, head)
    _draw_hair(canvas, faces, view)
    _shade(canvas, faces, view)
    _draw_occluders(canvas, faces, view, head)
    return _photograph(canvas.pixels, faces, generator)


def _look(faces: Faces, size: int) -> View:
    """Map pixels to the head, and to the face on its ellipsoid."""
    line = (torch.arange(size) + 0.5) * (2.0 * VIEW / size) - VIEW
    row, column = -line[:, None], line[None, :]
    scale, roll = per_picture(faces.scale), per_picture(faces.roll)
    left = (column - per_picture(faces.shift[:, 0])) / scale
    up = (row - per_picture(faces.shift[:, 1])) / scale
    x = left * roll.cos() + up * roll.sin()
    y = up * roll.cos() - left * roll.sin()
    width, yaw, pitch = (per_picture(each) for each in (faces.width, faces.yaw, faces.pitch))
    across = x / width
    front = (1.0 - across.square() - y.square()).clamp_min(0.02).sqrt()
    relief = DEPTH * front
    u = width * (across * yaw.cos() - relief * yaw.sin())
    v = y * pitch.cos() - relief * pitch.sin()
    return View(x, y, u, v, torch.stack([across, y, front], 1))


def _background(faces: Faces, size: int) -> Tensor:
    share = torch.linspace(0.0, 1.0, size)[None, None, :, None]
    top, bottom = faces.background[:, 0, :, None, None], faces.background[:, 1, :, None, None]
    return top.lerp(bottom, share).expand(-1, -1, -1, size).contiguous()


def _draw_behind(canvas: Canvas, faces: Faces, view: View) -> None:
    """Long hair, neck, clothes and ears."""
    width = per_picture(faces.width)
    hair = torch.minimum(
        ellipse(view.x, view.y - 0.15, width + 0.17, 1.0),
        box(view.x, view.y + 0.45, width + 0.15, 0.75, 0.3),
    )
    canvas.fill(hair, 0.85 * faces.hair, opacity=per_picture(faces.long_hair))
    canvas.fill(box(view.x, view.y + 1.0, 0.34, 0.5, 0.1), 0.80 * faces.skin)
    canvas.fill(ellipse(view.x, view.y + 1.75, 1.05, 0.72), faces.clothes)
    turned = 0.12 * per_picture(faces.yaw)
    canvas.fill(
        ellipse(view.x.abs() - width + turned * view.x.sign(), view.y + 0.02, 0.12, 0.19),
        0.88 * faces.skin,
    )


def _draw_head(canvas: Canvas, faces: Faces, view: View) -> Tensor:
    """Head, blush and beard; return what the head covers."""
    lower = (-view.y).clamp_min(0.0)
    width = per_picture(faces.width) * (1.0 - per_picture(faces.jaw) * lower.square())
    head = canvas.fill(ellipse(view.x, view.y, width, 1.0), faces.skin)
    blush = torch.exp(
        -(((view.u.abs() - 0.42) / 0.16).square() + ((view.v + 0.22) / 0.14).square())
    )
    rosy = (faces.skin * torch.tensor([1.04, 0.74, 0.72])).clamp_max(1.0)
    _tint(canvas, rosy, 0.45 * blush * head)
    # Along the jaw, leaving cheeks and mouth free.
    around_mouth = ellipse(view.u, view.v + 0.34, 0.46, 0.34)
    beard = ((0.02 - torch.maximum(view.v + 0.16, -around_mouth)) / 0.06).clamp(0.0, 1.0)
    _tint(canvas, faces.hair, per_picture(faces.beard) * beard * head)
    return head


def _tint(canvas: Canvas, color: Tensor, cover: Tensor) -> None:
    canvas.pixels.lerp_(color[:, :, None, None], cover.unsqueeze(1))


def _action(faces: Faces, name: str) -> Tensor:
    return per_picture(faces.actions[:, ACTION_NAMES.index(name)])


def _draw_nose(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Nose, its wrinkles, and the folds from nose to mouth."""
    size, wrinkle = per_picture(faces.nose_size), _action(faces, "nose_wrinkle").clamp_min(0.0)
    # The nose stands out from the face, so it slides further.
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


def _draw_eyes(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Eyes, lids, brows, and the lines between the brows and on the forehead."""
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


def _draw_mouth(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Lips, and what they show: teeth, tongue or the dark."""
    wide, curve = _action(faces, "mouth_wide"), _action(faces, "mouth_curve")
    opened = _action(faces, "mouth_open").clamp_min(0.0)
    lifted = _action(faces, "upper_lip").clamp_min(0.0)
    press = _action(faces, "lip_press").clamp(0.0, 1.0)
    half = per_picture(faces.mouth_size) * (1.0 + 0.35 * wide).clamp(0.45, 1.5)
    along = view.u / half
    arch = 1.0 - along.square()
    tilt = 0.05 * per_picture(faces.asymmetry) * along
    # Corners up for a smile, with the middle sinking as much as they rise.
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


def _draw_hair(canvas: Canvas, faces: Faces, view: View) -> None:
    """Hair on top, down to the hairline."""
    cap = ellipse(view.x, view.y - 0.06, per_picture(faces.width) + 0.07, 1.03)
    slope = per_picture(faces.parting) * view.u
    hairline = per_picture(faces.hairline) + slope - 0.9 * view.u.square() * view.u.abs()
    hair = canvas.fill(torch.maximum(cap, hairline - view.v), faces.hair)
    gloss = torch.exp(-((torch.hypot(view.x + 0.1, view.y - 0.1) - 0.74) / 0.07).square())
    _tint(canvas, (faces.hair * 1.5 + 0.1).clamp_max(1.0), 0.4 * gloss * hair)


def _shade(canvas: Canvas, faces: Faces, view: View) -> None:
    """Light the head as an ellipsoid, and the rest evenly."""
    facing = (view.normal * faces.light[:, :, None, None]).sum(1).clamp_min(0.0)
    contrast = per_picture(faces.contrast)
    shade = 1.0 - contrast * (1.0 - facing) + 0.15 * contrast
    canvas.pixels.mul_(shade.unsqueeze(1))


def _draw_occluders(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Glasses, a cloth mask, a hand, and a plain blob."""
    u, v = view.u, view.v
    across = u.abs() - per_picture(faces.eye_distance)
    lens = box(across, v - 0.09, 0.225, 0.17, 0.1)
    worn, dark = per_picture((faces.glasses > 0).float()), per_picture((faces.glasses > 1).float())
    canvas.fill(lens, FRAME, within=head, opacity=0.92 * dark)
    canvas.fill(lens.abs() - 0.018, FRAME, within=head, opacity=worn)
    canvas.fill(box(u, v - 0.12, 0.08, 0.018, 0.01), FRAME, within=head, opacity=worn)
    cloth = torch.maximum(v + 0.16 + 0.25 * u.square(), view.x.abs() - 2.0)
    canvas.fill(cloth, CLOTH_MASK, within=head, opacity=per_picture(faces.mask))
    pleats = ((v + 0.40).abs() - 0.12).abs() - 0.012
    canvas.fill(pleats, 0.82 * CLOTH_MASK, within=head, opacity=per_picture(faces.mask))

    shown, hand_x, hand_y = (per_picture(each) for each in faces.hand.unbind(-1))
    x, y = view.x - hand_x, view.y - hand_y
    palm = box(x, y + 0.45, 0.26, 0.36, 0.16)
    canvas.fill(palm, 0.93 * faces.skin, opacity=shown)
    for finger in range(4):
        start = -0.195 + 0.13 * finger
        length = 0.44 - 0.08 * abs(finger - 1.5)
        stroke = capsule(x - start, y + 0.2, 0.3 * start, length, 0.066)
        canvas.fill(stroke, 0.78 * faces.skin, opacity=shown)
        canvas.fill(stroke + 0.018, 0.93 * faces.skin, opacity=shown)

    shown, blob_x, blob_y = (per_picture(each) for each in faces.blob.unbind(-1))
    canvas.fill(
        box(view.x - blob_x, view.y - blob_y, 0.42, 0.26, 0.12),
        faces.clothes.flip(-1),
        opacity=shown,
    )


def _photograph(pixels: Tensor, faces: Faces, generator: torch.Generator) -> Tensor:
    """Expose, tint, blur and add grain; round to bytes."""
    gain = per_picture(faces.exposure).unsqueeze(1) * faces.tint[:, :, None, None]
    pixels = pixels * gain
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = pixels.lerp(soft, per_picture(faces.blur).unsqueeze(1))
    grain = torch.randn(pixels.shape, generator=generator)
    pixels = pixels + per_picture(faces.noise).unsqueeze(1) * grain
    return (pixels * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
