"""What the model says of the faces of one picture, as HTML without outside files."""

from collections.abc import Sequence

from face_detection import Box
from html_page import picture_url, render
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
    faces = [(each, each.box) for each in predictions if each.box is not None]
    whole = len(faces) == 1 and faces[0][1] == (0, 0, picture.shape[2], picture.shape[1])
    return render(
        "face_cards.html",
        marked=None if whole or not faces else picture_url(picture, PICTURE_PIXELS),
        cards=[_card(picture, face, box) for face, box in faces],
        problems=[each.problem for each in predictions if each.problem],
    )


def _card(picture: Tensor, face: FacePrediction, box: Box) -> dict[str, object]:
    _, height, width = picture.shape
    return {
        "face": face,
        "source": picture_url(crop(picture, box), FACE_PIXELS),
        "left": f"{100 * box.left / width:.2f}",
        "top": f"{100 * box.top / height:.2f}",
        "width": f"{100 * (box.right - box.left) / width:.2f}",
        "height": f"{100 * (box.bottom - box.top) / height:.2f}",
        "branches": _branches(face),
        "rows": _rows(face),
    }


def _branches(face: FacePrediction) -> list[tuple[str, str, str, float | None]]:
    """Each distribution: its colour, its title, its own class, and how sure it is."""
    found = []
    for name, title in BRANCHES.items():
        probs: dict[str, float] | None = getattr(face, name)
        if probs is not None:
            sure = face.confidence if name == "corrected" else getattr(face, f"{name}_confidence")
            found.append((name, title, max(probs, key=lambda each: probs[each]), sure))
    return found


def _rows(face: FacePrediction) -> list[dict[str, object]]:
    """Of each class the bars of all distributions, and how close its anchors are."""
    distances = face.anchor_distances or {}
    all_distances = [each for row in distances.values() for each in row]
    least, most = (min(all_distances), max(all_distances)) if distances else (0.0, 1.0)
    return [
        {
            "name": name,
            "probability": probability,
            "bars": [
                (branch, f"{100 * getattr(face, branch)[name]:.1f}")
                for branch in BRANCHES
                if getattr(face, branch) is not None
            ],
            "anchors": [
                {
                    "distance": f"{each:.3f}",
                    "nearest": each == least,
                    "opacity": f"{1 - 0.92 * (each - least) / max(most - least, 1e-9):.2f}",
                }
                for each in distances.get(name, [])
            ],
        }
        for name, probability in (face.corrected or {}).items()
    ]
