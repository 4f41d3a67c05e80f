"""The ranking of labels against plain loops, and what it finds where errors were planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from short_targets import short_targets
from torch.nn import functional as F

from reliability_balance import wrap
from reliability_balance.core import ReliabilityLoss
from reliability_balance.data import pair_noise, symmetric_noise
from reliability_balance.labels import (
    LabelRanking,
    RefurbishedTargets,
    Verdict,
    embedding_beliefs,
    estimate_noise,
    find_issues,
    inspect_embeddings,
    pred_probs,
    rank_labels,
    rows,
)
from reliability_balance.labels.inspection import AMBIGUOUS_FROM, DOUBTED_FROM
from reliability_balance.labels.knowledge import chance_corrected

NUM_CLASSES = 3


def trained(probs, labels, rounds=5, **options):
    """Targets that saw the same predictions in each of some epochs."""
    targets = short_targets(len(probs), probs.shape[1], warmup=1, **options)
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
        likeliest = posterior.index(max(posterior))
        is_best = doubt > DOUBTED_FROM and likeliest == label
        if min(plausibility, 1 - plausibility) > AMBIGUOUS_FROM or is_best:
            verdict = Verdict.AMBIGUOUS
        rows[sample] = (likeliest, doubt, plausibility, verdict)
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
    targets = short_targets(40, NUM_CLASSES, warmup=0)
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
        call(short_targets(40, NUM_CLASSES), labels)
    with pytest.raises(ValueError, match=r"`labels` must be those .* had before; got other labels"):
        call(targets, labels.flip(0))


def test_targets_within_their_warm_up_give_no_verdicts():
    probs, labels = random_case(4)
    targets = RefurbishedTargets(40, NUM_CLASSES)
    for _ in range(6):
        targets(torch.arange(40), labels, probs)
    with pytest.warns(UserWarning, match="no verdicts: samples were seen at most 6 times"):
        ranking = rank_labels(targets, labels)
    assert len(ranking.only(Verdict.UNKNOWN)) == 40
    with pytest.raises(ValueError, match="samples more than 10 times; got at most 6"):
        estimate_noise(targets, labels)


def ignorant(memory=0.0, *, rounds=12, count=640, num_classes=10, seed=0, **options):
    """Targets of a network that remembers its labels somewhat and knows nothing else."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=generator)
    targets = short_targets(count, num_classes, **options)
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
    with pytest.warns(
        UserWarning,
        match="no verdicts: predictions are not yet certain to agree with the 640 labels",
    ):
        ranking = rank_labels(targets, labels)
    assert int((ranking.doubt > DOUBTED_FROM).sum()) > 320
    assert len(ranking.only(Verdict.UNKNOWN)) == 640
    assert "class frequencies" in ranking.caution
    with pytest.warns(
        UserWarning,
        match="estimate is unreliable: predictions are not yet certain to agree with the 640",
    ):
        estimate_noise(targets, labels, num_resamples=2)


def test_memory_is_not_taken_for_knowledge_where_labels_are_held_back():
    """By the control group, whose labels a network cannot remember in the warm-up."""
    options = {"momentum": None, "warmup": 10}
    targets, labels = ignorant(0.3, held_back=0.1, **options)
    with pytest.warns(
        UserWarning,
        match="predictions are not yet certain to agree with the [0-9]+ held-back labels",
    ):
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
    kappa, error = chance_corrected([(probs, given)], given.mean(0))
    assert kappa == pytest.approx(expected)
    assert error == pytest.approx(np.std(excess) / 60**0.5 / (1 - np.mean(chance)))
    metrics = pytest.importorskip("sklearn.metrics", reason="has Cohen's kappa")
    certain = torch.nn.functional.one_hot(probs.argmax(-1), NUM_CLASSES).float()
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    expected = metrics.cohen_kappa_score(labels, probs.argmax(-1))
    assert chance_corrected([(certain, one_hot)], one_hot.mean(0))[0] == pytest.approx(expected)


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


def test_embeddings_need_two_samples_and_the_right_shapes():
    embeddings, _, labels = planted(30)
    with pytest.raises(ValueError, match="`embeddings` must hold at least 2 samples; got 1"):
        inspect_embeddings(embeddings[:1], labels[:1], NUM_CLASSES)
    for arrays in ((embeddings.numpy(), labels), (embeddings, labels.numpy())):
        with pytest.raises(TypeError, match=r"got ndarray: pass torch\.as_tensor\((emb|labels)"):
            inspect_embeddings(*arrays, NUM_CLASSES)
    with pytest.raises(ValueError, match="`embeddings`"):
        inspect_embeddings(embeddings[0], labels, NUM_CLASSES)
    with pytest.raises(ValueError, match="`embeddings` must be finite; got 1 NaN"):
        inspect_embeddings(embeddings.index_fill(0, torch.tensor(3), torch.nan)[:, :1], labels, 3)
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 2\)"):
        inspect_embeddings(embeddings, labels, 2)
    with pytest.raises(ValueError, match="`labels`"):
        inspect_embeddings(embeddings[:20], labels, NUM_CLASSES)


def test_embeddings_without_coordinates_or_of_sizes_too_far_apart_are_refused():
    embeddings, _, labels = planted(30)
    with pytest.raises(ValueError, match=r"`embeddings` must have at least one coordinate; got "):
        inspect_embeddings(embeddings[:, :0], labels, NUM_CLASSES)
    small = torch.full((len(labels), 2), 2e-25)
    small[: len(labels) // 3] = 3e25
    expected = r"of similar size; got .* 2e-25 in the median row and 3e\+25 .* for torch.float32"
    with pytest.raises(ValueError, match=expected):
        inspect_embeddings(small, labels, NUM_CLASSES)


def clusters(num_classes, count, dim=32, spread=2.0, seed=0):
    """Well-separated clusters, one a class: embeddings and classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(num_classes * count) % num_classes
    centers = spread * torch.randn(num_classes, dim, generator=generator)
    return centers[classes] + torch.randn(len(classes), dim, generator=generator), classes


def area(scores, wrong):
    """AUROC by its definition: how often a wrong label has the higher score, ties half."""
    above = scores[wrong].unsqueeze(1) - scores[~wrong].unsqueeze(0)
    return float((above > 0).double().mean() + (above == 0).double().mean() / 2)


def doubt_by_sample(embeddings, labels, num_classes, **options):
    ranking = rank_labels(inspect_embeddings(embeddings, labels, num_classes, **options), labels)
    return ranking.doubt[ranking.sample.argsort()]


def neighbours_doubt(embeddings, labels, count=10):
    """Share of the nearest other samples that have another label."""
    distances = torch.cdist(embeddings, embeddings).fill_diagonal_(torch.inf)
    nearest = distances.topk(count, largest=False).indices
    return (labels[nearest] != labels.unsqueeze(1)).double().mean(1)


@pytest.mark.parametrize("noise", [symmetric_noise, pair_noise])
@pytest.mark.parametrize("rate", [0.1, 0.4])
@pytest.mark.parametrize(("num_classes", "count"), [(2, 50), (20, 100), (100, 50), (200, 20)])
def test_wrong_labels_of_separated_clusters_are_found(num_classes, count, rate, noise):
    embeddings, classes = clusters(num_classes, count)
    labels = noise(classes, rate, num_classes, seed=0)
    found = area(doubt_by_sample(embeddings, labels, num_classes), labels != classes)
    reference = area(neighbours_doubt(embeddings, labels), labels != classes)
    assert found >= reference - 0.001
    assert found > (0.99 if rate < 0.4 or noise is symmetric_noise else 0.94)


def shapes():
    """Embeddings that one method alone does not serve."""
    generator = torch.Generator().manual_seed(1)
    embeddings, classes = clusters(10, 60, spread=1.0)
    scale = 10 ** (4 * torch.rand(32, generator=generator) - 2)
    yield "unequal scales and offsets", embeddings * scale + 100, classes
    yield "far from the origin", embeddings + 1000, classes
    many, parts = clusters(40, 20, dim=8, spread=3.0)
    yield "several clusters a class", many, parts % 10
    line = torch.nn.functional.normalize(torch.randn(10, 32, generator=generator), dim=-1)
    along = 10 * torch.randn(600, 1, generator=generator)
    yield "elongated", 2 * embeddings + along * line[classes], classes
    yield "half a constant", torch.cat([embeddings, torch.full_like(embeddings, 0.1)], 1), classes
    flat = torch.relu(embeddings[:, :6] @ torch.randn(6, 2000, generator=generator))
    yield "wide and flat", flat, classes
    yield "tokens", torch.randn(600, 5, 32, generator=generator) + embeddings.unsqueeze(1), classes
    angle, radius = 6.28 * torch.rand(600, generator=generator), 1.0 + classes % 3
    rings = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    noise = 0.2 * torch.randn(600, 2, generator=generator)
    yield "rings", rings + noise, classes % 3


@pytest.mark.parametrize(
    ("embeddings", "classes"), [each[1:] for each in shapes()], ids=[each[0] for each in shapes()]
)
@pytest.mark.parametrize("noise", [symmetric_noise, pair_noise])
def test_no_shape_of_embeddings_is_below_nearest_neighbours(embeddings, classes, noise):
    num_classes = int(classes.max()) + 1
    labels = noise(classes, 0.3, num_classes, seed=0)
    wrong = labels != classes
    points = embeddings if embeddings.ndim == 2 else embeddings.mean(1)
    standard = (points - points.mean(0)) / points.std(0).clamp_min(1e-3)
    reference = max(area(neighbours_doubt(each, labels), wrong) for each in (points, standard))
    assert area(doubt_by_sample(embeddings, labels, num_classes), wrong) > reference - 0.01


def test_noise_planted_with_the_same_seed_is_no_trap():
    """The samples on which settings are chosen must not be those whose labels are wrong."""
    embeddings, classes = clusters(4, 500, spread=1.0)
    for seed in range(3):
        order = torch.randperm(2000, generator=torch.Generator().manual_seed(seed))
        labels = classes.clone()
        labels[order[:800]] = (labels[order[:800]] + 1 + order[:800] % 3) % 4
        doubt = doubt_by_sample(embeddings, labels, 4, seed=seed)
        assert area(doubt, labels != classes) > 0.98


def test_a_class_with_a_single_sample_is_ambiguous_not_mislabelled():
    embeddings, classes = clusters(4, 30)
    alone = torch.cat([classes, torch.tensor([4])])
    points = torch.cat([embeddings, 5 * torch.ones(1, 32)])
    targets = inspect_embeddings(points, alone, 5)
    rows = {row.sample: row for row in rank_labels(targets, alone)}
    assert rows[120].verdict == Verdict.AMBIGUOUS
    assert rows[120].plausibility == pytest.approx(0.5, abs=0.1)
    assert all(rows[sample].verdict == Verdict.UNDOUBTED for sample in range(120))
    soft = torch.nn.functional.one_hot(alone, 5).float()
    (row,) = (r for r in rank_labels(inspect_embeddings(points, soft, 5), soft) if r.sample == 120)
    assert row.verdict == Verdict.AMBIGUOUS


@pytest.mark.parametrize("count", [2, 3, 6, 12, 29])
def test_few_samples_give_finite_beliefs(count):
    embeddings, classes = clusters(2, 15)
    labels = classes[:count]
    targets = inspect_embeddings(embeddings[:count], labels, 2)
    ranking = rank_labels(targets, labels)
    assert len(ranking) == count
    assert ranking.doubt.isfinite().all()
    np.testing.assert_allclose(pred_probs(targets).sum(1), 1.0, atol=1e-6)
    if count > 6:
        assert not len(ranking.only(Verdict.MISLABELLED))
        wrong = labels.clone()
        wrong[5] = 1 - wrong[5]
        assert rank_labels(inspect_embeddings(embeddings[:count], wrong, 2), wrong).sample[0] == 5


def test_equal_embeddings_and_absent_classes_give_finite_beliefs():
    labels = torch.arange(40) % 2
    targets = inspect_embeddings(torch.ones(40, 3), labels, 7)
    assert rank_labels(targets, labels).doubt.isfinite().all()
    assert pred_probs(targets)[:, 2:].max() < 0.2


def test_soft_labels_find_what_index_labels_find():
    embeddings, classes = clusters(5, 60)
    labels = symmetric_noise(classes, 0.2, 5, seed=0)
    soft = torch.nn.functional.one_hot(labels, 5).double()
    torch.testing.assert_close(
        doubt_by_sample(embeddings, soft, 5), doubt_by_sample(embeddings, labels, 5)
    )
    smooth = 0.9 * soft + 0.02
    assert area(doubt_by_sample(embeddings, smooth, 5), labels != classes) > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_any_floating_dtype(dtype):
    embeddings, classes = clusters(5, 60)
    labels = symmetric_noise(classes, 0.2, 5, seed=0)
    assert area(doubt_by_sample(embeddings.to(dtype), labels, 5), labels != classes) > 0.99


def test_more_samples_than_may_vote(monkeypatch):
    monkeypatch.setattr(embedding_beliefs, "VOTING", 200)
    monkeypatch.setattr(rows, "BLOCK", 1000)
    monkeypatch.setattr(embedding_beliefs, "PRODUCT_BLOCK", 3000)
    embeddings, classes = clusters(5, 100)
    labels = symmetric_noise(classes, 0.2, 5, seed=0)
    assert area(doubt_by_sample(embeddings, labels, 5), labels != classes) > 0.99


def voters_of(labels):
    return embedding_beliefs.Voters.of(labels, labels.shape[1], labels.dtype)


@pytest.mark.parametrize("kept", [1, 3])
def test_sparse_voters_vote_as_whole_ones(kept):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(40, (30,), generator=generator)
    if kept == 1:
        sparse = embedding_beliefs.Voters.of(labels, 40, torch.float64)
        assert isinstance(sparse.stored, rows.SparseRows)
        whole = voters_of(torch.eye(40, dtype=torch.float64)[labels])
    else:
        shares = torch.rand(40, generator=generator).double().softmax(-1)
        stored = rows.SparseRows(30, 40, kept, torch.float64)
        probs = torch.randn(30, 40, generator=generator).double().mul(2).softmax(-1)
        stored.write(torch.arange(30), probs, stored.largest(probs, labels))
        sparse = embedding_beliefs.Voters(stored, shares)
        whole = voters_of(sparse.read(torch.arange(30)))
    places = torch.randint(30, (7, 5), generator=generator)
    basis = torch.randn(30, 4, generator=generator).double()
    torch.testing.assert_close(sparse.read(places[0]), whole.read(places[0]))
    torch.testing.assert_close(sparse.sum_of(places), whole.sum_of(places))
    torch.testing.assert_close(sparse.products(basis), whole.products(basis))
    torch.testing.assert_close(sparse.prior, whole.prior)
    torch.testing.assert_close(sparse.total, whole.total)


def test_progress_counts_the_samples():
    embeddings, classes = clusters(5, 60)
    steps = []
    inspect_embeddings(embeddings, classes, 5, progress=steps.append)
    assert sum(steps) == 300


def test_predictions_do_not_know_the_sample_s_own_label():
    """The first round's prediction of a sample is the same whatever its own label is."""
    embeddings, classes = clusters(3, 20, spread=0.5)
    given = torch.nn.functional.one_hot(classes, 3).double()
    beliefs = embedding_beliefs.EmbeddingBeliefs(
        embeddings.double(), voters_of(given), torch.Generator().manual_seed(0)
    )
    rows = torch.arange(60)
    for sample in (0, 17, 59):
        other = given.clone()
        other[sample] = other[sample].roll(1)
        for labels in (given, other):
            # Ridge regression on all but one, from the normal equations.
            kept = rows != sample
            space = torch.cat([beliefs.linear.basis, torch.ones(60, 1).double()], 1)
            weight = torch.cat([1 / beliefs.linear.shrink - 1, torch.zeros(1).double()])
            left = space[kept].T @ space[kept] + weight.diag()
            wanted = space[sample] @ torch.linalg.solve(left, space[kept].T @ labels[kept])
            voters = voters_of(labels)
            solution = beliefs.linear.solve(voters)
            found = beliefs.linear.predict(rows, voters, solution)[sample] + voters.prior
            torch.testing.assert_close(found, wanted, atol=1e-2, rtol=0)
        assert sample not in beliefs.nearest[sample]


def test_a_wrapped_model_shows_planted_errors():
    inputs, true, labels = planted()
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, NUM_CLASSES)
    )
    model, criterion = wrap(network), ReliabilityLoss()
    targets = short_targets(len(labels), NUM_CLASSES, momentum=0.7)
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


def test_a_ranking_is_shown_as_a_table():
    count = torch.arange(12)
    share = torch.linspace(1, 0, 12)
    ranking = LabelRanking(
        100 - count, count, count % 2, share, share, torch.full((12,), -1), "why"
    )
    lines = str(ranking).splitlines()
    assert lines[0] == "sample  given  suggested  doubt  plausibility  verdict"
    assert lines[1] == "   100      0          0   1.00          1.00  UNKNOWN"
    assert lines[2] == "    99      1          1   0.91          0.91  UNKNOWN"
    assert lines[11:] == ["… and 2 more", "no verdicts: why"]
    assert "more" not in str(ranking.first(10))
    assert str(ranking.first(0)).splitlines()[0] == lines[0]
    named = replace(ranking.first(2), class_names=np.array(["a longer name", "b"]))
    lines = str(named).splitlines()
    assert "   100  a longer name  a longer name   1.00" in lines[1]
    assert lines[2].split() == ["99", "b", "b", "0.91", "0.91", "UNKNOWN"]
    assert lines[2].index("0.91") == lines[1].index("1.00")


@pytest.mark.parametrize("is_soft", [False, True])
def test_the_suggestion_of_a_mislabelled_sample_is_another_class(is_soft):
    """Labels that compete with another class, or that are the likeliest of many classes."""
    probs = torch.tensor([[0.9, 0.05, 0.05]] * 40 + [[0.05, 0.9, 0.05]] * 40)
    probs[:4] = torch.tensor(
        [[0.5, 0.4, 0.1], [0.4, 0.5, 0.1], [0.4, 0.3, 0.3], [0.01, 0.01, 0.98]]
    )
    labels = torch.tensor([0] * 40 + [1] * 40)
    if is_soft:
        labels = torch.full((80, 3), 0.3).scatter_(1, labels[:, None], 0.4)
    ranking = rank_labels(trained(probs, labels), labels)
    mislabelled = ranking.only(Verdict.MISLABELLED)
    assert (ranking.verdict == Verdict.AMBIGUOUS).any()
    assert (mislabelled.suggested != mislabelled.given).all()
    assert (mislabelled.doubt > DOUBTED_FROM).all()


@pytest.mark.parametrize("value", [1e1, 1e4, 1e15])
def test_a_huge_row_hardly_changes_the_verdicts_on_others(value):
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(1000) % 4
    embeddings = torch.randn(1000, 16, generator=generator) + 2.5 * F.one_hot(classes, 16)
    labels = classes.clone()
    labels[:100] = (labels[:100] + 1) % 4

    def verdicts():
        ranking = rank_labels(inspect_embeddings(embeddings, labels, 4), labels)
        return ranking.verdict[ranking.sample.argsort()]

    before = verdicts()
    embeddings[500] *= value
    changed = before != verdicts()
    changed[500] = False
    assert int(changed.sum()) <= 3  # 14 to 34 where the row counted in full


@pytest.mark.parametrize("exponent", [-990, -500, 500, 530, 1000])
def test_squares_that_overflow_or_vanish_change_nothing(exponent):
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(300) % 3
    embeddings = torch.randn(300, 6, generator=generator).double() + 3 * F.one_hot(classes, 6)
    labels = classes.clone()
    labels[:20] = (labels[:20] + 1) % 3
    scaled = embeddings * 2.0**exponent
    usual, found = (inspect_embeddings(each, labels, 3) for each in (embeddings, scaled))
    np.testing.assert_array_equal(pred_probs(found), pred_probs(usual))
    for metric in ("cosine", "euclidean"):
        tables = (find_issues(usual, labels, each, metric=metric) for each in (embeddings, scaled))
        first, second = (table.columns() for table in tables)
        for name, column in first.items():
            torch.testing.assert_close(second[name], column, rtol=1e-12, atol=0.0)


def test_a_saved_state_gives_no_verdicts_where_there_were_none(tmp_path):
    """The second round agrees with labels of noise; the first, which decides, did not."""
    pytest.importorskip("safetensors")
    from reliability_balance import ReliabilityBalancer, load, save

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (400,), generator=generator)
    targets = inspect_embeddings(torch.randn(400, 8, generator=generator), labels, 3)
    with pytest.warns(UserWarning, match="no verdicts"):
        expected = rank_labels(targets, labels).caution
    path = tmp_path / "model.safetensors"
    save(path, ReliabilityBalancer(8, 3), extras={"targets": targets})
    with pytest.warns(UserWarning, match="no verdicts"):
        found = rank_labels(load(path).extras["targets"], labels)
    assert found.caution == expected
    state = {name: value for name, value in targets.state_dict().items() if name != "agreement"}
    targets.load_state_dict(state)  # from before it was saved
    assert targets.agreement.tolist() == [0.0, -1.0]
