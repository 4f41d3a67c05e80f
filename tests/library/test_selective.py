"""Sets and thresholds keep their promises, measured over many draws."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reliability_balance.calibration import Abstention, PredictionSets, error_rate_bound


def draw(count, generator):
    logits = torch.randn(count, 5, generator=generator) * 1.5
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    return (logits * 3).log_softmax(-1), labels  # overconfident: the promise holds all the same


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_the_sets_hold_the_truth_as_often_as_asked(coverage):
    generator = torch.Generator().manual_seed(0)
    held = []
    for _ in range(60):
        sets = PredictionSets(coverage).fit(*draw(200, generator))
        log_probs, labels = draw(500, generator)
        held.append(sets(log_probs).gather(-1, labels.unsqueeze(-1)).float().mean())
    assert float(torch.stack(held).mean()) == pytest.approx(coverage, abs=0.015)


def test_the_sets_hold_the_right_number_of_the_fitted_ones():
    log_probs, labels = draw(99, torch.Generator().manual_seed(1))
    sets = PredictionSets(0.9).fit(log_probs, labels)
    assert int(sets(log_probs).gather(-1, labels.unsqueeze(-1)).sum()) == 90  # ceil(100 * 0.9)


def test_too_few_samples_give_whole_sets():
    log_probs, labels = draw(5, torch.Generator().manual_seed(2))
    with pytest.warns(UserWarning, match="`coverage` = 0.9 needs at least 9 .* got 5"):
        sets = PredictionSets(0.9).fit(log_probs, labels)
    assert bool(sets(log_probs).all())


def test_double_precision_loses_no_sample_in_rounding():
    log_probs = torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64).log().repeat(9, 1)
    labels = torch.zeros(9, dtype=torch.int64)
    assert bool(PredictionSets(0.5).fit(log_probs, labels)(log_probs)[:, 0].all())


@pytest.mark.filterwarnings("ignore:`max_risk`")
def test_abstention_keeps_its_promise():
    generator = torch.Generator().manual_seed(0)
    broken, answered = 0, 0.0
    for _ in range(100):
        confidence = torch.rand(2000, generator=generator)
        right = torch.rand(2000, generator=generator) < confidence
        abstention = Abstention(max_risk=0.2, delta=0.1).fit(confidence, right)
        threshold = float(abstention.threshold)
        if math.isfinite(threshold):
            true_risk = (1 - threshold) / 2  # mean of 1 - u over u in [threshold, 1]
            broken += true_risk > 0.2
            answered += 1 - threshold
    assert broken <= 0.1 * 100
    assert answered / 100 > 0.25, "an empty promise would be easy to keep"


@pytest.mark.filterwarnings("ignore:`max_risk`")
@pytest.mark.parametrize("steps", [None, 10], ids=["all differ", "many are equal"])
def test_abstention_keeps_its_promise_where_every_threshold_would_break_it(steps):
    generator = torch.Generator().manual_seed(0)
    answered = 0
    for _ in range(200):
        confidence = torch.rand(100, generator=generator)
        if steps is not None:
            confidence = (confidence * steps).floor() / steps
        right = torch.rand(100, generator=generator) > 0.201  # whatever the confidence
        answered += math.isfinite(Abstention(0.2, delta=0.2).fit(confidence, right).threshold)
    assert 0 < answered <= 0.2 * 200


@pytest.mark.filterwarnings("ignore:`max_risk`")
@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40),
    st.sampled_from([0.1, 0.3, 0.6]),
    st.sampled_from([0.05, 0.4]),
)
def test_the_threshold_is_found_by_a_loop(samples, max_risk, delta):
    ordered = sorted(score for score, _ in samples)
    tries = 1
    while 2**tries < len(samples):
        tries += 1
    tries = min(tries, len(samples))
    passing = [math.inf]
    for step in range(tries):
        threshold = ordered[step * len(samples) // tries]
        answers = [right for score, right in samples if score >= threshold]
        errors = answers.count(False)
        drawn = max(errors, len(answers) - 1)
        if error_rate_bound(errors, drawn, delta / tries) <= max_risk:
            passing.append(threshold)
    confidence = torch.tensor([float(score) for score, _ in samples])
    right = torch.tensor([right for _, right in samples], dtype=torch.bool)
    found = Abstention(max_risk, delta=delta).fit(confidence, right)
    assert float(found.threshold) == min(passing)


@pytest.mark.parametrize(
    ("count", "wrong", "max_risk"), [(1000, 0, 0.01), (500, 10, 0.05), (2000, 60, 0.05)]
)
def test_all_is_answered_where_the_bound_on_all_allows_it(count, wrong, max_risk):
    confidence = torch.linspace(0, 1, count)
    right = torch.ones(count, dtype=torch.bool)
    right[torch.arange(wrong) * count // max(wrong, 1)] = False  # no score is surer than another
    assert error_rate_bound(wrong, count, 0.05 / 10) < max_risk
    assert bool(Abstention(max_risk).fit(confidence, right)(confidence).all())


def test_the_few_that_are_unsure_and_wrong_are_left_out():
    confidence = torch.linspace(0, 1, 1000)
    right = torch.arange(1000) >= 100
    answers = Abstention(0.05).fit(confidence, right)(confidence)
    assert bool((answers == right).all())


def test_the_surest_may_be_a_single_score():
    confidence = torch.tensor([0.5] * 50 + [1.0] * 950)
    answers = Abstention(0.03).fit(confidence, confidence == 1.0)(confidence)
    assert bool((answers == (confidence == 1.0)).all())


@pytest.mark.filterwarnings("ignore:`max_risk`")
def test_double_precision_answers_no_more_than_was_tested():
    confidence = 0.5 + torch.linspace(0, 1e-9, 200, dtype=torch.float64)  # one number in float32
    right = torch.arange(200) >= 100
    answers = Abstention(0.1).fit(confidence, right)(confidence)
    assert not bool((answers & ~right).any())


@pytest.mark.filterwarnings("ignore:`max_risk`")
def test_nothing_held_out_answers_nothing():
    nothing = torch.zeros(0, dtype=torch.bool)
    assert math.isinf(Abstention(0.9, delta=0.9).fit(torch.zeros(0), nothing).threshold)


@pytest.mark.parametrize("max_risk", [0.05, 0.3, 0.9])
def test_a_bound_that_no_threshold_keeps_is_warned_of_with_the_samples_it_needs(max_risk):
    def fit(count):
        return Abstention(max_risk).fit(torch.rand(count), torch.ones(count, dtype=torch.bool))

    with pytest.warns(UserWarning, match="`max_risk` = .* got 0 errors in 1 samples") as caught:
        fit(1)
    assert caught[0].filename == __file__
    needed = int(str(caught[0].message).split()[-4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(needed).threshold.isfinite()
    with pytest.warns(UserWarning, match=f"{needed} samples are needed"):
        fit(needed - 1)


@pytest.mark.filterwarnings("ignore:`max_risk`")
def test_a_good_model_answers_everything_and_a_bad_one_nothing():
    confidence = torch.rand(500)
    everything = Abstention(0.05).fit(confidence, torch.ones(500, dtype=torch.bool))
    assert bool(everything(confidence).all())
    nothing = Abstention(0.05).fit(confidence, torch.zeros(500, dtype=torch.bool))
    assert not bool(nothing(confidence).any())


def test_an_unfitted_threshold_is_not_used():
    abstention = Abstention(0.05)
    with pytest.raises(RuntimeError, match="`fit` must be called before the threshold is used"):
        abstention(torch.rand(3))
    assert not bool(torch.compile(abstention, backend="eager")(torch.rand(3)).any())
    with pytest.warns(UserWarning, match="`max_risk`"):
        fitted = Abstention(0.05).fit(torch.rand(3), torch.ones(3, dtype=torch.bool))
    abstention.load_state_dict(fitted.state_dict())  # infinite, but fitted
    assert not bool(abstention(torch.rand(3)).any())


def test_equal_scores_are_answered_together():
    confidence = torch.tensor([0.5] * 100 + [0.9] * 100)
    right = torch.tensor([False] * 50 + [True] * 150)
    abstention = Abstention(0.05).fit(confidence, right)
    assert float(abstention.threshold) == pytest.approx(0.9)


@given(st.integers(0, 30), st.integers(1, 60), st.floats(0.01, 0.5))
def test_the_bound_inverts_the_binomial(errors, more, delta):
    count = errors + more
    bound = error_rate_bound(errors, count, delta)
    assert errors / count <= bound <= 1.0
    tail = sum(
        math.comb(count, k) * bound**k * (1 - bound) ** (count - k) for k in range(errors + 1)
    )
    assert tail == pytest.approx(delta, rel=1e-6)


def test_all_wrong_bounds_nothing():
    assert error_rate_bound(7, 7, 0.05) == 1.0


@pytest.mark.parametrize("make", [PredictionSets, Abstention])
def test_the_state_dict_restores_it(make):
    module = make(0.3)
    if make is PredictionSets:
        module.fit(*draw(100, torch.Generator().manual_seed(3)))
    else:
        module.fit(torch.rand(100), torch.ones(100, dtype=torch.bool))
    other = make(0.3)
    other.load_state_dict(module.state_dict())
    assert other.threshold == module.threshold
    assert "threshold=" in repr(other)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PredictionSets(1.0), ValueError, r"`coverage` must lie in \(0, 1\); got 1.0"),
        (lambda: Abstention(0.0), ValueError, r"`max_risk` must lie in \(0, 1\); got 0.0"),
        (lambda: Abstention(0.1, delta=2.0), ValueError, r"`delta` must lie in \(0, 1\)"),
        (
            lambda: PredictionSets().fit(torch.full((2, 3), 1 / 3).log(), torch.tensor([0, 3])),
            ValueError,
            r"`labels` must lie in \[0, 3\)",
        ),
        (
            lambda: PredictionSets().fit(torch.full((2, 3), 1 / 3).log(), torch.zeros(2, 3)),
            TypeError,
            "`labels` must be an int64 tensor",
        ),
        (
            lambda: Abstention().fit(torch.zeros(2), torch.zeros(2)),
            TypeError,
            "`right` must be a bool tensor; got torch.float32",
        ),
        (
            lambda: Abstention().fit(torch.zeros(2), torch.zeros(3, dtype=torch.bool)),
            ValueError,
            r"`right` must have shape \(2,\); got \(3,\)",
        ),
        (
            lambda: Abstention().fit(torch.full((2,), torch.nan), torch.ones(2) > 0),
            ValueError,
            "`confidence` must be finite",
        ),
        (lambda: error_rate_bound(3, 2, 0.1), ValueError, "`count` must be at least 3; got 2"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
