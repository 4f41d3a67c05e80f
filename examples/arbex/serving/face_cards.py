"""Predictions for the faces in a picture, as self-contained HTML."""

from collections.abc import Sequence

from torch import Tensor

from examples.arbex.report.html_page import picture_url, render
from examples.arbex.serving.face_detection import Box
from examples.arbex.serving.prediction import FacePrediction, crop

BRANCHES = {
    "corrected": "corrected",
    "primary": "primary",
    "anchor": "anchors",
    "attentive": "attention",
}
FACE_PIXELS, PICTURE_PIXELS = 192, 1024


def face_cards(picture: Tensor, predictions: Sequence[FacePrediction]) -> str:
    """Render a (3, H, W) uint8 picture with its faces marked, and a card for each face."""
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
    """Return colour, title, predicted class and confidence of each distribution."""
    found = []
    for name, title in BRANCHES.items():
        probs: dict[str, float] | None = getattr(face, name)
        if probs is not None:
            field = "confidence" if name == "corrected" else f"{name}_confidence"
            top = max(probs, key=lambda each: probs[each])
            found.append((name, title, top, getattr(face, field)))
    return found


def _rows(face: FacePrediction) -> list[dict[str, object]]:
    """Return for each class the bars of all distributions, and the distances of its anchors."""
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
