"""What the model says of the faces of one picture, as HTML without outside files."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from face_detection import Box
from PIL import Image
from prediction import FacePrediction, crop
from torch import Tensor

BRANCHES = {
    "corrected": "corrected",
    "primary": "primary",
    "anchor": "anchors",
    "attentive": "attention",
}
FACE_PIXELS, PICTURE_PIXELS = 192, 1024

# The variables are Gradio's; they follow its light and its dark look.
STYLE = """
.cards { --corrected: #1f7f9f; --primary: #98a2b3; --anchor: #d98a00; --attentive: #b65c93;
  color: var(--body-text-color); font-variant-numeric: tabular-nums; }
.cards .picture { position: relative; margin-bottom: 1rem; }
.cards .picture img { width: 100%; display: block; border-radius: 8px; }
.cards .box { position: absolute; border: 2px solid var(--corrected); border-radius: 4px; }
.cards .box span { background: var(--corrected); color: #fff; font-weight: 650; font-size: .8rem;
  padding: 0 .35rem; }
.cards .card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 1rem;
  margin-bottom: 1rem; background: var(--background-fill-primary); }
.cards header { display: flex; gap: 1rem; align-items: center; margin-bottom: 1rem; }
.cards header img { width: 96px; height: 96px; object-fit: cover; border-radius: 8px; }
.cards h3 { font-size: 1.3rem; line-height: 1.3; margin: 0; }
.cards p { margin: .15rem 0; opacity: .72; font-size: .9rem; }
.cards .classes + p { margin-top: .8rem; }
.cards .branches { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.6rem, 1fr));
  gap: .4rem; margin-bottom: 1rem; }
.cards .branches div { border-left: 4px solid; padding: .1rem .4rem; font-size: .78rem;
  line-height: 1.4; }
.cards .branches b { display: block; font-size: 1rem; }
.cards .classes { display: grid; grid-template-columns: max-content minmax(4rem, 1fr) 2.2rem
  max-content; gap: .45rem .6rem; align-items: center; font-size: .88rem; }
.cards .classes .chosen { font-weight: 700; }
.cards .bar { height: 4px; border-radius: 0 2px 2px 0; margin: 1px 0; min-width: 1px; }
.cards .bar.corrected { height: 9px; }
.cards .value { text-align: right; }
.cards .anchors { display: flex; gap: 2px; }
.cards .anchors i { width: 9px; height: 18px; border-radius: 2px; background: var(--anchor); }
.cards .anchors i.nearest { outline: 2px solid var(--body-text-color); outline-offset: 1px; }
@media (max-width: 30rem) { .cards .card { padding: .7rem; }
  .cards .anchors i { width: 6px; } .cards .classes { column-gap: .4rem; font-size: .82rem; } }
"""


def face_cards(picture: Tensor, predictions: Sequence[FacePrediction]) -> str:
    """Show a (3, H, W) uint8 picture with its faces marked, and a card for each face."""
    faces = [each for each in predictions if each.box is not None]
    problems = [f"<p>{escape(each.problem)}</p>" for each in predictions if each.problem]
    whole = len(faces) == 1 and _covers(picture, faces[0].box)
    marked = "" if whole or not faces else _marked(picture, faces)
    numbers = [f"{number} " if marked else "" for number in range(1, len(faces) + 1)]
    cards = "".join(_card(picture, *each) for each in zip(faces, numbers, strict=True))
    return f'<div class="cards">{marked}{cards}{"".join(problems)}</div>'


def _card(picture: Tensor, face: FacePrediction, number: str) -> str:
    assert face.box is not None
    was = f"corrected from {face.primary_label}" if face.changed else "unchanged by the correction"
    return (
        '<section class="card"><header>'
        f'<img alt="face {number}" src="{_data_url(crop(picture, face.box), FACE_PIXELS)}"><div>'
        f"<h3>{number}{escape(face.label or '')} {face.probability:.2f}</h3>"
        f"<p>{escape(was)}; the {face.decided_by} branch gave most of it</p></div></header>"
        f"{_branches(face)}{_classes(face)}</section>"
    )


def _branches(face: FacePrediction) -> str:
    """Each distribution's own answer, and how sure it is."""
    items = []
    for name, title in BRANCHES.items():
        probs: dict[str, float] | None = getattr(face, name)
        if probs is None:
            continue
        sure = face.confidence if name == "corrected" else getattr(face, f"{name}_confidence")
        items.append(
            f'<div style="border-color: var(--{name})">{title}'
            f"<b>{escape(max(probs, key=lambda each: probs[each]))}</b>confidence {sure:.2f}</div>"
        )
    return f'<div class="branches">{"".join(items)}</div>'


def _classes(face: FacePrediction) -> str:
    """A row for each class: bars of all distributions, and how close its anchors are."""
    distances = face.anchor_distances or {}
    all_distances = [each for row in distances.values() for each in row]
    least, most = (min(all_distances), max(all_distances)) if distances else (0.0, 1.0)
    rows = []
    for name, probability in (face.corrected or {}).items():
        bars = "".join(
            f'<div class="bar {branch}" style="width: {100 * getattr(face, branch)[name]:.1f}%; '
            f'background: var(--{branch})"></div>'
            for branch in BRANCHES
            if getattr(face, branch) is not None
        )
        cells = "".join(
            f'<i title="distance {each:.3f}" class="{"nearest" if each == least else ""}" '
            f'style="opacity: {1 - 0.92 * (each - least) / max(most - least, 1e-9):.2f}"></i>'
            for each in distances.get(name, [])
        )
        rows.append(
            f'<span class="{"chosen" if name == face.label else ""}">{escape(name)}</span>'
            f'<div>{bars}</div><span class="value">{probability:.2f}</span>'
            f'<div class="anchors">{cells}</div>'
        )
    hint = (
        "<p>On the right, the anchors of each class: the stronger the colour, the closer to this "
        "face. The nearest of all is outlined.</p>"
    )
    return f'<div class="classes">{"".join(rows)}</div>{hint if distances else ""}'


def _marked(picture: Tensor, faces: Sequence[FacePrediction]) -> str:
    _, height, width = picture.shape
    boxes = "".join(
        f'<div class="box" style="left: {100 * box.left / width:.2f}%; '
        f"top: {100 * box.top / height:.2f}%; width: {100 * (box.right - box.left) / width:.2f}%; "
        f'height: {100 * (box.bottom - box.top) / height:.2f}%"><span>{number}</span></div>'
        for number, box in enumerate((each.box for each in faces), start=1)
        if box is not None
    )
    return (
        f'<div class="picture"><img alt="picture with {len(faces)} faces" '
        f'src="{_data_url(picture, PICTURE_PIXELS)}">{boxes}</div>'
    )


def _covers(picture: Tensor, box: Box | None) -> bool:
    return box == (0, 0, picture.shape[2], picture.shape[1])


def _data_url(picture: Tensor, most_pixels: int) -> str:
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((most_pixels, most_pixels))
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
