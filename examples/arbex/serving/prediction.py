"""Predict the faces in pictures and videos, with the branch that decided."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from examples.arbex.faces.augmentation import eval_transform
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.plain_text import say
from examples.arbex.serving.face_detection import Box, Detector
from examples.arbex.serving.media import Frame
from examples.result_files import open_result
from reliability_balance import BalancerOutput
from reliability_balance import functional as RF
from reliability_balance.core import on_cpu
from reliability_balance.labels import spreadsheet_text

NOT_SURE, UNFAMILIAR = "not sure", "unlike the training faces"
Branch = Literal["primary", "anchor", "attentive", "all"]


@dataclass(frozen=True)
class FacePrediction:
    """Prediction of one face: its box, class, and the confidence of each distribution.

    ``calibrated`` is the probability that the class is right, ``sure`` whether that is enough for
    the error rate that the model was fitted for, and ``familiar`` whether the face resembles the
    training faces; for a face that does not, ``calibrated`` does not hold. They are None if the
    model has none fitted, and so is a branch that it lacks. ``problem`` says why there is no
    prediction; all other fields except the name are then None.
    """

    name: str
    seconds: float | None = None
    box: Box | None = None
    label: str | None = None
    probability: float | None = None
    confidence: float | None = None
    calibrated: float | None = None
    sure: bool | None = None
    familiar: bool | None = None
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

    @property
    def doubts(self) -> list[str]:
        """Return why not to rely on the prediction."""
        reasons = {NOT_SURE: self.sure, UNFAMILIAR: self.familiar}
        return [reason for reason, holds in reasons.items() if holds is False]

    @property
    def decision(self) -> str:
        """Describe which branch decided; see :func:`deciding_branches`."""
        together = self.decided_by == "all"
        which = "all branches together" if together else f"the {self.decided_by} branch"
        return f"decided by {which}"


@torch.inference_mode()
def predict_frame(bundle: ModelBundle, frame: Frame, detect: Detector) -> list[FacePrediction]:
    """Predict every face in a frame; a damaged frame or one without faces gives a problem."""
    if frame.picture is None:
        return [FacePrediction(frame.name, frame.seconds, problem=frame.problem)]
    boxes = detect(frame.picture)
    if not boxes:
        return [FacePrediction(frame.name, frame.seconds, problem="no face was found")]
    transform = eval_transform(bundle.config.data.image_size)
    faces = torch.stack([transform(crop(frame.picture, box)) for box in boxes])
    device = next(bundle.model.parameters()).device
    output = on_cpu(bundle.model(faces.to(device)))
    deciders = deciding_branches(output)
    found = [
        _describe(bundle, frame, box, output, row, deciders[row]) for row, box in enumerate(boxes)
    ]
    if bundle.post_hoc is None:
        return found
    judged = zip(
        bundle.post_hoc.probability(output).tolist(),
        bundle.post_hoc.is_sure(output).tolist(),
        bundle.post_hoc.is_familiar(output).tolist(),
        strict=True,
    )
    return [
        replace(face, calibrated=calibrated, sure=sure, familiar=familiar)
        for face, (calibrated, sure, familiar) in zip(found, judged, strict=True)
    ]


def deciding_branches(output: BalancerOutput) -> list[Branch]:
    """Return the branch that decided each corrected class (Eq. 18-19).

    The probability of the corrected class is a weighted sum over the branches. Among the branches
    that predict this class themselves, the one with the largest contribution decides; if there is
    none, all decide together.
    """
    predicted = output.corrected.argmax(-1)
    if output.correction is None:
        return ["primary"] * len(predicted)
    of_primary = RF.fusion_weight(output.primary, output.correction)
    shares: dict[Branch, tuple[Tensor, Tensor]] = {"primary": (of_primary, output.primary)}
    if output.anchor is None or output.attentive is None:
        of_anchor = torch.full_like(of_primary, float(output.anchor is not None))
    else:
        of_anchor = RF.fusion_weight(output.anchor, output.attentive)
    if output.anchor is not None:
        shares["anchor"] = ((1 - of_primary) * of_anchor, output.anchor)
    if output.attentive is not None:
        shares["attentive"] = ((1 - of_primary) * (1 - of_anchor), output.attentive)
    parts = [
        (share * probs.amax(-1)).where(probs.argmax(-1) == predicted, -1.0)
        for share, probs in shares.values()
    ]
    largest, place = torch.stack(parts).max(0)
    names = list(shares)
    return [
        names[index] if part >= 0 else "all"
        for index, part in zip(place.tolist(), largest.tolist(), strict=True)
    ]


def crop(picture: Tensor, box: Box) -> Tensor:
    """Crop a (3, H, W) picture to a box."""
    return picture[:, box.top : box.bottom, box.left : box.right]


Writer = Callable[[Sequence[FacePrediction]], None]


@contextmanager
def prediction_files(folder: Path, class_names: Sequence[str]) -> Iterator[Writer]:
    r"""Write ``predictions.json`` with all results, and ``predictions.csv`` with a row per face.

    The table leaves out the distributions of the correction's branches and the distances. File
    names that are not UTF-8 are escaped there, as ``\udcff``; ``os.fsencode`` recovers the original
    names from the JSON file.

    Args:
        folder: folder of the files.
        class_names: of the model.

    Yields:
        A function that writes predictions as they come. They go to partial files, which replace
        earlier results at the end. If prediction stops early, the partial files stay.

    Raises:
        OSError: if the files cannot be written; earlier results stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = _PartialFile(folder / "predictions.csv", _csv_row(_columns(class_names)))
    full = _PartialFile(folder / "predictions.json", "[\n", "\n]\n")

    def write(predictions: Sequence[FacePrediction]) -> None:
        for each in predictions:
            row = _row(each, class_names)
            table.append(_csv_row(row.get(name) for name in _columns(class_names)))
            content = {**asdict(each), "box": each.box._asdict() if each.box else None}
            text = indent(json.dumps(content, indent=2), "  ")
            full.append(f",\n{text}" if full.count else text)

    try:
        with table, full:
            yield write
    except BaseException:
        if table.count:
            say(f"stopped; {table.partial} has the predictions so far")
        raise


class _PartialFile:
    """A file that is valid after each addition and replaces another file at the end."""

    def __init__(self, path: Path, head: str, tail: str = "") -> None:
        self.path, self.tail, self.count = path, tail.encode(), 0
        self.partial = path.with_name(f"{path.stem}.part-{os.getpid()}{path.suffix}")
        self.partial.unlink(missing_ok=True)
        self.file = self.partial.open("x+b")  # "x" follows no link
        self._write(head)

    def append(self, text: str) -> None:
        self._write(text)
        self.count += 1

    def _write(self, text: str) -> None:
        try:
            self.file.write(text.encode("utf-8", "backslashreplace"))
            end = self.file.tell()
            self.file.write(self.tail)
            self.file.flush()
            self.file.seek(end)
        except OSError as error:
            raise type(error)(
                f"{self.path} could not be written, and is as it was before; "
                f"{self.partial} has the predictions so far: {error}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with self.file, open_result(self.path) as result:
                self.file.seek(0)
                shutil.copyfileobj(self.file, result)
            self.partial.unlink()
            return
        with suppress(OSError):  # the same error once more
            self.file.close()
        if self.count == 0:
            self.partial.unlink(missing_ok=True)


def _csv_row(cells: Iterable[object]) -> str:
    line = io.StringIO()
    safe = (spreadsheet_text(each) if isinstance(each, str) else each for each in cells)
    csv.writer(line).writerow(safe)
    return line.getvalue()


def _columns(class_names: Sequence[str]) -> list[str]:
    return list(_row(FacePrediction(""), class_names))


def _row(prediction: FacePrediction, class_names: Sequence[str]) -> dict[str, object]:
    row = asdict(prediction)
    corrected, primary, box = (row.pop(name) for name in ("corrected", "primary", "box"))
    for name in ("anchor", "attentive", "anchor_distances"):
        del row[name]
    row |= dict(zip(Box._fields, box or [None] * 4, strict=True))
    for kind, probs in (("corrected", corrected), ("primary", primary)):
        row |= {f"{kind} {name}": (probs or {}).get(name) for name in class_names}
    return row


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
