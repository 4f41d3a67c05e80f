"""SelectionScore: its equation by a loop, what it is for, what it refuses."""

import pytest
import torch

from reliability_balance import ReliabilityBalancer, load, save
from reliability_balance.calibration import (
    Abstention,
    SelectionScore,
    area_under_risk_coverage,
)
from reliability_balance.calibration.selection_score import NEIGHBOURS

WIDTH, NUM_CLASSES = 6, 3


def outputs(count, seed=0):
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(WIDTH, NUM_CLASSES, num_anchors=2).eval()
    points = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return balancer(points)


def small(**options):
    return SelectionScore(WIDTH, NUM_CLASSES, **{"num_references": 40, **options})


def test_the_score_is_found_by_a_loop():
    fitted, asked = outputs(130), outputs(20, seed=1)
    beliefs = torch.rand(130, NUM_CLASSES).softmax(-1)
    found = small().fit(fitted, beliefs)(asked)
    references = [index * 130 // 40 for index in range(40)]
    for row, embedding in enumerate(asked.embedding):
        cosine = torch.nn.functional.cosine_similarity
        near = sorted(references, key=lambda each: -cosine(embedding, fitted.embedding[each], 0))
        probs = asked.corrected[row]
        around = sum(float(beliefs[each, probs.argmax()]) for each in near[:NEIGHBOURS])
        assert float(found[row]) == pytest.approx((float(probs.max()) + around / NEIGHBOURS) / 2)


def test_it_ranks_noisy_confidences_better():
    """The neighbourhood shows which predictions are right where confidence does not."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(4000, generator=generator) * torch.pi
    points = torch.stack([angle.cos(), angle.sin()], 1)
    truth = torch.bernoulli(angle / torch.pi, generator=generator).long()
    chance = torch.stack([1 - angle / torch.pi, angle / torch.pi], 1)
    noise = torch.randn(4000, 2, generator=generator)
    log_probs = (chance.log() + noise).log_softmax(-1)
    output = outputs(1)._replace(embedding=points, log_probs=log_probs)
    score = SelectionScore(2, 2, num_references=1000).fit(output, log_probs.exp())(output)
    surest, predicted = log_probs.max(-1)
    right = predicted == truth
    plain = area_under_risk_coverage(surest, right)
    assert area_under_risk_coverage(score, right) < plain - 0.02
    accepted = Abstention(0.35).fit(score[:2000], right[:2000])(score[2000:])
    assert accepted.any()
    assert float((~right[2000:][accepted]).double().mean()) < 0.37


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_in_another_dtype_than_the_output(dtype):
    fitted = outputs(60)
    score = small().fit(fitted, fitted.corrected)
    expected = score(fitted)
    found = score.to(dtype)(fitted)
    torch.testing.assert_close(
        found, expected, atol=1e-6 if dtype == torch.float64 else 0.05, rtol=0
    )


def test_it_is_saved_with_a_model(tmp_path):
    pytest.importorskip("safetensors", reason="needs an extra")
    fitted = outputs(60)
    score = small().fit(fitted, fitted.corrected)
    path = tmp_path / "model.safetensors"
    save(path, ReliabilityBalancer(WIDTH, NUM_CLASSES), extras={"selection": score})
    again = load(path).extras["selection"]
    assert torch.equal(again(fitted), score(fitted))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SelectionScore(0, 3), ValueError, "`embedding_dim` must be at least 1"),
        (lambda: SelectionScore(6, 1), ValueError, "`num_classes` must be at least 2"),
        (lambda: small(num_references=24), ValueError, "`num_references` must be at least 25"),
        (lambda: small()(outputs(3)), RuntimeError, "`fit` must be called before"),
        (lambda: small().fit(outputs(39), torch.ones(39, 3) / 3), ValueError, "at least 40"),
        (lambda: small().fit(outputs(50), torch.ones(50, 2) / 2), ValueError, r"\(N, C\)"),
        (lambda: small().fit(outputs(50), torch.ones(50, 3)), ValueError, "`beliefs` must be"),
        (lambda: small().fit(outputs(50), torch.ones(50, 3).long()), TypeError, "`beliefs` must"),
        (lambda: small().fit(torch.ones(50, 6), torch.ones(50, 3)), TypeError, "`output` must"),
        (lambda: SelectionScore(7, 3)(outputs(5)), ValueError, "`output.embedding` must have last"),
        (lambda: SelectionScore(6, 4)(outputs(5)), ValueError, "`output.log_probs` must have last"),
    ],
)
def test_what_it_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_embeddings_that_are_not_finite():
    output = outputs(50)
    output.embedding[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"`output\.embedding` must be finite"):
        small().fit(output, output.corrected)
