"""Test faces with their predicted distributions (Fig. 5), chosen by what the correction did."""

from dataclasses import dataclass

import torch
from torch import Tensor

from examples.arbex.faces.face_table import FaceTable
from examples.arbex.report.html_page import picture_url
from reliability_balance import BalancerOutput

EXAMPLES = 8
PIXELS = 144  # of a picture's longer side


@dataclass(frozen=True)
class ExampleFace:
    """A test face; ``rows`` have a class, and percent: primary, corrected, and true if known."""

    source: str
    label: str
    before: str
    after: str
    effect: str
    rows: list[tuple[str, float, float, float | None]]


def example_faces(output: BalancerOutput, faces: FaceTable) -> list[ExampleFace]:
    """Return faces to show, see :func:`choose_faces`."""
    names = faces.class_names
    found = []
    for index, effect in choose_faces(output, faces.labels):
        primary, corrected = output.primary[index], output.corrected[index]
        columns = [(100 * probs).tolist() for probs in (primary, corrected)]
        truth: list[float | None] = [None] * len(names)
        if faces.distributions is not None:
            truth = (100 * faces.distributions[index]).tolist()
        found.append(
            ExampleFace(
                picture_url(faces.images[index], PIXELS),
                names[int(faces.labels[index])],
                names[int(primary.argmax())],
                names[int(corrected.argmax())],
                effect,
                list(zip(names, *columns, truth, strict=True)),
            )
        )
    return found


def choose_faces(output: BalancerOutput, labels: Tensor) -> list[tuple[int, str]]:
    """Return the index of each face to show, and the effect of the correction on it.

    First faces that became right, most confident first; then some that became wrong; then the
    least confident ones.
    """
    was_right, is_right = (
        probs.argmax(-1) == labels for probs in (output.primary, output.corrected)
    )
    by_confidence = output.confidence.argsort(descending=True, stable=True)

    def pick(condition: Tensor, order: Tensor, count: int, effect: str) -> list[tuple[int, str]]:
        return [(index, effect) for index in order[condition[order]][:count].tolist()]

    better = pick(~was_right & is_right, by_confidence, EXAMPLES // 2, "the correction helped")
    worse = pick(was_right & ~is_right, by_confidence, EXAMPLES // 4, "the correction harmed")
    free = torch.ones_like(is_right)
    free[[index for index, _ in (*better, *worse)]] = False
    left = EXAMPLES - len(better) - len(worse)
    return better + worse + pick(free, by_confidence.flip(0), left, "least confident")
