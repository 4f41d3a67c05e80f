"""Diagnose a trained model: calibration, coverage, label noise, idle branches and anchors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance import functional as RF
from reliability_balance.calibration.calibrated_model import assumes_even_classes
from reliability_balance.calibration.collecting import collect_outputs
from reliability_balance.calibration.familiarity import Familiarity
from reliability_balance.core.balancer import find_balancer
from reliability_balance.core.class_prior import with_class_prior
from reliability_balance.core.output import BalancerOutput
from reliability_balance.diagnosis import rules
from reliability_balance.diagnosis.symptoms import (
    Changes,
    anchor_spacing,
    anchor_use,
    branch_agreement,
    branches_of,
    class_coverage,
    class_shares,
    count_changes,
    count_changes_without,
    expected_calibration_error,
    non_finite_parameters,
    recalls,
)
from reliability_balance.labels import Interval, RobustLoss, noise_rate_bounds
from reliability_balance.labels.knowledge import beats_chance, chance_corrected
from reliability_balance.labels.posterior import as_probabilities
from reliability_balance.labels.tables import class_names_of, printable

COVERAGE = 0.9


@dataclass(frozen=True)
class Diagnosis:
    """Measurements and findings of :func:`diagnose`; ``str`` gives a report.

    ``calibration_error`` is the ECE. ``covered`` (C,) counts the samples of each class that
    prediction sets for 90 % coverage contain, of ``counts`` (C,). ``noise`` is the share of wrong
    labels; it is None for a model that was not run, and, without a criterion, for predictions that
    do not agree with the labels better than class frequencies do. ``unfamiliar`` counts unfamiliar
    inputs; None without a :class:`calibration.Familiarity`.
    ``anchor_use`` (C, K) is None if the anchors are switched off. ``without_unused`` counts how the
    anchor branch's predictions would change without the anchors that are never the nearest of
    their class; None if that is unknown. ``findings`` is empty if no rule applies. A model with
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
    calibration_error: float = float("nan")
    covered: Tensor | None = None
    counts: Tensor | None = None
    noise: Interval | None = None
    unfamiliar: int | None = None

    def __str__(self) -> str:
        """Return the measurements, then the findings with advice."""
        lines = self._measured() if self.samples else []
        lines += [f"- {found.what}\n  {found.advice}" for found in self.findings]
        if not self.findings:
            lines.append("no problem found in these measurements")
        return "\n".join(lines)

    def _measured(self) -> list[str]:
        confidences = {name: f"{value:.2f}" for name, value in self.confidences.items()}
        agreed = {name: f"{100 * value:.1f} %" for name, value in self.agreement.items()}
        changes = self.changes
        lines = [
            f"{self.samples} samples, accuracy {100 * self.accuracy:.1f} %",
            f"calibration error (ECE) {100 * self.calibration_error:.1f} %",
            *self._reliability(),
            "mean confidence (1 - normalized entropy): " + _listed(confidences),
            f"changed predictions: {changes.changed}, of which {changes.helped} became right, "
            f"{changes.harmed} wrong, and {changes.still_wrong} stayed wrong",
        ]
        if agreed:
            lines.append("branches that agree: " + _listed(agreed))
        if self.anchor_use is not None:
            used, total = int((self.anchor_use > 0).sum()), self.anchor_use.numel()
            most, of_class = int((self.anchor_use > 0).sum(-1).max()), self.anchor_use.shape[-1]
            lines.append(
                f"anchors in use, nearest to a sample of their class: {used} of {total} (at most "
                f"{most} of {of_class} in a class)"
            )
        return lines

    def _reliability(self) -> list[str]:
        lines = []
        if self.covered is not None and self.counts is not None:
            occurring = self.counts > 0
            shares = 100 * self.covered[occurring] / self.counts[occurring]
            lines.append(
                f"coverage of {100 * COVERAGE:.0f} % prediction sets, by class: "
                f"{float(shares.min()):.0f} to {float(shares.max()):.0f} %"
            )
        if self.noise is not None:
            lines.append(f"wrong labels: {self.noise}")
        if self.unfamiliar is not None:
            lines.append(f"unfamiliar inputs: {self.unfamiliar} of {self.samples}")
        return lines


def diagnose(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    criterion: RobustLoss | None = None,
    familiarity: Familiarity | None = None,
    class_names: Sequence[str] = (),
) -> Diagnosis:
    """Measure a trained model on labelled data, and report what is wrong and what to do.

    Use held-out data: on training data, a model may have memorized the labels. All measures take
    the labels as correct. The share of wrong ones is that of the criterion's training labels
    (:meth:`RobustLoss.noise_rate`); without a criterion, it is that of these labels by
    :func:`labels.noise_rate_bounds`, which is valid for held-out data only, and not given for a
    model that predicts no better than class frequencies.

    If the model predicts for evenly frequent classes, as after training with :class:`RobustLoss`
    (:func:`calibration.assumes_even_classes`), confidence and class shares are judged after
    :func:`core.with_class_prior` with the frequencies of the labels; accuracy and
    corrections are those of the unadjusted predictions.

    Args:
        model: gives a :class:`BalancerOutput`: a balancer, or a wrapped classifier. Its mode is
            restored afterwards.
        loader: labelled batches: (inputs, labels), where later entries such as the samples' index
            are ignored; or a mapping with "labels", whose other entries except "index" are keyword
            arguments of the model. Labels are class indices. Inputs are a tensor, a tuple of
            arguments, or a mapping of keyword arguments, and are moved to the model's device.
        criterion: the loss that the model was trained with. None: the noise rate is that of these
            labels.
        familiarity: fitted to the model, to count unfamiliar inputs. None: not counted.
        class_names: C names, for the findings; empty: class indices.

    Raises:
        TypeError: on any other batch or output of the model, labels that are not indices, names
            that are not a sequence, or a class without a name.
        ValueError: if there is no batch, on wrong shapes or labels, on another number of names
            than of classes, on two classes of the same name, or if the criterion has seen no sample
            often enough.

    Warns:
        UserWarning: if it is not certain whether predictions are for evenly frequent classes.

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
    output, labels = collect_outputs(model, loader)
    if not isinstance(output, BalancerOutput):
        raise TypeError(f"`model` must give a BalancerOutput; got {type(output).__name__}")
    use = without = None
    findings: list[rules.Finding | None] = []
    balancer = find_balancer(model)
    branches = branches_of(output)
    num_classes = output.corrected.shape[-1]
    known = class_names_of(class_names, num_classes) or range(num_classes)
    names = tuple(map(printable, known))
    if output.distances is not None and output.anchors is not None:
        use = anchor_use(output.distances, labels)
        if balancer is not None:
            without = count_changes_without(output.distances, labels, balancer.delta)
            findings.append(rules.misleading_anchors(use, without, len(labels)))
        per_class = {
            name: recalls(probs.argmax(-1), labels, num_classes) for name, probs in branches.items()
        }
        findings += [
            rules.useless_anchors(per_class, labels.bincount(minlength=num_classes), names),
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
    scores = output.log_probs.clamp_min(torch.finfo(torch.float16).min)  # log 0 is no score
    for_even = (
        balancer is not None
        and bool(scores.isfinite().all())  # a branch may have overflowed
        and assumes_even_classes(balancer, scores, labels)
    )
    judged = (_as_frequent_as(labels, output) if for_even else output).corrected
    top, predicted = judged.max(-1)
    noise = criterion.noise_rate() if criterion is not None else None
    covered = counts = None
    if bool(judged.isfinite().all()):  # a branch may have overflowed
        if noise is None and _beats_class_frequencies(judged, labels):
            noise = noise_rate_bounds(top.clamp_max(1.0), (predicted == labels).to(top))
        covered, counts = class_coverage(judged.log(), labels, COVERAGE)
        findings.append(rules.uncovered_classes(covered, counts, COVERAGE, names))
    if noise is not None:
        findings.append(rules.label_noise(noise))
    unfamiliar = None
    if familiarity is not None:
        unfamiliar = int((~familiarity.cpu().is_familiar(output)).sum())
        findings.append(
            rules.unfamiliar_inputs(unfamiliar, len(labels), familiarity.false_alarm_rate)
        )
    findings += [
        rules.harmful_correction(changes.helped, changes.harmed),
        rules.miscalibration(float(top.mean()), _accuracy(judged, labels)),
        rules.unbalanced_predictions(
            class_shares(predicted, num_classes),
            class_shares(labels, num_classes),
            len(labels),
            names,
            balanced=for_even,
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
        calibration_error=expected_calibration_error(judged, labels),
        covered=covered,
        counts=counts,
        noise=noise,
        unfamiliar=unfamiliar,
        findings=tuple(found for found in findings if found is not None),
    )


def _as_frequent_as(labels: Tensor, output: BalancerOutput) -> BalancerOutput:
    """Adjust predictions for even classes to the class frequencies of these labels."""
    counts = labels.bincount(minlength=output.corrected.shape[-1])
    return with_class_prior(output, counts.clamp_min(0.5))


def _beats_class_frequencies(probs: Tensor, labels: Tensor) -> bool:
    """Return whether Cohen's kappa of probabilities and labels shows that the model has learned."""
    given = as_probabilities(labels, probs)
    return beats_chance(*chance_corrected([(probs, given)], given.mean(0)))


def _accuracy(probs: Tensor, labels: Tensor) -> float:
    return float((probs.argmax(-1) == labels).float().mean())


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
