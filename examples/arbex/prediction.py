"""Predict the faces of pictures and videos, and tell which branch decided."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from face_detection import Box, Detector
from faces.augmentation import eval_transform
from media import Frame
from model_bundle import ModelBundle
from result_files import save_json, save_text
from torch import Tensor

from reliability_balance import BalancerOutput
from reliability_balance import functional as RF

Branch = Literal["primary", "anchor", "attentive"]


@dataclass(frozen=True)
class FacePrediction:
    """One face: where it is, what it shows, and how sure each distribution is of it.

    A branch that the model lacks is None. ``problem`` is None, or says why there is no prediction;
    all but the name is then None.
    """

    name: str
    seconds: float | None = None
    box: Box | None = None
    label: str | None = None
    probability: float | None = None
    confidence: float | None = None
    primary_label: str | None = None
    primary_confidence: float | None = None
    changed: bool | None = None
    decided_by: Branch | None = None
    anchor_confidence: float | None = None
    attentive_confidence: float | None = None
    corrected: dict[str, float] | None = None
    primary: dict[str, float] | None = None
    anchor: dict[str, float] | None = None
    attentive: dict[str, float] | None = None
    anchor_distances: dict[str, list[float]] | None = None
    problem: str | None = None


@torch.inference_mode()
def predict_frame(bundle: ModelBundle, frame: Frame, detect: Detector) -> list[FacePrediction]:
    """Predict every face of a frame; a frame without a face, or damaged, gives its problem."""
    if frame.picture is None:
        return [FacePrediction(frame.name, frame.seconds, problem=frame.problem)]
    boxes = detect(frame.picture)
    if not boxes:
        return [FacePrediction(frame.name, frame.seconds, problem="no face was found")]
    transform = eval_transform(bundle.recipe.data.image_size)
    faces = torch.stack([transform(crop(frame.picture, box)) for box in boxes])
    device = next(bundle.model.parameters()).device
    output = bundle.model(faces.to(device))
    deciders = deciding_branches(output)
    return [
        _describe(bundle, frame, box, output, row, deciders[row]) for row, box in enumerate(boxes)
    ]


def deciding_branches(output: BalancerOutput) -> list[Branch]:
    """Name the branch that gave the most to each corrected class (Eq. 18-19).

    The probability of the corrected class is a sum with one part from each branch, by its weight.
    """
    predicted = output.corrected.argmax(-1, keepdim=True)

    def part(share: Tensor, probs: Tensor) -> Tensor:
        return share * probs.gather(-1, predicted).squeeze(-1)

    if output.correction is None:
        return ["primary"] * len(predicted)
    of_primary = RF.fusion_weight(output.primary, output.correction)
    parts: dict[Branch, Tensor] = {"primary": part(of_primary, output.primary)}
    if output.anchor is None or output.attentive is None:
        of_anchor = torch.full_like(of_primary, float(output.anchor is not None))
    else:
        of_anchor = RF.fusion_weight(output.anchor, output.attentive)
    if output.anchor is not None:
        parts["anchor"] = part((1 - of_primary) * of_anchor, output.anchor)
    if output.attentive is not None:
        parts["attentive"] = part((1 - of_primary) * (1 - of_anchor), output.attentive)
    names = list(parts)
    return [names[index] for index in torch.stack(list(parts.values())).argmax(0).tolist()]


def crop(picture: Tensor, box: Box) -> Tensor:
    """Cut a box out of a (3, H, W) picture."""
    return picture[:, box.top : box.bottom, box.left : box.right]


def save_predictions(folder: Path, predictions: Sequence[FacePrediction]) -> None:
    """Write ``predictions.json`` with all there is, and ``predictions.csv`` with a row a face.

    The table leaves out the distributions of the correction's branches, and the distances.
    """
    content = [
        {**asdict(each), "box": each.box._asdict() if each.box else None} for each in predictions
    ]
    save_json(folder / "predictions.json", content)
    rows = list(_rows(predictions))
    columns = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns))
    writer.writeheader()
    writer.writerows(rows)
    save_text(folder / "predictions.csv", table.getvalue())


def _rows(predictions: Iterable[FacePrediction]) -> Iterator[dict[str, object]]:
    for each in predictions:
        row = asdict(each)
        corrected, primary, box = (row.pop(name) for name in ("corrected", "primary", "box"))
        for name in ("anchor", "attentive", "anchor_distances"):
            del row[name]
        row |= dict(zip(Box._fields, box or [None] * 4, strict=True))
        for kind, probs in (("corrected", corrected), ("primary", primary)):
            row |= {f"{kind} {name}": value for name, value in (probs or {}).items()}
        yield row


def _describe(
    bundle: ModelBundle,
    frame: Frame,
    box: Box,
    output: BalancerOutput,
    row: int,
    decided_by: Branch,
) -> FacePrediction:
    names = bundle.class_names

    def by_class(values: Tensor | None) -> dict[str, Any] | None:
        return None if values is None else dict(zip(names, values[row].tolist(), strict=True))

    def number(values: Tensor | None) -> float | None:
        return None if values is None else float(values[row])

    corrected, primary = output.corrected[row], output.primary[row]
    return FacePrediction(
        name=frame.name,
        seconds=frame.seconds,
        box=box,
        label=names[int(corrected.argmax())],
        probability=float(corrected.max()),
        confidence=number(output.confidence),
        primary_label=names[int(primary.argmax())],
        primary_confidence=number(output.primary_confidence),
        changed=bool(output.changed[row]),
        decided_by=decided_by,
        anchor_confidence=number(output.anchor_confidence),
        attentive_confidence=number(output.attentive_confidence),
        corrected=by_class(output.corrected),
        primary=by_class(output.primary),
        anchor=by_class(output.anchor),
        attentive=by_class(output.attentive),
        anchor_distances=by_class(output.distances),
    )
