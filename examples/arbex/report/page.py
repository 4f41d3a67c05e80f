"""The report as one self-contained page: a verdict first, then sections that fold."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.arbex.configuration import dump_config
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.plain_text import printable
from examples.arbex.report import judgement
from examples.arbex.report.evaluation import describe_changes
from examples.arbex.report.html_page import picture_url, save_page, svg_url
from examples.arbex.report.judgement import Judgement
from examples.arbex.report.prediction_figures import draw_reliability, draw_risk
from examples.arbex.report.results import RunResults
from examples.arbex.report.training_figures import (
    draw_accuracy,
    draw_anchors,
    draw_embedding,
    draw_loss,
    read_history,
)
from reliability_balance import BalancerOutput

GALLERY = 21  # doubtful faces with their pictures
EXAMPLES = 8
PIXELS = 144  # of a picture's longer side
OURS, OTHER = "RobustLoss", "cross-entropy"
SCORES = {  # field of FaceScores: label, unit, decimals, what it means
    "accuracy": ("accuracy", " %", 1, "Share of the faces whose most probable class is the label."),
    "mean_class_accuracy": (
        *("mean class accuracy", " %", 1),
        "Accuracy of each class, averaged: rare classes count as much as frequent ones.",
    ),
    "macro_precision": (
        *("macro precision", " %", 1),
        "Share of the predictions of a class that are right, averaged over the classes.",
    ),
    "macro_f1": (
        *("macro F1", " %", 1),
        "Harmonic mean of precision and recall of a class, averaged over the classes.",
    ),
    "nll": (
        *("NLL", " nats", 3),
        "Negative log-likelihood of the labels: punishes wrong predictions that are sure.",
    ),
    "brier": (
        *("Brier score", "", 3),
        "Squared distance between probabilities and label, from 0 (best) to 2.",
    ),
    "ece": (
        *("ECE", " %", 1),
        "Expected calibration error: how far probabilities are from the share that is right, on "
        "average. 0 is perfect.",
    ),
    "aurc": (
        *("AURC", " %", 1),
        "Area under the risk-coverage curve: error rate when only the most confident predictions "
        "are used, averaged over all shares.",
    ),
    "kl": (
        *("KL to the votes", " nats", 3),
        "Kullback-Leibler divergence from the true label distribution, or the votes of people, to "
        "the predicted one. 0 is perfect.",
    ),
    "total_variation": (
        *("total variation", " %", 1),
        "Probability that is in the wrong classes, compared with the true label distribution.",
    ),
}
TITLES = {
    "labels": "Doubtful labels",
    "calibration": "Calibration",
    "risk": "Risk and coverage",
    "classes": "Classes",
}
DOUBT = "Estimated probability that the given label is wrong."


@dataclass(frozen=True)
class Card:
    """A headline number: its bars are (name, percent of the width, text, kind)."""

    label: str
    tip: str
    value: str
    unit: str
    judged: Judgement
    bars: Sequence[tuple[str, float, str, str]] = ()


def write_page(
    path: Path,
    results: RunResults,
    *,
    bundle: ModelBundle,
    test: FaceTable,
    output: BalancerOutput,
    train: FaceTable | None = None,
    history: Path | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page, and its figures into ``figures/`` beside it.

    Args:
        path: of the page.
        results: the numbers of the run; a part that is None has no section.
        bundle: the model.
        test: the N test faces, in the model's classes.
        output: predictions of the test faces.
        train: training faces, for the pictures of doubtful labels. None: no pictures.
        history: the training's CSV file, for its curves. None: no curves.
        notes: sentences to show at the top.
    """
    names = tuple(map(printable, bundle.class_names))
    figures = _draw(path.parent / "figures", results, names, test, output, history)
    evaluation, config = results.evaluation, bundle.config
    verdict = judgement.overall(results)
    save_page(
        path,
        "report.html",
        title=f"ARBEx on {evaluation.dataset}",
        kicker=f"ARBEx on {evaluation.dataset}",
        verdict=verdict,
        lead=_lead(results, bundle, train),
        notes=notes,
        cards=_cards(results),
        next_steps=list(
            judgement.next_steps(results, f"python -m examples.arbex review {path.parent}")
        )[:5],
        figures=figures,
        titles=TITLES,
        doubtful=_doubtful(results, train),
        calibration=_calibration(results),
        risk=_risk(results),
        confusion=_confusion(results, names),
        classes=_classes(results),
        scores=_scores(results),
        examples=_examples(output, replace(test, class_names=names)),
        training=f"{config.optimization.epochs} epochs at most; the best on validation is kept",
        clustering=_clustering(results),
        recipe=dump_config(config),
        versions=json.dumps(bundle.versions, indent=2),
    )


def _lead(results: RunResults, bundle: ModelBundle, train: FaceTable | None) -> str:
    config, doubtful = bundle.config, results.doubtful
    count = len(train) if train is not None else doubtful.num_labels if doubtful else None
    trained = f"trained on {count:,} faces" if count else "trained before"
    if doubtful is not None and doubtful.found is not None:
        share = 100 * doubtful.found.num_wrong / doubtful.num_labels
        trained += f", {share:.0f} % of them with wrong labels,"
    return (
        f"Encoder {config.encoder.name} with the “{config.base}” recipe, {trained} for "
        f"{config.optimization.epochs} epochs; measured on {results.evaluation.num_faces:,} other "
        f"faces in {len(bundle.class_names)} classes."
    )


def _cards(results: RunResults) -> list[Card]:
    scores, count = results.evaluation.corrected, results.evaluation.num_faces
    other = None if results.baseline is None else results.baseline.scores
    cards = []
    for field in ("accuracy", "mean_class_accuracy"):
        ours = getattr(scores, field)
        bars = [(OURS, ours, "", "ours")]
        judged = Judgement("")
        if other is not None:
            theirs = getattr(other, field)
            bars.append((OTHER, theirs, _text(field, theirs), ""))
            judged = judgement.points_above(ours, theirs, count)
        cards.append(_card(field, f"{ours:.1f} %", judged, bars))
    if scores.kl is not None:
        bars, judged = [], Judgement("")
        if other is not None and other.kl is not None:
            most = max(scores.kl, other.kl, 1e-9)
            bars = [
                (OURS, 100 * scores.kl / most, "", "ours"),
                (OTHER, 100 * other.kl / most, f"{other.kl:.3f}", ""),
            ]
            judged = judgement.share_below(scores.kl, other.kl)
        cards.append(_card("kl", f"{scores.kl:.3f} nats", judged, bars))
    cards += _calibration_card(results)
    cards += _label_cards(results)
    return cards


def _card(
    field: str,
    value: str,
    judged: Judgement,
    bars: Sequence[tuple[str, float, str, str]] = (),
) -> Card:
    label, _, _, tip = SCORES[field]
    number, _, unit = value.partition(" ")
    return Card(label, tip, number, unit, judged, bars if len(bars) > 1 else ())


def _calibration_card(results: RunResults) -> list[Card]:
    calibration = results.calibration
    if calibration is None:
        return []
    before, after = calibration.before.ece, calibration.after.ece
    rows = [("as trained", before, "other"), ("calibrated", after, "ours")]
    if results.baseline is not None:
        rows.append((OTHER, results.baseline.scores.ece, "other"))
    most = max(value for _, value, _ in rows) or 1.0
    bars = [(name, 100 * value / most, f"{value:.1f} %", kind) for name, value, kind in rows]
    judged = judgement.calibrated(calibration)
    card = _card("ece", f"{after:.1f} % after calibration", judged, bars)
    return [replace(card, label="calibration error (ECE)")]


def _label_cards(results: RunResults) -> list[Card]:
    doubtful = results.doubtful
    if doubtful is None or doubtful.caution:
        return []
    found = doubtful.found
    if found is None or not found.num_wrong:
        share = 100 * doubtful.num_mislabelled / max(doubtful.num_labels, 1)
        return [
            Card(
                "labels called wrong",
                "Training labels with a doubt above 50 % that clearly look like another class.",
                f"{doubtful.num_mislabelled:,}",
                f"of {doubtful.num_labels:,}",
                Judgement(f"{share:.1f} % of the training labels"),
            )
        ]
    share = 100 * found.num_found / max(found.num_wrong, 1)
    bars = [("found", share, f"{share:.0f} %", "ours")]
    if found.precision is not None:
        bars.append(("right alarms", found.precision, f"{found.precision:.0f} %", ""))
    by_chance = 100 * found.num_wrong / max(doubtful.num_labels, 1)
    first = found.precision_of_first
    return [
        Card(
            "wrong labels found",
            "Training labels that are wrong, and that the ranking calls mislabelled. The true "
            "labels are known here, and were not used.",
            f"{found.num_found:,}",
            f"of {found.num_wrong:,}",
            judgement.found_labels(share, found.precision),
            bars,
        ),
        Card(
            "wrong among the 100 most doubtful",
            "Precision among the first 100 of the ranking. By chance it would be the share of "
            "wrong labels.",
            f"{first:.0f}",
            "%",
            judgement.precision_of_first(first),
            [
                ("by doubt", first, f"{first:.0f} %", "ours"),
                ("by chance", by_chance, f"{by_chance:.0f} %", ""),
            ],
        ),
    ]


def _doubtful(results: RunResults, train: FaceTable | None) -> dict[str, Any] | None:
    doubtful = results.doubtful
    if doubtful is None:
        return None
    shown = doubtful.first[: GALLERY if train is not None else 0]
    rate = doubtful.noise_rate
    estimate = ""
    if rate is not None:
        interval = f"[{rate.low:.0f}, {rate.high:.0f}]"
        estimate = f" Estimated share of wrong labels: {rate.value:.0f} % {interval}."
    return {
        "summary": f"{doubtful.num_mislabelled:,} of {doubtful.num_labels:,} labels called wrong, "
        f"{doubtful.num_ambiguous:,} ambiguous",
        "explanation": "Training faces whose label is most likely wrong: the given label, the "
        f"suggested one, and the doubt.{estimate}",
        "caution": doubtful.caution,
        "tip": DOUBT,
        "faces": [
            {
                "name": each.name,
                "given": each.given,
                "suggested": each.suggested,
                "doubt": f"{100 * each.doubt:.0f} %",
                "source": picture_url(train.images[each.row], PIXELS),
                **_truth(each.given, each.suggested, each.truth),
            }
            for each in shown
            if train is not None
        ],
        "more": f"All {doubtful.num_labels:,} labels are in doubtful_labels.csv.",
    }


def _truth(given: str, suggested: str, truth: str | None) -> dict[str, str]:
    """Say whether the suggestion is right, where the true label is known."""
    if truth is None:
        return {"truth": "", "tone": ""}
    if truth == given:
        return {"truth": "the label was right", "tone": "bad"}
    if truth == suggested:
        return {"truth": "suggestion right", "tone": "good"}
    return {"truth": f"wrong label, but is {truth}", "tone": "warn"}


def _calibration(results: RunResults) -> dict[str, Any] | None:
    calibration = results.calibration
    if calibration is None:
        return None
    before, after = (
        judgement.calibration_of(scores.ece, bins)
        for scores, bins in (
            (calibration.before, calibration.bins_before),
            (calibration.after, calibration.bins_after),
        )
    )
    fields = ("ece", "nll", "brier", "accuracy")
    columns = [calibration.before, calibration.after]
    return {
        "summary": f"probabilities are off by {calibration.before.ece:.1f} points as trained, by "
        f"{calibration.after.ece:.1f} after calibration",
        "explanation": f"As trained, the model is {before.text}; after calibration it is "
        f"{after.text}. Calibrated by {calibration.method} on {calibration.num_fitted:,} "
        "validation faces.",
        "head": ["", "as trained", "calibrated"],
        "rows": _rows(fields, columns),
        "tips": _tips(fields),
    }


def _risk(results: RunResults) -> dict[str, Any] | None:
    selective = results.selective
    if selective is None:
        return None
    points = {}
    for share in (50, 80, 90, 100):
        nearest = min(selective.curve, key=lambda each: abs(each.coverage - share))
        points[share] = nearest.risk
    if selective.threshold is None or selective.risk is None:
        certain = (
            f"No threshold keeps the error rate below {selective.max_risk:.0f} % with certainty."
        )
    else:
        certain = (
            f"Below a probability of {100 * selective.threshold:.0f} % the model says “not sure”: "
            f"then at most {selective.max_risk:.0f} % of its answers are wrong, with 95 % "
            "probability."
        )
    return {
        "summary": f"error rate {points[100]:.1f} % on all faces, {points[50]:.1f} % on the surer "
        "half",
        "explanation": "The fewer of the least confident faces the model answers for, the fewer "
        f"errors it makes. {certain}",
        "head": ["coverage", "error rate"],
        "rows": [[f"{share} %", f"{risk:.1f} %"] for share, risk in points.items()],
    }


def _confusion(results: RunResults, names: Sequence[str]) -> dict[str, Any]:
    counts = torch.tensor(results.evaluation.confusion)
    shares = 100 * counts / counts.sum(1, keepdim=True).clamp_min(1)
    off = counts.clone().fill_diagonal_(0)
    row, column = divmod(int(off.argmax()), len(names))
    return {
        "worst": f"Most often, “{names[row]}” is taken for “{names[column]}”: "
        f"{int(off[row, column])} of {int(counts[row].sum())} faces."
        if int(off.sum())
        else "",
        "names": names,
        "rows": [
            (name, list(zip(of_row.tolist(), share.round().int().tolist(), strict=True)))
            for name, of_row, share in zip(names, counts, shares, strict=True)
        ],
    }


def _classes(results: RunResults) -> dict[str, Any]:
    known = [each for each in results.evaluation.classes if each.support]
    best, worst = (choose(known, key=lambda each: each.recall) for choose in (max, min))
    return {
        "summary": f"best “{best.name}” ({best.recall:.0f} % recognised), "
        f"worst “{worst.name}” ({worst.recall:.0f} %)",
        "head": ["class", "faces", "precision", "recall", "F1"],
        "tips": {
            "precision": "Share of the predictions of this class that are right.",
            "recall": "Share of the faces of this class that are recognised.",
            "F1": "Harmonic mean of precision and recall.",
        },
        "rows": [
            [
                *(each.name, f"{each.support:,}"),
                *(f"{value:.1f} %" for value in (each.precision, each.recall, each.f1)),
            ]
            for each in results.evaluation.classes
        ],
    }


def _clustering(results: RunResults) -> list[tuple[str, str, str]]:
    """Return label, tip and value of each score of the embedding."""
    clustering = results.evaluation.clustering
    if clustering is None:
        return []
    return [
        (
            "Davies-Bouldin index",
            "Spread of the classes over the distance between them, in the embedding space. Lower "
            "is better.",
            f"{clustering.davies_bouldin:.2f} (lower is better)",
        ),
        (
            "Calinski-Harabasz index",
            "Variance between the classes over the variance within them. Higher is better.",
            f"{clustering.calinski_harabasz:.0f} (higher is better)",
        ),
    ]


def _scores(results: RunResults) -> dict[str, Any]:
    evaluation = results.evaluation
    columns = {"primary": evaluation.primary, "corrected": evaluation.corrected}
    if results.calibration is not None:
        columns["calibrated"] = results.calibration.after
    if results.baseline is not None:
        columns[OTHER] = results.baseline.scores
    fields = [name for name in SCORES if getattr(evaluation.corrected, name) is not None]
    attainable = evaluation.attainable_accuracy
    notes = [f"{describe_changes(evaluation.changes)}."]
    if attainable is not None:
        notes.append(
            f"The faces are ambiguous: predicting the most probable class of each true "
            f"distribution would be right for {attainable:.1f} %."
        )
    if results.baseline is not None:
        notes.append(f"Cross-entropy: {results.baseline.origin}.")
    return {
        "summary": f"{', '.join(columns)}",
        "head": ["", *columns],
        "tips": {
            **_tips(fields),
            "primary": "Prediction of the classification head alone.",
            "corrected": "Primary, anchor and attention branch, fused by confidence.",
            OTHER: "The same encoder with an ordinary head and cross-entropy.",
        },
        "rows": _rows(fields, list(columns.values())),
        "note": " ".join(notes),
    }


def _rows(fields: Sequence[str], columns: Sequence[object]) -> list[list[str]]:
    return [
        [SCORES[field][0], *(_text(field, getattr(each, field)) for each in columns)]
        for field in fields
    ]


def _tips(fields: Sequence[str]) -> dict[str, str]:
    return {SCORES[field][0]: SCORES[field][3] for field in fields}


def _text(field: str, value: float | None) -> str:
    _, unit, decimals, _ = SCORES[field]
    return "" if value is None else f"{value:.{decimals}f}{unit}"


def _examples(output: BalancerOutput, faces: FaceTable) -> dict[str, Any]:
    """Return faces with their distributions (Fig. 5)."""
    chosen = choose_faces(output, faces.labels)
    truth = faces.distributions
    name = faces.class_names

    def example(index: int, effect: str) -> dict[str, Any]:
        before, after = (int(probs[index].argmax()) for probs in (output.primary, output.corrected))
        label = int(faces.labels[index])
        rows = [
            {
                "name": name[place],
                "primary": round(100 * float(output.primary[index, place]), 1),
                "corrected": round(100 * float(output.corrected[index, place]), 1),
                "truth": None if truth is None else round(100 * float(truth[index, place]), 1),
            }
            for place in range(len(name))
        ]
        return {
            "source": picture_url(faces.images[index], PIXELS),
            "label": name[label],
            "title": name[after] if before == after else f"{name[before]} → {name[after]}",
            "tone": "good" if after == label else "bad",
            "effect": effect,
            "rows": rows,
        }

    return {
        "summary": "primary and corrected distributions of single faces",
        "explanation": "First faces that the correction made right, then some that it made wrong, "
        "and the least confident ones. The selection is fair, not flattering.",
        "truth": "true distribution"
        if faces.distributions_are_true
        else "votes" * (truth is not None),
        "faces": [example(index, effect) for index, effect in chosen],
    }


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


def _draw(
    folder: Path,
    results: RunResults,
    names: Sequence[str],
    faces: FaceTable,
    output: BalancerOutput,
    history: Path | None,
) -> dict[str, dict[str, str]]:
    """Draw the figures that the run has data for."""
    figures: dict[str, dict[str, str]] = {}

    def path_of(name: str, alt: str, caption: str) -> Path:
        path = folder / f"{name}.svg"
        figures[name] = {"alt": alt, "caption": caption, "path": str(path)}
        return path

    calibration, selective, labels = results.calibration, results.selective, faces.labels
    if calibration is not None:
        draw_reliability(
            path_of(
                "reliability",
                f"Reliability diagram: ECE {calibration.before.ece:.1f} % as trained, "
                f"{calibration.after.ece:.1f} % calibrated",
                "Points on the dashed line are calibrated; below it the model is overconfident. "
                "Larger points have more faces.",
            ),
            {"as trained": calibration.bins_before, "calibrated": calibration.bins_after},
        )
    if selective is not None and selective.curve:
        draw_risk(
            path_of(
                "risk",
                f"Error rate by coverage: AURC {selective.aurc:.1f} %",
                "Error rate of the most confident share of the test faces; its mean is AURC.",
            ),
            selective,
        )
    if history is not None:
        epochs = read_history(history)
        best = 100 * max(epochs["validation_accuracy"])
        draw_accuracy(
            path_of(
                "accuracy",
                f"Accuracy by epoch: at best {best:.1f} % on validation",
                "Training accuracy is measured against the given labels, wrong ones included: it "
                "should stay below the share of right labels.",
            ),
            epochs,
        )
        draw_loss(
            path_of("loss", "Training loss by epoch", "Loss and its terms (Eq. 23), unweighted."),
            epochs,
        )
    if len(labels) > 1:  # one point has no projection
        draw_embedding(
            path_of(
                "embedding",
                "t-SNE of the test embeddings, coloured by label",
                "t-SNE of the test embeddings, coloured by label (Fig. 6 of the paper).",
            ),
            output.embedding,
            labels,
            names,
        )
        if output.anchors is not None:
            anchors = path_of("anchors", "Anchors and test embeddings in the plane", "")
            share = draw_anchors(anchors, output.embedding, output.anchors, labels, names)
            figures["anchors"]["caption"] = (
                "Anchors (stars) and test embeddings on the first two principal components, which "
                f"hold {100 * share:.0f} % of the variance."
            )
    for figure in figures.values():
        figure["source"] = svg_url(Path(figure.pop("path")).read_bytes())
    return figures
