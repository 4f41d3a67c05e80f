"""Diagnose a trained model: find idle branches, collapsed anchors and harmful corrections."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.core.balancer import ReliabilityBalancer
from reliability_balance.core.class_prior import with_class_prior
from reliability_balance.core.output import BalancerOutput, join_outputs, on_cpu
from reliability_balance.diagnosis import rules
from reliability_balance.diagnosis.symptoms import (
    Changes,
    anchor_spacing,
    anchor_use,
    branch_agreement,
    branches_of,
    class_shares,
    count_changes,
    count_changes_without,
    non_finite_parameters,
    recalls,
)

LABELS = ("labels", "index")  # keys of a batch that are not arguments of the model


@dataclass(frozen=True)
class Diagnosis:
    """Measurements and findings of :func:`diagnose`; ``str`` gives a report.

    ``anchor_use`` (C, K) is None if the anchors are switched off. ``without_unused`` counts how the
    anchor branch's predictions would change without the anchors that are never the nearest of
    their class; None if that is unknown. ``findings`` is empty for a healthy model. A model with
    NaN or infinite weights is not run; ``samples`` is then 0.
    """

    samples: int
    accuracy: float
    confidences: dict[str, float]
    agreement: dict[str, float]
    changes: Changes
    anchor_use: Tensor | None
    without_unused: Changes | None
    findings: tuple[rules.Finding, ...]

    def __str__(self) -> str:
        """Return the measurements, then the findings with advice."""
        lines = self._measured() if self.samples else []
        lines += [f"- {found.what}\n  {found.advice}" for found in self.findings]
        if not self.findings:
            lines.append("no problem found")
        return "\n".join(lines)

    def _measured(self) -> list[str]:
        confidences = {name: f"{value:.2f}" for name, value in self.confidences.items()}
        agreed = {name: f"{100 * value:.1f} %" for name, value in self.agreement.items()}
        changes = self.changes
        lines = [
            f"{self.samples} samples, accuracy {100 * self.accuracy:.1f} %",
            "mean confidence: " + _listed(confidences),
            f"changed predictions: {changes.changed}, of which {changes.helped} became right, "
            f"{changes.harmed} wrong, and {changes.still_wrong} stayed wrong",
        ]
        if agreed:
            lines.append("branches that agree: " + _listed(agreed))
        if self.anchor_use is not None:
            used, total = int((self.anchor_use > 0).sum()), self.anchor_use.numel()
            lines.append(f"anchors in use: {used} of {total}")
            without = self.without_unused
            if without is not None and used < total:
                lines.append(
                    f"without the others the anchor branch would change {without.changed} "
                    f"predictions: {without.helped} would become right, {without.harmed} wrong"
                )
        return lines


def diagnose(model: nn.Module, loader: Iterable[Any]) -> Diagnosis:
    """Measure a trained model on labelled data, and report what is wrong and what to do.

    If the balancer's `class_prior` is uneven, as after training with :class:`RobustLoss`, the
    model predicts for evenly frequent classes. Then confidence and class shares are judged after
    :func:`core.with_class_prior` with the frequencies of the labels; accuracy and
    corrections are those of the unadjusted predictions.

    Args:
        model: gives a :class:`BalancerOutput`: a balancer, or a wrapped classifier. Its mode is
            restored afterwards.
        loader: labelled batches: (inputs, labels), where later entries such as the samples' index
            are ignored; or a mapping with "labels", whose other entries except "index" are keyword
            arguments of the model. Labels are class indices. Inputs are a tensor, a tuple of
            arguments, or a mapping of keyword arguments, and are moved to the model's device.

    Raises:
        TypeError: on any other batch or output of the model, or labels that are not indices.
        ValueError: if there is no batch, or on wrong shapes or labels.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> balancer = ReliabilityBalancer(8, num_classes=2, delta=1000.0)
        >>> diagnosis = diagnose(balancer, [(torch.randn(64, 8), torch.arange(64) % 2)])
        >>> "the anchor branch is uniform: it has no effect" in str(diagnosis)
        True
    """
    non_finite = non_finite_parameters(model)
    if non_finite:
        nothing = Changes(0, 0, 0, 0)
        found = (rules.non_finite(non_finite),)
        return Diagnosis(0, float("nan"), {}, {}, nothing, None, None, found)
    output, labels = _run(model, loader)
    use = without = None
    findings: list[rules.Finding | None] = []
    balancer = _balancer(model)
    branches = branches_of(output)
    num_classes = output.corrected.shape[-1]
    if output.distances is not None and output.anchors is not None:
        use = anchor_use(output.distances, labels)
        if balancer is not None:
            without = count_changes_without(output.distances, labels, balancer.delta)
            findings.append(rules.misleading_anchors(use, without, len(labels)))
        per_class = {
            name: recalls(probs.argmax(-1), labels, num_classes) for name, probs in branches.items()
        }
        findings += [
            rules.useless_anchors(per_class, labels.bincount(minlength=num_classes)),
            rules.collapsed_anchors(anchor_spacing(output.anchors)),
        ]
    rights = {name: _accuracy(probs, labels) for name, probs in branches.items()}
    findings += [
        rules.idle_branch(name, probs)
        or rules.lagging_branch(name, rights[name], max(rights.values()))
        for name, probs in branches.items()
    ]
    changes = count_changes(output, labels)
    accuracy = _accuracy(output.corrected, labels)
    # Predictions that are compared with the labels need the labels' class frequencies.
    prior = None if balancer is None else balancer.class_prior
    for_even = prior is not None and not torch.allclose(prior, prior.mean())
    judged = (_as_frequent_as(labels, output) if for_even else output).corrected
    findings += [
        rules.harmful_correction(changes.helped, changes.harmed),
        rules.miscalibration(float(judged.amax(-1).mean()), _accuracy(judged, labels)),
        rules.unbalanced_predictions(
            class_shares(judged.argmax(-1), num_classes),
            class_shares(labels, num_classes),
            len(labels),
        ),
    ]
    return Diagnosis(
        samples=len(labels),
        accuracy=accuracy,
        confidences={
            name: float(RF.confidence(probs).mean())
            for name, probs in {"corrected": output.corrected, **branches}.items()
        },
        agreement=branch_agreement(output),
        changes=changes,
        anchor_use=use,
        without_unused=without,
        findings=tuple(found for found in findings if found is not None),
    )


@torch.no_grad()
def _run(model: nn.Module, loader: Iterable[Any]) -> tuple[BalancerOutput, Tensor]:
    """Return outputs and labels of all batches, on the CPU."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    outputs, labels = [], []
    model.eval()
    try:
        for batch in loader:
            inputs, batch_labels = _inputs_and_labels(batch)
            output = _call(model, inputs, device)
            if not isinstance(output, BalancerOutput):
                raise TypeError(f"`model` must give a BalancerOutput; got {type(output).__name__}")
            checks.indices("labels", batch_labels)
            num_samples, num_classes = output.corrected.shape
            checks.labels(batch_labels, torch.Size([num_samples]), num_classes)
            checks.label_values(batch_labels, num_classes)
            outputs.append(on_cpu(output))
            labels.append(batch_labels.cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not outputs:
        raise ValueError("`loader` must give at least 1 batch; got 0")
    return join_outputs(outputs), torch.cat(labels)


def _inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """Split a batch into inputs and labels, ignoring the rest."""
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: batch[name] for name in batch if name not in LABELS}, batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return batch[0], batch[1]
    got = type(batch).__name__
    if isinstance(batch, Mapping):
        got += f" of {', '.join(map(repr, batch)) or 'nothing'}"
    elif isinstance(batch, (tuple, list)):
        got += f" of {len(batch)}"
    raise TypeError(
        "`loader` must give batches (inputs, labels), (inputs, labels, ...) or a mapping with "
        f"'labels'; got {got}"
    )


def _balancer(model: nn.Module) -> ReliabilityBalancer | None:
    """Return the balancer in a model, or None."""
    return next((each for each in model.modules() if isinstance(each, ReliabilityBalancer)), None)


def _as_frequent_as(labels: Tensor, output: BalancerOutput) -> BalancerOutput:
    """Adjust predictions for even classes to the class frequencies of these labels."""
    counts = labels.bincount(minlength=output.corrected.shape[-1])
    return with_class_prior(output, counts.clamp_min(0.5))


def _accuracy(probs: Tensor, labels: Tensor) -> float:
    return float((probs.argmax(-1) == labels).float().mean())


def _call(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return model(**{name: _moved(value, device) for name, value in inputs.items()})
    if isinstance(inputs, (tuple, list)):
        return model(*(_moved(value, device) for value in inputs))
    return model(_moved(inputs, device))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
