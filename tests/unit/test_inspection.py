"""The ranking of labels against plain loops, and what it finds where errors were planted."""

import numpy as np
import pytest
import torch

from reliability_balance import wrap
from reliability_balance._knowledge import chance_corrected
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
    labels = probs.multinomial(1, generator=generator).squeeze(-1)
    labels[:5] = probs[:5].argmin(-1)
    return probs, labels


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
        doubt, plausibility = 1 - posterior[label], average[label] / (average[label] + other)
        verdict = Verdict.MISLABELLED if doubt > DOUBTED_FROM else Verdict.UNDOUBTED
        if min(plausibility, 1 - plausibility) > AMBIGUOUS_FROM:
            verdict = Verdict.AMBIGUOUS
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
    assert {row.verdict for row in ranking} == set(Verdict) - {Verdict.UNKNOWN}
    assert ranking.caution == ""
    assert (ranking.doubt.diff() <= 0).all()


def test_ties_keep_the_order_of_the_samples():
    labels = torch.arange(60) // 20
    probs = 0.7 * torch.nn.functional.one_hot(labels, NUM_CLASSES) + 0.1
    ranking = rank_labels(trained(probs, labels), labels)
    for label in range(NUM_CLASSES):
        of_class = ranking.sample[ranking.given == label].tolist()
        assert of_class == list(range(20 * label, 20 * label + 20))


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
    assert set(ranking.only(Verdict.AMBIGUOUS).sample.tolist()) == set(range(30, 60))
    assert set(ranking.first(30).sample.tolist()) == set(range(30))


def test_soft_labels_stand_for_their_likeliest_class():
    probs, labels = random_case(2, count=90)
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
    with pytest.warns(UserWarning, match="no verdicts: .* the 3 labels"):
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
    with pytest.raises(ValueError, match=r"`labels` must be those .* had before; got other labels"):
        call(targets, labels.flip(0))


def test_targets_within_their_warm_up_give_no_verdicts():
    probs, labels = random_case(4)
    targets = RefurbishedTargets.for_long_training(40, NUM_CLASSES)
    for _ in range(6):
        targets(torch.arange(40), labels, probs)
    with pytest.warns(UserWarning, match="no verdicts: .* never left their warm-up of 10 updates"):
        ranking = rank_labels(targets, labels)
    assert len(ranking.only(Verdict.UNKNOWN)) == 40
    with pytest.raises(ValueError, match="left their warm-up of 10 updates; got at most 6"):
        estimate_noise(targets, labels)


def ignorant(memory=0.0, *, rounds=12, count=640, num_classes=10, seed=0, **options):
    """Targets of a network that remembers its labels somewhat and knows nothing else."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=generator)
    targets = RefurbishedTargets(count, num_classes, **options)
    logits = torch.randn(count, num_classes, generator=generator)
    for _ in range(rounds):
        for index in torch.randperm(count, generator=generator).split(64):
            probs = logits[index].softmax(-1)
            logits[index] += memory * (targets(index, labels[index], probs) - probs)
    return targets, labels


@pytest.mark.parametrize("memory", [0.0, 0.02])
@pytest.mark.parametrize("seed", range(5))
def test_doubts_of_a_model_at_chance_are_no_verdicts(memory, seed):
    targets, labels = ignorant(memory, seed=seed)
    with pytest.warns(UserWarning, match="no verdicts: beliefs agree with the 640 labels hardly"):
        ranking = rank_labels(targets, labels)
    assert int((ranking.doubt > DOUBTED_FROM).sum()) > 320
    assert len(ranking.only(Verdict.UNKNOWN)) == 640
    assert "class frequencies" in ranking.caution
    with pytest.warns(UserWarning, match="no sound estimate: beliefs agree with the 640 labels"):
        estimate_noise(targets, labels, num_resamples=2)


def test_memory_is_not_taken_for_knowledge_where_labels_are_held_back():
    """By the control group, whose labels a network cannot remember in the warm-up."""
    options = {"momentum": None, "warmup": 10}
    targets, labels = ignorant(0.3, held_back=0.1, **options)
    with pytest.warns(UserWarning, match="beliefs agree with the [0-9]+ held-back labels hardly"):
        rank_labels(targets, labels)
    by_heart, _ = ignorant(0.3, **options)
    assert rank_labels(by_heart, labels).caution == "", "nothing can tell without a control group"


@pytest.mark.parametrize("soft", [False, True])
def test_agreement_is_cohens_kappa(soft):
    """In loops; of certain beliefs it is that of scikit-learn."""
    probs, labels = random_case(5, count=60)
    given = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    given = given * 0.7 + 0.1 if soft else given
    shares = [float(given[:, c].mean()) for c in range(NUM_CLASSES)]
    excess, chance = [], []
    for p, y in zip(probs.tolist(), given.tolist(), strict=True):
        chance.append(sum(p[c] * shares[c] for c in range(NUM_CLASSES)))
        excess.append(sum(p[c] * y[c] for c in range(NUM_CLASSES)) - chance[-1])
    expected = np.mean(excess) / (1 - np.mean(chance))
    kappa, error = chance_corrected(probs, given)
    assert kappa == pytest.approx(expected)
    assert error == pytest.approx(np.std(excess) / 60**0.5 / (1 - np.mean(chance)))
    metrics = pytest.importorskip("sklearn.metrics", reason="has Cohen's kappa")
    certain = torch.nn.functional.one_hot(probs.argmax(-1), NUM_CLASSES).float()
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    expected = metrics.cohen_kappa_score(labels, probs.argmax(-1))
    assert chance_corrected(certain, one_hot)[0] == pytest.approx(expected)


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
