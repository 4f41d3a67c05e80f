"""Draw faces from their parameters: flat shapes, then shading of the whole head."""

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.arbex.rendering.canvas import Canvas, box, capsule, ellipse, per_picture
from examples.arbex.rendering.face_parameters import Faces
from examples.arbex.rendering.facial_features import View, draw_eyes, draw_mouth, draw_nose

VIEW = 1.25  # the picture spans [-VIEW, VIEW]; a head has half height 1
DEPTH = 0.75  # of the relief: how far features move when the head turns
CLOTH_MASK = torch.tensor([0.66, 0.80, 0.88])
FRAME = torch.tensor([0.14, 0.13, 0.16])


def draw_faces(faces: Faces, size: int, generator: torch.Generator) -> Tensor:
    """Draw (B, 3, size, size) uint8 pictures.

    Args:
        faces: parameters of B faces.
        size: height and width in pixels.
        generator: random number generator of the grain.
    """
    view = _look(faces, size)
    background = _background(faces, size)
    canvas = Canvas(background, per_picture(2.0 * VIEW / size / faces.scale))
    _draw_behind(canvas, faces, view)
    head = _draw_head(canvas, faces, view)
    draw_nose(canvas, faces, view, head)
    draw_eyes(canvas, faces, view, head)
    draw_mouth(canvas, faces, view, head)
    _draw_hair(canvas, faces, view)
    _shade(canvas, faces, view)
    _draw_occluders(canvas, faces, view, head)
    return _photograph(canvas.pixels, faces, generator)


def _look(faces: Faces, size: int) -> View:
    """Map pixels to coordinates of the head, and of the face on its ellipsoid."""
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
    """Draw long hair, neck, clothes and ears."""
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
    """Draw head, blush and beard; return the head's cover."""
    lower = (-view.y).clamp_min(0.0)
    width = per_picture(faces.width) * (1.0 - per_picture(faces.jaw) * lower.square())
    head = canvas.fill(ellipse(view.x, view.y, width, 1.0), faces.skin)
    blush = torch.exp(
        -(((view.u.abs() - 0.42) / 0.16).square() + ((view.v + 0.22) / 0.14).square())
    )
    rosy = (faces.skin * torch.tensor([1.04, 0.74, 0.72])).clamp_max(1.0)
    _tint(canvas, rosy, 0.45 * blush * head)
    # Along the jaw, without cheeks and mouth.
    around_mouth = ellipse(view.u, view.v + 0.34, 0.46, 0.34)
    beard = ((0.02 - torch.maximum(view.v + 0.16, -around_mouth)) / 0.06).clamp(0.0, 1.0)
    _tint(canvas, faces.hair, per_picture(faces.beard) * beard * head)
    return head


def _tint(canvas: Canvas, color: Tensor, cover: Tensor) -> None:
    canvas.pixels.lerp_(color[:, :, None, None], cover.unsqueeze(1))


def _draw_hair(canvas: Canvas, faces: Faces, view: View) -> None:
    """Draw the hair on top, down to the hairline."""
    cap = ellipse(view.x, view.y - 0.06, per_picture(faces.width) + 0.07, 1.03)
    slope = per_picture(faces.parting) * view.u
    hairline = per_picture(faces.hairline) + slope - 0.9 * view.u.square() * view.u.abs()
    hair = canvas.fill(torch.maximum(cap, hairline - view.v), faces.hair)
    gloss = torch.exp(-((torch.hypot(view.x + 0.1, view.y - 0.1) - 0.74) / 0.07).square())
    _tint(canvas, (faces.hair * 1.5 + 0.1).clamp_max(1.0), 0.4 * gloss * hair)


def _shade(canvas: Canvas, faces: Faces, view: View) -> None:
    """Shade the head as an ellipsoid, and the rest evenly."""
    facing = (view.normal * faces.light[:, :, None, None]).sum(1).clamp_min(0.0)
    contrast = per_picture(faces.contrast)
    shade = 1.0 - contrast * (1.0 - facing) + 0.15 * contrast
    canvas.pixels.mul_(shade.unsqueeze(1))


def _draw_occluders(canvas: Canvas, faces: Faces, view: View, head: Tensor) -> None:
    """Draw glasses, a cloth mask, a hand, and a plain blob."""
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
    """Apply exposure, tint, blur and grain; round to bytes."""
    gain = per_picture(faces.exposure).unsqueeze(1) * faces.tint[:, :, None, None]
    pixels = pixels * gain
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = pixels.lerp(soft, per_picture(faces.blur).unsqueeze(1))
    grain = torch.randn(pixels.shape, generator=generator)
    pixels = pixels + per_picture(faces.noise).unsqueeze(1) * grain
    return (pixels * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
