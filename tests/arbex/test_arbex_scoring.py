import math
from dataclasses import replace

import pytest
import torch
from synthetic_faces import synthetic_table

from examples.arbex.report.evaluation import evaluate, in_classes_of
from examples.arbex.report.results import RunResults
from examples.arbex.report.scoring import (
    brier,
    kl_divergence,
    score_classes,
    score_clustering,
    score_faces,
    total_variation,
)
from examples.arbex.report.text import format_results
from reliability_balance import ReliabilityBalancer


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, 3, generator=generator)
    labels = torch.randint(3, (40,), generator=generator)
    truth = torch.randn(40, 3, generator=generator).softmax(-1)
    return logits.softmax(-1), logits.log_softmax(-1), labels, truth


def test_against_naive_loops(predictions):
    probs, log_probs, labels, truth = predictions
    n = len(labels)
    squares = divergence = variation = 0.0
    for i in range(n):
        for c in range(3):
            p, q = float(probs[i, c]), float(truth[i, c])
            squares += (p - (1.0 if c == int(labels[i]) else 0.0)) ** 2
            divergence += q * (math.log(q) - math.log(p))
            variation += abs(p - q) / 2
    assert brier(probs, labels) == pytest.approx(squares / n, rel=1e-5)
    assert kl_divergence(truth, log_probs) == pytest.approx(divergence / n, rel=1e-4)
    assert total_variation(truth, probs) == pytest.approx(variation / n, rel=1e-5)

    order = sorted(range(n), key=lambda i: -float(probs[i].max()))
    risks = []
    for kept in range(1, n + 1):
        wrong = sum(int(probs[i].argmax()) != int(labels[i]) for i in order[:kept])
        risks.append(wrong / kept)
    found = score_faces(probs, log_probs, labels, truth)
    assert found.aurc == pytest.approx(100 * sum(risks) / n)


def test_macro_scores_against_naive_loops(predictions):
    probs, log_probs, labels, truth = predictions
    predicted = probs.argmax(-1)
    precision, recall, f1 = [], [], []
    for c in range(3):
        hit = int(((predicted == c) & (labels == c)).sum())
        precision.append(hit / max(1, int((predicted == c).sum())))
        recall.append(hit / max(1, int((labels == c).sum())))
        f1.append(2 * precision[c] * recall[c] / max(1e-12, precision[c] + recall[c]))
    scores = score_faces(probs, log_probs, labels, truth)
    assert scores.macro_precision == pytest.approx(100 * sum(precision) / 3, rel=1e-5)
    assert scores.mean_class_accuracy == pytest.approx(100 * sum(recall) / 3, rel=1e-5)
    assert scores.macro_f1 == pytest.approx(100 * sum(f1) / 3, rel=1e-5)
    classes = score_classes(probs, labels, ("a", "b", "c"))
    assert [each.recall for each in classes] == pytest.approx([100 * value for value in recall])
    assert sum(each.support for each in classes) == len(labels)


def test_perfect_and_worst_predictions():
    labels = torch.tensor([0, 1, 2, 0])
    right = torch.nn.functional.one_hot(labels, 3).float()
    wrong = right.roll(1, dims=1)
    best = score_faces(right, right.clamp_min(1e-9).log(), labels, right)
    assert (best.accuracy, best.brier, best.aurc, best.total_variation) == (100, 0, 0, 0)
    worst = score_faces(wrong, wrong.clamp_min(1e-9).log(), labels, None)
    assert (worst.accuracy, worst.brier, worst.aurc, worst.kl) == (0, 2, 100, None)


def test_a_class_that_the_labels_lack_is_no_class_to_fail_at():
    """Of four that the model knows; one sample is taken for it."""
    labels = torch.arange(30) % 3
    probs = torch.nn.functional.one_hot(labels, 4).float()
    right = score_faces(probs, probs.clamp_min(1e-9).log(), labels, None)
    assert right.macro_precision == right.macro_f1 == right.mean_class_accuracy == 100
    probs[0] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    scores = score_faces(probs, probs.clamp_min(1e-9).log(), labels, None)
    assert scores.mean_class_accuracy == pytest.approx(100 * (0.9 + 1 + 1) / 3)
    assert scores.macro_precision == 100
    assert scores.macro_f1 == pytest.approx(100 * (2 * 0.9 / 1.9 + 1 + 1) / 3)


def test_clustering_knows_apart_from_mixed():
    labels = torch.arange(30) % 3
    apart = torch.eye(3)[labels] + 0.01 * torch.randn(30, 3)
    mixed = torch.randn(30, 3)
    good, bad = score_clustering(apart, labels), score_clustering(mixed, labels)
    assert good.davies_bouldin < bad.davies_bouldin
    assert good.calinski_harabasz > bad.calinski_harabasz
    assert score_clustering(mixed, torch.zeros(30, dtype=torch.int64)) is None


def test_classes_are_matched_by_name_in_any_order():
    table = synthetic_table(class_names=("sad", "Angry", "contempt", "happy"), count=40)
    names = ("angry", "happy", "sad")
    matched, unknown = in_classes_of(table, names)
    assert unknown == ["contempt"]
    assert len(matched) == 30
    for row, name in enumerate(matched.names):
        old = table.class_names[int(table.labels[table.names.index(name)])]
        assert names[int(matched.labels[row])] == old.casefold()
    assert matched.distributions.sum(-1).allclose(torch.ones(30))
    torch.testing.assert_close(matched.distributions.argmax(-1), matched.labels)


def test_classes_in_common_are_needed():
    with pytest.raises(ValueError, match="a, b; got angry, happy, sad"):
        in_classes_of(synthetic_table(), ("a", "b"))


def test_an_evaluation_as_text_has_all_its_scores():
    table = synthetic_table()
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(6, 3, num_anchors=2).eval()
    with torch.no_grad():
        output = balancer(torch.randn(len(table), 6))
    evaluation = evaluate(output, table)
    text = format_results(RunResults(evaluation))
    for name in (
        "accuracy",
        "macro F1",
        "KL to the votes",
        "AURC",
        "happy",
    ):
        assert name in text
    assert sum(map(sum, evaluation.confusion)) == len(table)
    assert evaluation.attainable_accuracy == pytest.approx(90)
    voted = evaluate(output, replace(table, true_labels=None))
    assert voted.attainable_accuracy is None  # votes do not tell what labels were drawn from
    assert voted.corrected.kl == evaluation.corrected.kl
