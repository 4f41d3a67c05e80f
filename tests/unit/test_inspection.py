"""The ranking of labels against plain loops, and what it finds where errors were planted."""

import numpy as np
import pytest
import torch

from reliability_balance import wrap
from reliability_balance.inspection import (
    AMBIGUOUS_FROM,
    DOUBTED_FROM,
    Verdict,
    inspect_embeddings,
    pred_probs,
    rank_labels,
)
from reliability_balance.label_noise import symmetric_noise
from reliability_balance.losses import ReliabilityLoss
from reliability_balance.noise_estimate import estimate_noise
from reliability_balance.targets import RefurbishedTargets

NUM_CLASSES = 3


def trained(probs, labels, rounds=5, **options):
    """Targets that saw the same predictions in each of some epochs."""
    targets = RefurbishedTargets(len(probs), probs.shape[1], warmup=1, **options)
    for _ in range(rounds):
        targets(torch.arange(len(probs)), labels, probs)
    return targets


def random_case(seed=0, count=40):
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(count, NUM_CLASSES, generator=generator)).softmax(-1)
    return probs, torch.randint(NUM_CLASSES, (count,), generator=generator)


def ranking_by_loops(targets, labels):
    """Rows by sample: suggested class, doubt, plausibility and verdict, one number at a time."""
    matrix = targets.noise_matrix.tolist()
    rows = {}
    for sample, beliefs in enumerate(targets.beliefs(torch.arange(len(labels))).tolist()):
        label = int(labels[sample])
        joint = [beliefs[c] * matrix[c][label] for c in range(NUM_CLASSES)]
        posterior = [each / sum(joint) for each in joint]
        average = targets.average[sample].tolist()
        other = max(average[c] for c in range(NUM_CLASSES) if c != label)
        doubt, plausibility = 1 - posterior[label], min(1.0, average[label] / other)
        verdict = Verdict.UNDOUBTED
        if doubt > DOUBTED_FROM:
            wrong = plausibility < AMBIGUOUS_FROM
            verdict = Verdict.MISLABELLED if wrong else Verdict.AMBIGUOUS
        rows[sample] = (posterior.index(max(posterior)), doubt, plausibility, verdict)
    return rows


def test_ranking_is_what_loops_give():
    probs, labels = random_case()
    targets = trained(probs, labels)
    expected = ranking_by_loops(targets, labels)
    ranking = rank_labels(targets, labels)
    assert sorted(ranking.sample.tolist()) == list(range(40))
    for row in ranking:
        suggested, doubt, plausibility, verdict = expected[row.sample]
        assert row.given == labels[row.sample]
        assert (row.suggested, row.verdict) == (suggested, verdict)
        assert row.doubt == pytest.approx(doubt, abs=1e-5)
        assert row.plausibility == pytest.approx(plausibility, abs=1e-5)
    assert {row.verdict for row in ranking} == set(Verdict)
    assert (ranking.doubt.diff() <= 0).all()


def test_doubt_is_the_complement_of_trust():
    probs, labels = random_case(1)
    targets = trained(probs, labels)
    ranking = rank_labels(targets, labels)
    trust = targets.trust(ranking.sample, labels[ranking.sample])
    torch.testing.assert_close(ranking.doubt, 1 - trust)


def test_ties_keep_the_order_of_the_samples():
    probs = torch.tensor([[0.8, 0.1, 0.1]]).repeat(50, 1)
    labels = torch.zeros(50, dtype=torch.int64)
    ranking = rank_labels(trained(probs, labels), labels)
    assert ranking.sample.tolist() == list(range(50))


def test_sure_predictions_of_the_labels_leave_nothing_doubtful():
    labels = torch.arange(60) % NUM_CLASSES
    probs = 0.97 * torch.nn.functional.one_hot(labels, NUM_CLASSES) + 0.01
    ranking = rank_labels(trained(probs, labels), labels)
    assert len(ranking.only(Verdict.UNDOUBTED)) == 60
    assert torch.equal(ranking.given, ranking.suggested)


def test_sure_of_another_class_is_mislabelled_and_torn_is_ambiguous():
    labels = torch.arange(300) % NUM_CLASSES
    probs = 0.94 * torch.nn.functional.one_hot(labels, NUM_CLASSES) + 0.02
    labels[:30] = (labels[:30] + 1) % NUM_CLASSES
    probs[30:60] = torch.nn.functional.one_hot(labels[30:60], NUM_CLASSES) * 0.34
    rows = torch.arange(30, 60)
    probs[rows, (labels[rows] + 1) % NUM_CLASSES] = 0.66
    ranking = rank_labels(trained(probs, labels, rounds=10), labels)
    assert set(ranking.only(Verdict.MISLABELLED).sample.tolist()) == set(range(30))
    assert set(ranking.only(Verdict.AMBIGUOUS).sample.tolist()) <= set(range(30, 60))
    assert set(ranking.first(30).sample.tolist()) == set(range(30))


def test_soft_labels_stand_for_their_likeliest_class():
    probs, labels = random_case(2)
    soft = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    hard = rank_labels(trained(probs, labels), labels)
    same = rank_labels(trained(probs, soft), soft)
    assert torch.equal(hard.sample, same.sample)
    torch.testing.assert_close(hard.doubt, same.doubt)
    spread = rank_labels(trained(probs, probs), probs)
    assert torch.equal(spread.given, probs.argmax(-1)[spread.sample])
    assert 0 <= float(spread.doubt.min()) <= float(spread.doubt.max()) <= 1


def test_unseen_samples_are_left_out():
    probs, labels = random_case(3)
    targets = RefurbishedTargets(40, NUM_CLASSES, warmup=0)
    seen = torch.tensor([3, 5, 8])
    targets(seen, labels[seen], probs[seen])
    assert sorted(rank_labels(targets, labels).sample.tolist()) == [3, 5, 8]
    with pytest.raises(ValueError, match="got 37 unseen"):
        pred_probs(targets)


@pytest.mark.parametrize("call", [rank_labels, estimate_noise])
def test_wrong_input_is_named(call):
    probs, labels = random_case(4)
    targets = trained(probs, labels)
    with pytest.raises(ValueError, match="`labels`"):
        call(targets, labels[:5])
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 3\)"):
        call(targets, labels + 7)
    with pytest.raises(TypeError, match="`labels`"):
        call(targets, labels.int())
    with pytest.raises(ValueError, match="got none of its samples seen"):
        call(RefurbishedTargets(40, NUM_CLASSES), labels)


def planted(count=600, rate=0.2):
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(count) % NUM_CLASSES
    centers = 3 * torch.randn(NUM_CLASSES, 8, generator=generator)
    embeddings = centers[true] + torch.randn(count, 8, generator=generator)
    return embeddings, true, symmetric_noise(true, rate, NUM_CLASSES, seed=0)


def test_frozen_embeddings_show_planted_errors():
    embeddings, true, labels = planted()
    before = torch.random.get_rng_state()
    targets = inspect_embeddings(embeddings, labels, NUM_CLASSES)
    assert torch.equal(before, torch.random.get_rng_state())
    ranking = rank_labels(targets, labels)
    found = ranking.only(Verdict.MISLABELLED)
    wrong = true != labels
    assert float(wrong[found.sample].float().mean()) > 0.95
    assert len(found) > 0.9 * int(wrong.sum())
    assert float((found.suggested == true[found.sample]).float().mean()) > 0.95
    assert float(estimate_noise(targets, labels).rate.value) == pytest.approx(0.2, abs=0.05)
    again = inspect_embeddings(embeddings, labels, NUM_CLASSES)
    assert torch.equal(targets.average, again.average)


def test_embeddings_must_be_trained_on_longer_than_labels_are_believed():
    embeddings, _, labels = planted(30)
    with pytest.raises(ValueError, match="`epochs` must be at least"):
        inspect_embeddings(embeddings, labels, NUM_CLASSES, epochs=2)
    with pytest.raises(ValueError, match="`embeddings`"):
        inspect_embeddings(embeddings[0], labels, NUM_CLASSES)


def test_a_wrapped_model_shows_planted_errors():
    inputs, true, labels = planted()
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, NUM_CLASSES)
    )
    model, criterion = wrap(network), ReliabilityLoss()
    targets = RefurbishedTargets(len(labels), NUM_CLASSES, momentum=0.7)
    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(used, lr=5e-3)
    for _ in range(8):
        for index in torch.randperm(len(labels)).split(50):
            output = model(inputs[index])
            loss = criterion(output, targets(index, labels[index], output.corrected)).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    worst = rank_labels(targets, labels).first(60)
    assert float((true != labels)[worst.sample].float().mean()) > 0.95


def test_cleanlab_takes_the_probabilities():
    cleanlab = pytest.importorskip("cleanlab.filter", reason="the export is for cleanlab")
    embeddings, true, labels = planted()
    probs = pred_probs(inspect_embeddings(embeddings, labels, NUM_CLASSES))
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-12)
    found = cleanlab.find_label_issues(labels.numpy(), probs)
    wrong = (true != labels).numpy()
    assert (found & wrong).sum() > 0.9 * wrong.sum()
    assert (found & ~wrong).sum() < 0.1 * wrong.sum()
