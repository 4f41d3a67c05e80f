"""Prediction sets by score, class and group: held against loops, and measured over many draws."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reliability_balance.calibration import (
    ClassPredictionSets,
    GroupPredictionSets,
    PredictionSets,
)
from reliability_balance.calibration.conformal import (
    aps_scores,
    conformal_quantile,
    lac_scores,
    raps_scores,
)

COVERAGE, CLASSES = 0.9, 4
RAPS = {"score": "raps", "penalty": 0.05, "free_ranks": 1}
SCORES = [{}, {"score": "aps"}, RAPS]
FREQUENCIES = torch.tensor([0.6, 0.25, 0.1, 0.05])


def draw(count, generator, frequencies=FREQUENCIES):
    """Overconfident predictions of classes that are unlike hard, and not evenly frequent."""
    labels = torch.multinomial(frequencies, count, replacement=True, generator=generator)
    logits = torch.randn(count, CLASSES, generator=generator) * (1 + labels.unsqueeze(1) / 3)
    logits += 1.5 * torch.nn.functional.one_hot(labels, CLASSES)
    return (2 * logits).log_softmax(-1), labels


def covered(sets, labels):
    return sets.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def looped_scores(probs, u, penalty=0.0, free_ranks=0):
    """From the definition: the mass above a class, its share u, and the penalty of its rank."""
    found = []
    for c, own in enumerate(probs):
        above = [k for k, p in enumerate(probs) if p > own or (p == own and k < c)]
        mass = math.fsum(probs[k] for k in above) + u * own
        found.append(mass + penalty * max(0, len(above) + 1 - free_ranks))
    return found


rows = st.lists(st.integers(1, 5), min_size=2, max_size=6)


@given(rows, st.floats(0, 0.999), st.floats(0, 1), st.integers(0, 6))
def test_scores_by_loops(counts, u, penalty, free_ranks):
    probs = [count / sum(counts) for count in counts]
    log_probs, uniform = torch.tensor([probs]).double().log(), torch.tensor([u])
    aps = aps_scores(log_probs, uniform)[0]
    assert (aps + 1).tolist() == pytest.approx(looped_scores(probs, u), abs=1e-6)
    raps = raps_scores(log_probs, uniform, penalty=penalty, free_ranks=free_ranks)[0]
    expected = looped_scores(probs, u, penalty, free_ranks)
    assert (raps + 1).tolist() == pytest.approx(expected, abs=1e-6)
    assert lac_scores(log_probs)[0].tolist() == pytest.approx([-math.log(p) for p in probs])


def test_masses_too_small_beside_one_are_told_apart():
    log_probs = torch.tensor([[0.0, -30.0, -40.0]])
    scores = aps_scores(log_probs, torch.tensor([0.0]))[0]
    assert bool((scores.diff() > 0).all())
    assert float(scores[2]) == pytest.approx(-math.exp(-40.0))


@given(st.lists(st.integers(-9, 9), max_size=30), st.sampled_from([0.1, 0.5, 0.8, 0.9, 0.95]))
def test_the_quantile_by_counting(values, coverage):
    """The least of the values that (N + 1) coverage of them do not exceed."""
    found = float(conformal_quantile(torch.tensor(values, dtype=torch.float64), coverage))
    needed = math.ceil((len(values) + 1) * coverage)
    enough = [q for q in values if sum(value <= q for value in values) >= needed]
    assert found == min(enough, default=math.inf)


@pytest.mark.parametrize("settings", SCORES, ids=lambda each: each.get("score", "lac"))
def test_coverage_is_what_was_asked_for(settings):
    """On average over held-out sets: between the coverage and 1 / (n + 1) more."""
    generator = torch.Generator().manual_seed(0)
    marginal = PredictionSets(COVERAGE, **settings)
    by_class = ClassPredictionSets(CLASSES, COVERAGE, **settings)
    found = torch.zeros(1 + CLASSES, dtype=torch.float64)
    rounds = 40
    for _ in range(rounds):
        held, test = draw(800, generator), draw(4000, generator, torch.ones(CLASSES))
        same = draw(4000, generator)
        sets = marginal.fit(*held, generator=generator)(same[0], generator=generator)
        found[0] += covered(sets, same[1]).double().mean() / rounds
        sets = by_class.fit(*held, generator=generator)(test[0], generator=generator)
        right = covered(sets, test[1]).double()
        found[1:] += torch.stack([right[test[1] == c].mean() for c in range(CLASSES)]) / rounds
    # Class 3 has 40 held-out samples: one more in 41 is covered.
    allowed = torch.tensor([0.006, 0.008, 0.01, 0.015, 0.03])
    assert bool(((found - COVERAGE).abs() < allowed).all()), found


def test_one_threshold_covers_rare_classes_less():
    """What class-conditional sets are for."""
    generator = torch.Generator().manual_seed(0)
    held, test = draw(4000, generator), draw(8000, generator, torch.ones(CLASSES))
    right = covered(PredictionSets(COVERAGE).fit(*held)(test[0]), test[1]).float()
    rates = [float(right[test[1] == c].mean()) for c in range(CLASSES)]
    assert max(rates) - min(rates) > 0.05


def test_each_category_has_the_threshold_of_its_own_samples():
    log_probs, labels = draw(300, torch.Generator().manual_seed(0))
    groups = torch.arange(300) % 3
    by_class = ClassPredictionSets(CLASSES, 0.5).fit(log_probs, labels)
    by_group = GroupPredictionSets(3, 0.5).fit(log_probs, labels, groups)
    for fitted, categories in ((by_class, labels), (by_group, groups)):
        for each, threshold in enumerate(fitted.threshold):
            own = categories == each
            alone = PredictionSets(0.5).fit(log_probs[own], labels[own])
            assert threshold == alone.threshold
    for row, group in zip(by_group(log_probs, groups), groups, strict=True):
        assert row.shape == (CLASSES,)
        expected = -log_probs <= by_group.threshold[group]
    assert torch.equal(by_group(log_probs, groups)[-1], expected[-1])
    assert torch.equal(by_class(log_probs), -log_probs <= by_class.threshold)


def test_coverage_of_groups():
    generator = torch.Generator().manual_seed(0)
    found = torch.zeros(2)
    for _ in range(40):
        log_probs, labels = draw(1600, generator)
        groups = (torch.rand(1600, generator=generator) < 0.2).long()
        log_probs = torch.where(groups[:, None] == 1, log_probs / 4, log_probs).log_softmax(-1)
        held, test = slice(800), slice(800, None)
        sets = GroupPredictionSets(2, COVERAGE).fit(log_probs[held], labels[held], groups[held])
        right = covered(sets(log_probs[test], groups[test]), labels[test]).float()
        found += torch.stack([right[groups[test] == g].mean() for g in range(2)]) / 40
    assert found.tolist() == pytest.approx([COVERAGE, COVERAGE], abs=0.015)


def test_scarce_classes_are_in_every_set_and_named():
    log_probs, labels = draw(400, torch.Generator().manual_seed(0))
    kept = (labels < 2) | (torch.arange(400) < 8) & (labels != 3)
    few = int((labels[kept] == 2).sum())
    message = f"needs more held-out samples of each class; got {few} of class 2, 0 of class 3"
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        sets = ClassPredictionSets(CLASSES).fit(log_probs[kept], labels[kept])
    assert caught[0].filename == __file__
    assert sets.threshold.isinf().tolist() == [False, False, True, True]
    assert bool(sets(log_probs)[:, 2:].all())
    with pytest.warns(UserWarning, match="0 of group 1: their thresholds are infinite"):
        GroupPredictionSets(2).fit(log_probs, labels, torch.zeros(400, dtype=torch.int64))


@pytest.mark.parametrize("settings", SCORES[1:], ids=lambda each: each["score"])
def test_draws_are_seeded(settings):
    log_probs, labels = draw(200, torch.Generator().manual_seed(0))

    def fit_and_predict(seed):
        generator = torch.Generator().manual_seed(seed)
        sets = PredictionSets(0.7, **settings).fit(log_probs, labels, generator=generator)
        return sets(log_probs, generator=generator)

    assert torch.equal(fit_and_predict(0), fit_and_predict(0))
    assert not torch.equal(fit_and_predict(0), fit_and_predict(1))


def test_drawn_scores_export_and_compile():
    log_probs, labels = draw(200, torch.Generator().manual_seed(0))
    sets = ClassPredictionSets(CLASSES, 0.7, **RAPS).fit(log_probs, labels).eval()
    batch = torch.export.Dim("batch", min=2, max=512)
    program = torch.export.export(sets, (log_probs,), dynamic_shapes=({0: batch},))
    torch.compiler.reset()
    compiled = torch.compile(sets, fullgraph=True, backend="aot_eager")
    for each in (program.module(), compiled):
        rate = covered(each(log_probs[:150]), labels[:150]).float().mean()
        assert float(rate) == pytest.approx(0.7, abs=0.15)


def test_a_penalty_shortens_the_tail():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 100, generator=generator)
    logits[:, 0] += 4.0
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    log_probs = logits.log_softmax(-1)
    sizes = {}
    for settings in ({"score": "aps"}, RAPS):
        sets = PredictionSets(COVERAGE, **settings).fit(log_probs, labels, generator=generator)
        sizes[settings["score"]] = sets(log_probs, generator=generator).sum(-1)
    assert sizes["raps"].max() < sizes["aps"].max()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, y: PredictionSets(score="top"), ValueError, "`score` must be one of 'lac'"),
        (
            lambda p, y: PredictionSets(score="raps", penalty=0.1),
            ValueError,
            "`free_ranks` must be given with score='raps'; got None with 'raps'",
        ),
        (
            lambda p, y: PredictionSets(score="aps", penalty=0.1),
            ValueError,
            "`penalty` must not be given without score='raps'; got 0.1 with 'aps'",
        ),
        (
            lambda p, y: PredictionSets(score="raps", penalty=-1.0, free_ranks=0),
            ValueError,
            "`penalty` must be at least 0",
        ),
        (
            lambda p, y: PredictionSets(score="aps").fit(3 * p, y),
            ValueError,
            "`log_probs` must be log-probabilities, whose exponentials sum to 1; got sums from 0",
        ),
        (
            lambda p, y: PredictionSets().fit(p.exp(), y),
            ValueError,
            "`log_probs` must be log-probabilities, .* got sums from .*: pass logits.log_softmax",
        ),
        (
            lambda p, y: ClassPredictionSets(CLASSES).fit(p - 1.0, y),
            ValueError,
            "`log_probs` must be log-probabilities",
        ),
        (lambda p, y: PredictionSets()(p), RuntimeError, "`fit` must be called before the sets"),
        (lambda p, y: ClassPredictionSets(CLASSES)(p), RuntimeError, "`fit` must be called before"),
        (lambda p, y: GroupPredictionSets(4)(p, y), RuntimeError, "`fit` must be called before"),
        (lambda p, y: ClassPredictionSets(1), ValueError, "`num_classes` must be at least 2"),
        (
            lambda p, y: ClassPredictionSets(3).fit(p, y),
            ValueError,
            "`log_probs` must have last dimension 3",
        ),
        (
            lambda p, y: ClassPredictionSets(3)(p),
            ValueError,
            "`log_probs` must have last dimension 3",
        ),
        (
            lambda p, y: GroupPredictionSets(2).fit(p, y, y[:5]),
            ValueError,
            "`groups` must have one entry for each of 40 samples; got 5",
        ),
        (
            lambda p, y: GroupPredictionSets(2)(p, torch.full((40,), 2)),
            ValueError,
            r"`groups` must lie in \[0, 2\)",
        ),
        (
            lambda p, y: GroupPredictionSets(2)(p, torch.zeros(40)),
            TypeError,
            "`groups` must be an int64 tensor",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(*draw(40, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classes", [2, 1000])
def test_log_probabilities_of_every_dtype_are_taken(dtype, classes):
    for spread in (0.0, 1.0, 10.0):
        log_probs = (spread * torch.randn(50, classes)).log_softmax(-1).to(dtype)
        PredictionSets(COVERAGE).fit(log_probs, torch.zeros(50, dtype=torch.int64))
