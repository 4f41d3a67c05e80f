"""A step of the targets: what follows from a batch, and how it is stored."""

from torch import Tensor

from reliability_balance import numerics
from reliability_balance.labels.given_labels import label_codes
from reliability_balance.labels.noise_matrix import SparseCounts
from reliability_balance.labels.posterior import as_probabilities, towards_
from reliability_balance.labels.ranks import mean_of_repeated
from reliability_balance.labels.rows import Parts
from reliability_balance.labels.target_state import TargetState


def follow(
    state: TargetState,
    index: Tensor,
    labels: Tensor,
    probs: Tensor,
    place: Tensor | None,
) -> tuple[Tensor, dict[str, Parts], dict[str, Parts]]:
    """Return the targets of this process's batch, and what to store of it.

    That is rows for its samples, and sums over them; nothing is changed yet.
    """
    rows: dict[str, Parts] = {}
    sums: dict[str, Parts] = {}
    given = _given(state, labels, probs)
    memorization = state.memorization
    if memorization is None:
        residual, debiased = None, probs
    else:
        residual = memorization.residuals.read(index, state._class_shares)
        debiased = memorization.debias(residual, probs)
    updates = state.updates[index] + 1
    rows["samples"] = index, updates
    if state.validate_args or not state._expects:
        rows["label codes"] = (label_codes(labels, state.num_classes),)
    updates = updates.unsqueeze(-1)
    average = _updated_average(state, index, updates, mean_of_repeated(place, debiased))
    # The residual is stored of the same classes, to find the largest only once.
    classes = state.averages.largest(average, labels if labels.ndim == 1 else given.argmax(-1))
    average, rows["averages"] = state.averages.compress(average, classes)
    rows["classes"] = (classes.int(),)
    scores = state._sharpened(average)
    beliefs, targets, counted = posteriors_of(state, scores, labels, given, updates)
    known = updates > state.held_for
    counted.mul_(known)
    rows["counts"], sums["counts"] = state.counts.collect(
        counted, labels, given, state._class_shares, classes
    )
    if state.annotators is not None:
        sums["annotators"] = state.annotators.collect(counted, labels, state.num_samples)
    sums["classes"] = (state.classes.collect(average, beliefs, known),)
    shown, held = state._memorization_groups(index, updates)
    targets = _with_held(targets, held, probs)
    if held is not None:
        rows["out of sample"] = state.out_of_sample.compress(index, average, held)
    if memorization is not None and residual is not None:
        if shown is not None and held is not None:
            strength = memorization.collect(residual, given, debiased, shown, held)
            sums["memorization"] = (strength,)
        excess = state.averages.entries(targets, classes) - state.averages.entries(probs, classes)
        excess = mean_of_repeated(place, excess)
        rows["residuals"] = memorization.with_excess(residual, excess, classes)
    return targets, rows, sums


def current_targets(state: TargetState, index: Tensor, labels: Tensor, probs: Tensor) -> Tensor:
    """Return the targets (B, C) that follow from the state as it is."""
    updates = state.updates[index].unsqueeze(-1)
    scores = state._scores(index)
    given = _given(state, labels, probs)
    _, targets, _ = posteriors_of(state, scores, labels, given, updates)
    _, held = state._memorization_groups(index, updates)
    return _with_held(targets, held, probs)


def store(
    state: TargetState,
    rows: dict[str, Parts],
    sums: dict[str, Parts],
    first: Tensor | None,
) -> None:
    """Store what :func:`follow` found, of all processes.

    Of a sample in the batches of several processes, the row at its place in `first` (B,) is stored.
    """
    index, updates = rows["samples"]
    (classes,) = rows["classes"]
    state.counts.add(rows["counts"], sums["counts"], state._class_shares, classes)
    if state.annotators is not None:
        state.annotators.add(*sums["annotators"])
    state.classes.add(*sums["classes"])
    if first is not None:
        rows = {name: tuple(each[first] for each in parts) for name, parts in rows.items()}
    state.updates[index] = updates
    (classes,) = rows["classes"]
    state.averages.store(index, rows["averages"], classes)
    if "out of sample" in rows:
        state.out_of_sample.store(index, rows["out of sample"])
    if state.memorization is not None:
        state.memorization.residuals.store(index, rows["residuals"], classes)
        if "memorization" in sums:
            state.memorization.add(*sums["memorization"])


def _given(state: TargetState, labels: Tensor, probs: Tensor) -> Tensor:
    """Return labels as probabilities (B, C), or index labels (B,) where C is large."""
    if labels.ndim == 1 and isinstance(state.counts, SparseCounts):
        return labels
    return as_probabilities(labels, numerics.widen(probs))


def posteriors_of(
    state: TargetState, scores: Tensor, labels: Tensor, given: Tensor, updates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return beliefs, targets by the posteriors, and sharper ones to estimate noise from, (B, C).

    `scores` are the logarithms of the beliefs, up to a constant, and may be overwritten. In the
    warm-up the targets are the given labels.
    """
    if state.annotators is None and not labels.is_floating_point():
        beliefs, refurbished, counted = state.counts.posteriors(
            scores, state.noise_temperature, labels, state._class_shares
        )
    else:
        posterior_of = state.posterior_rule()
        beliefs = numerics.softmax(scores)
        refurbished = posterior_of(beliefs, labels)
        counted = posterior_of(numerics.softmax(scores.div_(state.noise_temperature)), labels)
    weight = state.classes.posterior_weight(
        labels if labels.ndim == 1 else given, state.prior_count
    )
    is_due = updates > state.effective_warmup
    return beliefs, towards_(refurbished, given, weight * is_due), towards_(counted, given, weight)


def _updated_average(state: TargetState, index: Tensor, updates: Tensor, probs: Tensor) -> Tensor:
    """Return the averages (B, C) with these predictions."""
    old = numerics.widen(state.averages_of(index), probs)
    share = (
        updates.reciprocal().to(old.dtype)
        if state.momentum is None
        else 1.0 - state.momentum * (updates > 1).to(old.dtype)
    )
    return old.lerp_(numerics.widen(probs, old), share)


def _with_held(targets: Tensor, held: Tensor | None, probs: Tensor) -> Tensor:
    """Replace targets (B, C) by predictions where labels are held back, (B, 1); None: nowhere."""
    if held is None:
        return targets
    return targets.lerp_(probs.to(targets.dtype), held.to(targets.dtype))  # faster than `where`
