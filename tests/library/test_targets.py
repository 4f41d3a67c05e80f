"""Refurbished targets against Bayes' rule in plain loops, and what they learn of the noise."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_targets import short_targets

from reliability_balance.core import get_recipe
from reliability_balance.data import pair_noise, symmetric_noise
from reliability_balance.labels import RefurbishedTargets, label_posterior
from reliability_balance.labels.target_step import posteriors_of

NUM_CLASSES = 4


def random_case(seed, count=6):
    generator = torch.Generator().manual_seed(seed)
    beliefs = torch.rand(count, NUM_CLASSES, generator=generator, dtype=torch.float64).softmax(-1)
    matrix = torch.randn(NUM_CLASSES, NUM_CLASSES, generator=generator, dtype=torch.float64)
    soft = torch.randn(count, NUM_CLASSES, generator=generator, dtype=torch.float64).softmax(-1)
    return beliefs, matrix.softmax(-1), soft


def joint_by_loops(p, y, matrix):
    """Probabilities of true class and of the label that was meant, given one soft label."""
    classes = range(NUM_CLASSES)
    cells = [[p[c] * float(matrix[c, k]) * y[k] for k in classes] for c in classes]
    evidence = sum(sum(row) for row in cells)
    return [[cell / evidence for cell in row] for row in cells]


def posterior_by_loops(beliefs, soft, matrix):
    rows = [
        [sum(row) for row in joint_by_loops(p, y, matrix)]
        for p, y in zip(beliefs.tolist(), soft.tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_posterior_is_bayes_rule(seed):
    beliefs, matrix, soft = random_case(seed)
    expected = posterior_by_loops(beliefs, soft, matrix)
    torch.testing.assert_close(label_posterior(beliefs, soft, matrix), expected)
    hard = soft.argmax(-1)
    one_hot = torch.nn.functional.one_hot(hard, NUM_CLASSES).double()
    torch.testing.assert_close(
        label_posterior(beliefs, hard, matrix), posterior_by_loops(beliefs, one_hot, matrix)
    )


def test_labels_stand_where_they_are_never_wrong():
    beliefs, _, soft = random_case(0)
    identity = torch.eye(NUM_CLASSES, dtype=torch.float64)
    labels = soft.argmax(-1)
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).double()
    torch.testing.assert_close(label_posterior(beliefs, labels, identity), one_hot)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_one_hot_label_is_an_index_label(seed):
    beliefs, matrix, soft = random_case(seed)
    labels = soft.argmax(-1)
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).double()
    expected = label_posterior(beliefs, labels, matrix)
    # But for rounding: index labels take no matrix product.
    found = label_posterior(beliefs, one_hot, matrix)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0.0)


def test_beliefs_decide_between_the_labels_of_a_soft_one():
    """Which a label that counts as a draw from itself would not let them."""
    matrix = 0.8 * torch.eye(3) + 0.2 / 3
    soft = torch.tensor([[0.6, 0.4, 0.0]])
    for favoured in (0, 1):
        beliefs = torch.full((1, 3), 0.05)
        beliefs[0, favoured] = 0.9
        assert float(label_posterior(beliefs, soft, matrix)[0, favoured]) > 0.9


def test_labels_say_nothing_where_noise_is_total():
    beliefs, _, soft = random_case(1)
    uniform = torch.full((NUM_CLASSES, NUM_CLASSES), 1 / NUM_CLASSES, dtype=torch.float64)
    torch.testing.assert_close(label_posterior(beliefs, soft, uniform), beliefs)


def test_an_impossible_label_leaves_the_beliefs():
    beliefs = torch.tensor([[0.3, 0.7, 0.0]])
    posterior = label_posterior(beliefs, torch.tensor([2]), torch.eye(3))
    torch.testing.assert_close(posterior, beliefs)


def simulate(noise, rate, *, confidence=0.7, rounds=12, **options):
    """Feed predictions that favour the true class, as far as a network on noisy labels does."""
    true = torch.arange(600) % NUM_CLASSES
    labels = noise(true, rate, NUM_CLASSES, seed=0) if rate else true
    targets = short_targets(len(true), NUM_CLASSES, **options)
    generator = torch.Generator().manual_seed(0)
    signal = 3 * confidence * torch.nn.functional.one_hot(true, NUM_CLASSES)
    for _ in range(rounds):
        for index in torch.randperm(len(true), generator=generator).split(50):
            blur = torch.randn(len(index), NUM_CLASSES, generator=generator) / 2
            made = targets(index, labels[index], (signal[index] + blur).softmax(-1))
    return targets, true, labels, made


@pytest.mark.parametrize(("noise", "rate"), [(symmetric_noise, 0.4), (pair_noise, 0.3)])
def test_noise_matrix_is_learned_without_the_rate(noise, rate):
    targets, true, labels, _ = simulate(noise, rate)
    expected = torch.zeros(NUM_CLASSES, NUM_CLASSES)
    for c, k in zip(true.tolist(), labels.tolist(), strict=True):
        expected[c, k] += NUM_CLASSES / len(true)
    torch.testing.assert_close(targets.noise_matrix, expected, rtol=0, atol=0.05)
    wrong = true != labels
    trust = targets.trust(torch.arange(len(true)), labels)
    assert trust[wrong].median() < 0.1 < 0.9 < trust[~wrong].median()


@pytest.mark.parametrize(("noise", "rate"), [(symmetric_noise, 0.4), (pair_noise, 0.4)])
def test_surer_beliefs_tell_the_noise_of_an_undecided_model(noise, rate):
    def found(noise_temperature):
        targets, *_ = simulate(noise, rate, confidence=0.3, noise_temperature=noise_temperature)
        return targets.noise_matrix.diagonal().mean()

    assert found(1.0) > 1 - rate + 0.03
    torch.testing.assert_close(found(0.25), torch.tensor(1 - rate), rtol=0, atol=0.03)


@given(st.integers(0, 10_000), st.floats(0.1, 2))
@settings(max_examples=25, deadline=None)
def test_noise_is_counted_from_the_posteriors_of_surer_beliefs(seed, noise_temperature):
    probs, _, soft = random_case(seed)
    targets = short_targets(
        len(probs), NUM_CLASSES, warmup=0, temperature=0.5, noise_temperature=noise_temperature
    ).double()
    matrix = targets.noise_matrix
    targets(torch.arange(len(probs)), soft, probs)
    surer = probs.pow(2 / noise_temperature)
    surer = surer / surer.sum(-1, keepdim=True)
    expected = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.float64)
    for p, y in zip(surer.tolist(), soft.tolist(), strict=True):
        expected += torch.tensor(joint_by_loops(p, y, matrix)) / len(probs)
    torch.testing.assert_close(targets.joint, expected)
    torch.testing.assert_close(targets.joint.sum(), torch.tensor(1.0).double())


def test_clean_labels_are_kept():
    targets, true, labels, _ = simulate(symmetric_noise, 0.0)
    assert targets.noise_matrix.diagonal().min() > 0.95
    assert targets.trust(torch.arange(len(true)), labels).median() > 0.99


def test_sharpening_keeps_the_class_shares():
    """Class 0 is never the likeliest; sharpening alone would take most of its share."""
    targets = short_targets(60, 3)
    index = torch.arange(60)
    probs = torch.tensor([[0.4, 0.6, 0.0], [0.3, 0.0, 0.7]]).repeat(30, 1)
    alone = (probs.square() / probs.square().sum(-1, keepdim=True)).mean(0)
    for _ in range(40):
        targets(index, torch.zeros(60, dtype=torch.int64), probs)
    average, beliefs = targets.average.mean(0), targets.beliefs(index).mean(0)
    assert alone[0] < 0.26 < 0.34 < average[0]
    torch.testing.assert_close(beliefs, average, rtol=0, atol=0.01)


def test_targets_are_distributions_and_labels_during_warmup():
    targets = short_targets(4, 3, warmup=2)
    index, labels = torch.tensor([3, 1]), torch.tensor([0, 2])
    probs = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    for _ in range(2):
        torch.testing.assert_close(targets(index, labels, probs), torch.eye(3)[labels])
    torch.testing.assert_close(targets.joint, short_targets(4, 3).joint)
    made = targets(index, labels, probs)
    torch.testing.assert_close(made.sum(-1), torch.ones(2))
    assert made[0, 1] > 0.1
    assert targets.updates.tolist() == [0, 3, 0, 3]


def test_average_is_exponential_and_gets_no_gradient():
    targets = short_targets(1, 2, momentum=0.75, warmup=0)
    index, labels = torch.tensor([0]), torch.tensor([0])
    for value in (0.2, 0.6):
        probs = torch.tensor([[value, 1 - value]], requires_grad=True)
        assert not targets(index, labels, probs).requires_grad
    torch.testing.assert_close(targets.average, torch.tensor([[0.3, 0.7]]))


def test_without_momentum_every_prediction_counts_alike():
    targets = short_targets(1, 2, momentum=None, warmup=0)
    for value in (0.2, 0.6, 0.1):
        targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[value, 1 - value]]))
    torch.testing.assert_close(targets.average, torch.tensor([[0.3, 0.7]]))


@pytest.mark.parametrize("momentum", [0.9, None])
def test_joint_stays_a_distribution(momentum):
    targets, *_ = simulate(symmetric_noise, 0.4, rounds=5, momentum=momentum)
    torch.testing.assert_close(targets.joint.sum(), torch.tensor(1.0))
    torch.testing.assert_close(targets.noise_matrix.sum(-1), torch.ones(NUM_CLASSES))


def test_saved_state_goes_on_alike(tmp_path):
    targets, _, labels, _ = simulate(pair_noise, 0.3, rounds=5)
    torch.save(targets.state_dict(), tmp_path / "targets.pt")
    other = short_targets(len(labels), NUM_CLASSES)
    other.load_state_dict(torch.load(tmp_path / "targets.pt", weights_only=True))
    index = torch.arange(10)
    probs = torch.full((10, NUM_CLASSES), 1 / NUM_CLASSES)
    expected = copy.deepcopy(targets)(index, labels[index], probs)
    assert torch.equal(other(index, labels[index], probs), expected)


def test_half_precision_takes_half_the_memory_and_agrees():
    wide, half = short_targets(8, 3), short_targets(8, 3, dtype=torch.float16)
    assert half.average.element_size() == 2
    index, labels = torch.arange(8), torch.arange(8) % 3
    for step in range(6):
        probs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step)).softmax(-1)
        expected, made = wide(index, labels, probs), half(index, labels, probs)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=0, atol=5e-3)


def test_certain_and_impossible_predictions_stay_finite():
    targets = short_targets(2, 3, warmup=0)
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for _ in range(3):
        made = targets(torch.tensor([0, 1]), torch.tensor([2, 2]), probs)
        assert torch.isfinite(made).all()
        torch.testing.assert_close(made.sum(-1), torch.ones(2))


def test_an_empty_batch_changes_nothing():
    targets = short_targets(2, 3)
    before = copy.deepcopy(targets.state_dict())
    none = torch.zeros(0, dtype=torch.int64)
    assert targets(none, none, torch.zeros(0, 3)).shape == (0, 3)
    assert all(torch.equal(before[name], value) for name, value in targets.state_dict().items())


INDEX, LABELS, PROBS = torch.tensor([0, 1]), torch.tensor([0, 1]), torch.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: short_targets(0, 2), ValueError, "`num_samples` must be at least 1"),
        (lambda: short_targets(2, 1), ValueError, "`num_classes` must be at least 2"),
        (lambda: short_targets(2, 2, momentum=1.0), ValueError, "`momentum` must lie in"),
        (lambda: short_targets(2, 2, temperature=0.0), ValueError, "`temperature` must be"),
        (lambda: short_targets(2, 2, warmup=-1), ValueError, "`warmup` must be at least 0"),
        (lambda: short_targets(2, 2, prior_count=-1.0), ValueError, "`prior_count` must be"),
        (lambda: short_targets(2, 2, held_back=1.0), ValueError, "`held_back` must lie in"),
        (
            lambda: short_targets(2, 2, held_back=0.1, warmup=1),
            ValueError,
            "`held_back` needs a `warmup` of at least 2; got 1",
        ),
        (
            lambda: short_targets(2, 2, dtype=torch.int32),
            TypeError,
            "`dtype` must be floating",
        ),
        (
            lambda: short_targets(2, 2)(INDEX + 1, LABELS, PROBS),
            ValueError,
            r"`index` must lie in \[0, 2\)",
        ),
        (
            lambda: short_targets(2, 2)(INDEX, LABELS, PROBS[:1]),
            ValueError,
            r"`probs` must have shape \(B, C\) = \(2, 2\); got \(1, 2\)",
        ),
        (
            lambda: short_targets(2, 2)(INDEX, LABELS, PROBS * torch.nan),
            ValueError,
            "`probs` must be non-negative and sum to 1; got values from nan",
        ),
        (
            lambda: short_targets(2, 2).trust(INDEX, LABELS),
            ValueError,
            "`index` must name samples that were trained on; got 2 unseen",
        ),
        (
            lambda: label_posterior(PROBS, LABELS, torch.eye(3)),
            ValueError,
            r"`noise_matrix` must have shape \(2, 2\); got \(3, 3\)",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_logits_are_not_taken_for_probabilities():
    targets = short_targets(8, 3)
    index, logits = torch.arange(2), torch.tensor([[4.0, -1.0, 0.0], [0.0, 2.0, 5.0]])
    with pytest.raises(ValueError, match=r"`probs` must be non-negative and sum to 1.*from -1 "):
        targets(index, index.clone(), logits)
    for dtype in (torch.float16, torch.bfloat16):  # as exact as they can be
        targets(index, index.clone(), logits.softmax(-1).to(dtype))


def test_a_repeated_sample_counts_once_by_its_mean():
    repeated, once = (short_targets(4, 2, warmup=0) for _ in range(2))
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 0])
    made = repeated(torch.tensor([2, 0, 2, 2]), labels, probs)
    once(torch.tensor([2, 0]), labels[:2], torch.tensor([[0.6, 0.4], [0.2, 0.8]]))
    torch.testing.assert_close(repeated.average, once.average)
    assert repeated.updates.tolist() == once.updates.tolist() == [1, 0, 1, 0]
    assert torch.equal(made[0], made[2])


def test_two_classes_do_not_change_places():
    """Though all predictions say the other class: no label is given more often than the right."""
    targets = short_targets(40, NUM_CLASSES, warmup=0)
    index = torch.arange(40)
    labels = index % NUM_CLASSES
    swapped = labels.where(labels > 1, 1 - labels)
    probs = 0.96 * torch.nn.functional.one_hot(swapped, NUM_CLASSES).float() + 0.01
    for _ in range(30):
        targets(index, labels, probs)
    matrix = targets.noise_matrix
    assert bool((matrix.diagonal().unsqueeze(-1) >= matrix - 1e-6).all())
    torch.testing.assert_close(matrix.sum(-1), torch.ones(NUM_CLASSES))
    assert float(matrix[0, 1]) == pytest.approx(float(matrix[0, 0]), abs=0.01)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_noise_matrix_counts_one_sample_beforehand(seed):
    """In loops; it is spread as if labels were right one time in two."""
    num_samples, size = 50, range(NUM_CLASSES)
    targets = short_targets(num_samples, NUM_CLASSES)
    drawn = torch.rand(NUM_CLASSES, NUM_CLASSES, generator=torch.Generator().manual_seed(seed))
    targets.joint.copy_(drawn / drawn.sum())
    counts = (targets.joint * num_samples).tolist()
    for c in size:
        for k in size:
            counts[c][k] += ((c == k) + 1 / NUM_CLASSES) / (2 * NUM_CLASSES)
        counts[c] = [min(count, counts[c][c]) for count in counts[c]]
    expected = torch.tensor([[count / sum(row) for count in row] for row in counts])
    torch.testing.assert_close(targets.noise_matrix, expected)


def test_the_defaults_are_the_robust_recipes():
    recipe = get_recipe("robust")
    targets = RefurbishedTargets(8, 3)
    for name in ("momentum", "temperature", "noise_temperature", "prior_count", "held_back"):
        assert getattr(targets, name) == getattr(recipe, name), name
    assert (targets.warmup, targets.memory) == (recipe.warmup, recipe.memory) == (10, 0.3)
    assert targets.held_for == 10
    for warmup in (0, 1):
        assert RefurbishedTargets(8, 3, warmup=warmup).held_back == 0.0
    assert RefurbishedTargets(8, 3, warmup=2).held_back == recipe.held_back


def test_the_defaults_can_be_told_what_to_keep_and_check():
    targets = RefurbishedTargets(8, 3, dtype=torch.float16, validate_args=False)
    assert targets.average.dtype == targets.memorization.residuals.values.dtype == torch.float16
    index = torch.arange(8)
    probs = torch.full((8, 3), torch.nan)  # which a check would name
    assert targets(index, index % 3, probs).shape == (8, 3)


def test_labels_of_a_class_are_kept_until_it_is_learned():
    """A rare class that the model takes for the frequent one first, and tells apart later."""
    labels = torch.tensor([0] * 180 + [1] * 20)
    index, wrong = torch.arange(200), 180
    alike = torch.tensor([0.9, 0.1]).repeat(200, 1)
    predicted = torch.tensor([0.99, 0.01]).repeat(200, 1)
    predicted[wrong + 1 :] = torch.tensor([0.05, 0.95])  # the first of the twenty labels is wrong

    def trained(prior_count, *phases):
        targets = short_targets(200, 2, warmup=0, noise_temperature=0.25, prior_count=prior_count)
        for probs in phases:
            for _ in range(40):
                soft = targets(index, labels, probs)
        return soft[wrong:, 1]

    assert bool((trained(0.0, alike) < 0.5).all())
    assert bool((trained(3.0, alike) > 0.9).all())
    kept = trained(3.0, alike, predicted)
    assert float(kept[0]) < 0.5
    assert bool((kept[1:] > 0.95).all())


def random_batches(num_samples=24, size=4, epochs=4, seed=0):
    """Each epoch's batches of index, labels and predictions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num_samples,), generator=generator)
    for _ in range(epochs):
        for index in torch.randperm(num_samples, generator=generator).split(size):
            probs = torch.randn(len(index), NUM_CLASSES, generator=generator).softmax(-1)
            yield index, labels[index], probs


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.tensor([0, 1, 24]), ValueError, r"`index` must lie in \[0, 24\)"),
        (torch.tensor([0, 1, -1]), ValueError, r"`index` must lie in \[0, 24\)"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, "`index` must be an int64 tensor"),
        (torch.tensor([0, 1, 2], dtype=torch.int32), TypeError, "`index` must be an int64 tensor"),
        (torch.tensor([[0, 1, 2]]), ValueError, r"`index` must have shape \(N,\)"),
        ([0, 1, 2], TypeError, "`index` must be an int64 tensor; got list"),
        (torch.tensor([0, 0, 1]), ValueError, "other labels for 2 of 3|other labels for 1 of 3"),
    ],
)
def test_a_wrong_index_is_refused_and_changes_nothing(index, error, message):
    targets = short_targets(24, NUM_CLASSES)
    before = copy.deepcopy(targets.state_dict())
    labels = torch.tensor([0, 3, 1])
    with pytest.raises(error, match=message):
        targets(index, labels, torch.full((3, NUM_CLASSES), 1 / NUM_CLASSES))
    assert all(torch.equal(before[name], value) for name, value in targets.state_dict().items())


@pytest.mark.parametrize("cast", [lambda labels: labels, torch.clone])
def test_labels_are_not_taken_for_an_index(cast):
    targets = short_targets(24, NUM_CLASSES)
    labels = torch.tensor([3, 3, 1, 0, 2, 1, 1, 0])
    with pytest.raises(ValueError, match=r"`index` must be each sample's place.* got the labels"):
        targets(cast(labels), labels, torch.eye(NUM_CLASSES)[labels])
    assert not bool(targets.updates.any())


def test_a_small_batch_may_equal_its_labels_by_chance():
    targets = short_targets(24, NUM_CLASSES)
    index = torch.tensor([1, 1])  # drawn twice by a sampler with replacement
    targets(index, index.clone(), torch.eye(NUM_CLASSES)[index])


def test_a_class_for_each_sample_is_no_mistake():
    targets = short_targets(NUM_CLASSES, NUM_CLASSES)
    index = torch.arange(NUM_CLASSES)
    targets(index, index, torch.eye(NUM_CLASSES))
    first = short_targets(24, NUM_CLASSES)  # sorted data that is not shuffled
    first(index, index.clone(), torch.eye(NUM_CLASSES))


def test_other_labels_than_before_are_refused():
    targets = short_targets(24, NUM_CLASSES, warmup=0)
    for index, labels, probs in random_batches():
        targets(index, labels, probs)
    for other in (
        (labels + 1) % NUM_CLASSES,
        torch.nn.functional.one_hot(labels, NUM_CLASSES).float().flip(-1),
    ):
        with pytest.raises(ValueError, match=r"`labels` must be those .* had before; got other"):
            targets(index, other, probs)
        with pytest.raises(ValueError, match=r"`labels` must be those .* had before; got other"):
            targets.check_given(index, other)
    soft = torch.nn.functional.one_hot(labels, NUM_CLASSES)
    for same in (soft.half(), soft.bfloat16(), soft.double()):
        targets.check_given(index, same)


@given(st.integers(0, 10_000), st.sampled_from([torch.float16, torch.float32, torch.float64]))
@settings(max_examples=25, deadline=None)
def test_the_same_soft_labels_are_told_from_others(seed, dtype):
    _, _, soft = random_case(seed)
    targets = short_targets(len(soft), NUM_CLASSES, warmup=0)
    index, probs = torch.arange(len(soft)), torch.full((len(soft), NUM_CLASSES), 0.25)
    targets(index, soft, probs)
    targets(index, soft.to(dtype), probs)
    with pytest.raises(ValueError, match="`labels` must be those"):
        targets(index, torch.nn.functional.one_hot(soft.argmin(-1), NUM_CLASSES).float(), probs)


@pytest.mark.parametrize("held_back", [0.0, 0.3])
@pytest.mark.parametrize("calls", [2, 3])
def test_calls_that_do_not_update_change_nothing(held_back, calls):
    once, several = (
        short_targets(24, NUM_CLASSES, warmup=2, held_back=held_back) for _ in range(2)
    )
    for index, labels, probs in random_batches():
        expected = once(index, labels, probs)
        assert torch.equal(several(index, labels, probs), expected)
        before = copy.deepcopy(several.state_dict())
        for _ in range(calls - 1):
            again = several(index, labels, probs.roll(1, -1), update=False)
            torch.testing.assert_close(again.sum(-1), torch.ones(len(index)))
        assert all(torch.equal(before[name], each) for name, each in several.state_dict().items())
        new = several.updates[index] <= 2
        if not held_back:
            assert torch.equal(again[new], expected[new])
        given = torch.eye(NUM_CLASSES)[labels]
        later = torch.full((len(index), 1), 3)
        scores = several._scores(index)
        known = posteriors_of(several, scores, labels, given, later)[1]
        assert torch.equal(again[~new], known[~new])


@pytest.mark.parametrize("calls", [2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_counting_each_batch_more_than_once_is_refused(calls, shuffle):
    targets = short_targets(24, NUM_CLASSES)

    def train():
        for index, labels, probs in random_batches():
            for call in range(calls):
                order = torch.randperm(len(index)) if shuffle and call else slice(None)
                targets(index[order], labels[order], probs[order])

    with pytest.raises(ValueError, match="`index` must name the samples of a step once"):
        train()
    assert int((targets.updates > 0).sum()) == 12  # in the third batch, at the second call


@pytest.mark.parametrize(("num_samples", "size"), [(2, 1), (4, 2), (6, 2), (3, 1), (8, 8), (9, 4)])
def test_epochs_of_few_batches_are_not_taken_for_repeated_calls(num_samples, size):
    targets = short_targets(num_samples, NUM_CLASSES)
    for index, labels, probs in random_batches(num_samples, size, epochs=100):
        targets(index, labels, probs)
    assert bool((targets.updates == 100).all())


def test_a_training_that_is_too_short_to_tell_of_noise_is_named():
    targets = RefurbishedTargets(24, NUM_CLASSES)
    for index, labels, probs in random_batches(epochs=6):
        targets(index, labels, probs)
    for call in (targets.check_known, lambda: targets.trust(index, labels)):
        with pytest.raises(ValueError, match="samples more than 10 times; got at most 6"):
            call()
    for index, labels, probs in random_batches(epochs=5):
        targets(index, labels, probs)
    assert targets.trust(index, labels).shape == index.shape


def remembering(memory, *, by_heart, count=400, rounds=6):
    """Targets of a network that knows the labels it was shown, or none of them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    targets = RefurbishedTargets(
        count, NUM_CLASSES, warmup=10, held_back=0.2, held_for=3, memory=memory
    )
    shown = ~targets.memorization.control
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES)
    logits = torch.randn(count, NUM_CLASSES, generator=generator)
    logits = logits + by_heart * shown.unsqueeze(-1) * one_hot
    index, doubted = torch.arange(count), []
    for done in range(1, rounds + 1):
        made = targets(index, labels, logits.softmax(-1))
        doubted.append(bool((made[shown] != one_hot[shown]).any()))
        if done == targets.held_for:
            assert targets.judge_memory() == bool(targets.remembers)
    return targets, doubted


@pytest.mark.parametrize(
    ("by_heart", "memory", "early"), [(3.0, 0.3, True), (3.0, 5.0, False), (0.0, 0.3, False)]
)
def test_doubts_begin_early_only_where_labels_are_known_by_heart(by_heart, memory, early):
    targets, doubted = remembering(memory, by_heart=by_heart)
    assert bool(targets.remembers) == early
    assert doubted == [False] * 3 + [early] * 3
    assert remembering(memory, by_heart=by_heart, rounds=11)[1][10]


def test_whether_there_was_memory_is_saved():
    targets, _ = remembering(0.3, by_heart=3.0)
    other = RefurbishedTargets(400, NUM_CLASSES, held_back=0.2, held_for=3)
    other.load_state_dict(targets.state_dict())
    assert bool(other.remembers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_for": -1}, "`held_for` must be at least 0; got -1"),
        ({"held_for": 4, "warmup": 3}, "`held_for` must be at most `warmup`, 3; got 4"),
        ({"memory": 0.0}, "`memory` must be greater than 0"),
    ],
)
def test_bad_settings_of_early_doubts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RefurbishedTargets(8, 2, **options)


def test_states_from_before_predictions_out_of_sample_were_kept():
    """They are filled in, as in files; a state that lacks part of them is refused."""
    targets = RefurbishedTargets(20, 3, warmup=0)
    targets(torch.arange(20), torch.arange(20) % 3, torch.rand(20, 3).softmax(-1))
    state = targets.state_dict()
    old = {name: each for name, each in state.items() if not name.startswith("out_of_sample")}
    targets.out_of_sample.classes.fill_(2)
    targets.load_state_dict(old)
    assert targets.out_of_sample.classes.tolist() == [-1] * 20
    assert "out_of_sample.classes" not in old
    with pytest.raises(RuntimeError, match=r"out_of_sample\.classes"):
        targets.load_state_dict(old | {"out_of_sample.confidence": torch.zeros(20)})
