"""Evaluate a trained model on a table of faces: primary and corrected predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_confusion_matrix

from examples.arbex.face_model import FaceModel
from examples.arbex.faces.augmentation import eval_transform
from examples.arbex.faces.face_dataset import FaceDataset
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.memory import advising_out_of_memory
from examples.arbex.report.scoring import (
    ClassScores,
    Clustering,
    FaceScores,
    score_classes,
    score_clustering,
    score_faces,
)
from reliability_balance import BalancerOutput
from reliability_balance.core import join_outputs, on_cpu
from reliability_balance.diagnosis import Changes, count_changes


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a data set; the confusion matrix has true classes as rows."""

    dataset: str
    num_faces: int
    primary: FaceScores
    corrected: FaceScores
    changes: Changes
    clustering: Clustering | None
    classes: list[ClassScores]
    confusion: list[list[int]]
    attainable_accuracy: float | None  # of the true most probable class, if known


@torch.inference_mode()
def predict_table(
    model: FaceModel, table: FaceTable, *, image_size: int, batch_size: int = 128, workers: int = 0
) -> BalancerOutput:
    """Predict every face of a table, in order.

    Raises:
        ValueError: if the table is empty.
        MemoryError: if a batch runs out of memory.
    """
    if len(table) == 0:
        raise ValueError(f"`table` must have faces to predict; got none of {table.name}")
    device = next(model.parameters()).device
    model.eval()
    dataset = FaceDataset(table, eval_transform(image_size))
    loader = DataLoader(dataset, batch_size, num_workers=workers)
    with advising_out_of_memory(f"try --device cpu, or fewer than {batch_size} faces at a time"):
        return join_outputs([on_cpu(model(batch.image.to(device))) for batch in loader])


def in_classes_of(table: FaceTable, class_names: Sequence[str]) -> tuple[FaceTable, list[str]]:
    """Map a table's labels to the classes of a model, by name.

    Args:
        table: with its own classes.
        class_names: classes of the model.

    Returns:
        The table with the model's classes, and the names of unknown classes, whose faces are left
        out.

    Raises:
        ValueError: if they have no class in common.
    """
    places = {name.casefold(): place for place, name in enumerate(class_names)}
    targets = [places.get(name.casefold()) for name in table.class_names]
    known = [index for index, target in enumerate(targets) if target is not None]
    if not known:
        raise ValueError(
            f"`table` must share classes with the model, which has {', '.join(class_names)}; "
            f"got {', '.join(table.class_names)}"
        )
    target = torch.tensor([-1 if place is None else place for place in targets])
    kept = table.select((target[table.labels] >= 0).nonzero().squeeze(-1))
    distributions = kept.distributions
    if distributions is not None:
        moved = torch.zeros(len(kept), len(class_names))
        moved[:, target[known]] = distributions[:, known]
        # Renormalise over the classes that the model knows.
        distributions = moved / moved.sum(-1, keepdim=True).clamp_min(1e-12)
    true_labels = None if kept.true_labels is None else target[kept.true_labels]
    if true_labels is not None and bool((true_labels < 0).any()):
        true_labels = None
    renamed = replace(
        kept,
        class_names=tuple(class_names),
        labels=target[kept.labels],
        true_labels=true_labels,
        distributions=distributions,
    )
    unknown = [
        name for name, place in zip(table.class_names, targets, strict=True) if place is None
    ]
    return renamed, unknown


def evaluate(output: BalancerOutput, table: FaceTable) -> Evaluation:
    """Score the predictions for a table's faces."""
    labels, distributions = table.labels, table.distributions
    attainable = None
    if distributions is not None and table.distributions_are_true:
        attainable = 100 * float(distributions.amax(-1).mean())
    confusion: Tensor = multiclass_confusion_matrix(
        output.corrected, labels, len(table.class_names)
    )
    return Evaluation(
        dataset=table.name,
        num_faces=len(table),
        primary=score_faces(
            output.primary, output.logits.float().log_softmax(-1), labels, distributions
        ),
        corrected=score_faces(output.corrected, output.log_probs, labels, distributions),
        changes=count_changes(output, labels),
        clustering=score_clustering(output.embedding.float(), labels),
        classes=score_classes(output.corrected, labels, table.class_names),
        confusion=confusion.tolist(),
        attainable_accuracy=attainable,
    )
