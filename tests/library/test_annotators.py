"""Labels of several annotators: the posterior, their noise matrices, and what is refused."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reliability_balance import ReliabilityBalancer, RobustLoss
from reliability_balance.checkpoint import load, save, tensor_file
from reliability_balance.core import get_recipe
from reliability_balance.labels import (
    RefurbishedTargets,
    annotator_posterior,
    estimate_noise,
    label_posterior,
    rank_labels,
)

N, C = 1500, 3
RIGHT = torch.tensor([0.95, 0.8, 0.6, 0.5])
# How often each annotator labels a sample.
BUSY = torch.tensor([0.6, 0.6, 0.6, 0.6])


def draw(generator, *shape):
    return torch.rand(shape, generator=generator)


def true_matrices():
    """Each annotator takes a class for the next one more often than for the one after that."""
    matrices = []
    for right in RIGHT:
        rows = [[right, 0.75 * (1 - right), 0.25 * (1 - right)]]
        rows += [rows[0][-shift:] + rows[0][:-shift] for shift in (1, 2)]
        matrices.append(torch.tensor(rows))
    return torch.stack(matrices)


def simulated(busy=BUSY, seed=0, count=N):
    """True classes, labels, and beliefs that are right in about 85 % and know how sure they are."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(count) % C
    labels = torch.stack(
        [torch.multinomial(m[true], 1, generator=generator)[:, 0] for m in true_matrices()], 1
    )
    given_by = draw(generator, count, len(busy)) < busy
    given_by[:, 1] |= ~given_by.any(1)
    scores = 2 * torch.nn.functional.one_hot(true, C)
    scores = scores + torch.randn(scores.shape, generator=generator)
    return true, labels.where(given_by, -1), (2 * scores).softmax(-1)


def learned(labels, probs, rounds=6, **options):
    """Targets of a model whose predictions stay as they are."""
    targets = RefurbishedTargets(
        len(probs), C, warmup=1, num_annotators=labels.shape[1], noise_temperature=1.0,
        temperature=1.0, **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for _ in range(rounds):
        for index in torch.randperm(len(probs), generator=generator).split(250):
            targets(index, labels[index], probs[index])
    return targets


def posterior_by_loops(beliefs, labels, matrices):
    """The equation, sample by sample, annotator by annotator, class by class."""
    rows = []
    for p, given_labels in zip(beliefs.tolist(), labels.tolist(), strict=True):
        row = list(p)
        for a, k in enumerate(given_labels):
            if k >= 0:
                row = [row[c] * float(matrices[a, c, k]) for c in range(len(row))]
        rows.append([each / sum(row) for each in row])
    return torch.tensor(rows, dtype=beliefs.dtype)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_posterior_is_bayes_rule_over_the_annotators(seed, num_classes, num_annotators):
    generator = torch.Generator().manual_seed(seed)
    beliefs = draw(generator, 6, num_classes).double()
    beliefs = beliefs / beliefs.sum(-1, keepdim=True)
    matrices = draw(generator, num_annotators, num_classes, num_classes).double() + 0.01
    matrices = matrices / matrices.sum(-1, keepdim=True)
    labels = torch.randint(-1, num_classes, (6, num_annotators), generator=generator)
    found = annotator_posterior(beliefs, labels, matrices)
    torch.testing.assert_close(found, posterior_by_loops(beliefs, labels, matrices))


def test_one_annotator_is_an_index_label():
    beliefs, matrix = torch.rand(5, 3).softmax(-1), torch.rand(3, 3).softmax(-1)
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = annotator_posterior(beliefs, labels.unsqueeze(1), matrix.unsqueeze(0))
    torch.testing.assert_close(found, label_posterior(beliefs, labels, matrix))


def test_the_posterior_is_finite_at_the_edges():
    identity = torch.eye(3).expand(400, 3, 3)
    beliefs = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    labels = torch.full((4, 400), -1)
    labels[0] = 0  # agreed by all
    labels[1, :2] = 1  # ruled out by the beliefs
    labels[2, 0], labels[2, 1] = 0, 1  # cannot both be right
    beliefs.requires_grad_()
    found = annotator_posterior(beliefs, labels, identity)
    expected = beliefs.detach().clone()
    expected[0] = torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(found, expected)
    (found * torch.arange(12.0).view(4, 3)).sum().backward()
    assert beliefs.grad.isfinite().all()
    many = annotator_posterior(
        torch.full((1, 2), 0.5), torch.zeros(1, 2000, dtype=torch.int64),
        torch.tensor([[0.02, 0.98], [0.01, 0.99]]).expand(2000, 2, 2),
    )  # fmt: skip
    torch.testing.assert_close(many, torch.tensor([[1.0, 0.0]]))  # a product would be 0 / 0
    assert annotator_posterior(beliefs[:0], labels[:0], identity).shape == (0, 3)


def test_the_matrices_of_simulated_annotators_are_recovered():
    _, labels, probs = simulated()
    targets = learned(labels, probs)
    error = (targets.annotator_matrices - true_matrices()).abs().mean()
    common = (targets.noise_matrix - true_matrices()).abs().mean()
    assert error < 0.03
    assert error < common / 3
    torch.testing.assert_close(targets.annotator_matrices.sum(-1), torch.ones(4, 3))
    right = targets.annotator_matrices.diagonal(dim1=1, dim2=2).mean(-1)
    assert torch.equal(right.argsort(descending=True), torch.arange(4))


def test_better_annotators_count_more():
    true, labels, probs = simulated()
    right = []
    for options in ({"annotator_prior": 3.0}, {"annotator_prior": 1e9}):
        targets = learned(labels, probs, **options)
        suggested = rank_labels(targets, labels)
        assert (suggested.doubt.diff() <= 0).all()
        right.append((suggested.suggested == true[suggested.sample]).double().mean())
    assert right[0] > right[1]


def test_an_annotator_who_labelled_little_has_nearly_the_common_matrix():
    _, labels, probs = simulated(torch.tensor([0.6, 0.6, 0.6, 0.004]))
    targets = learned(labels, probs)
    distance = (targets.annotator_matrices - targets.noise_matrix).abs().mean((1, 2))
    assert distance[3] < 0.03 < 0.1 < distance[0]
    unused = labels.clone()
    unused[:, 3] = -1
    unused[:, 1] = unused[:, 1].where((unused >= 0).any(1), 0)
    targets = learned(unused, probs)
    torch.testing.assert_close(targets.annotator_matrices[3], targets.noise_matrix)


def test_the_shrunk_matrix_is_the_mean_weighted_by_labels():
    _, labels, probs = simulated()
    targets = learned(labels, probs, annotator_prior=50.0)
    counts = N * targets.annotators.joint
    expected = torch.zeros(4, C, C)
    for a in range(4):
        for c in range(C):
            row = [float(counts[a, c, k] + 50.0 * targets.noise_matrix[c, k]) for k in range(C)]
            row = [min(each, row[c]) for each in row]
            expected[a, c] = torch.tensor([each / sum(row) for each in row])
    torch.testing.assert_close(targets.annotator_matrices, expected)


def test_no_wrong_label_is_more_frequent_than_the_right_one():
    _, labels, probs = simulated()
    labels[:, 3] = (labels[:, 3] + 1).where(labels[:, 3] >= 0, -1) % C  # mostly wrong, 1s where -1
    labels[:, 3] = labels[:, 3].where(simulated()[1][:, 3] >= 0, -1)
    matrices = learned(labels, probs).annotator_matrices
    assert (matrices <= matrices.diagonal(dim1=1, dim2=2).unsqueeze(-1) + 1e-6).all()


def test_one_annotator_of_all_labels_is_like_index_labels():
    _, labels, probs = simulated(torch.ones(4))
    ones = labels[:, 1]
    targets = learned(ones.unsqueeze(1), probs, annotator_prior=1e9, held_back=0.0)
    usual = RefurbishedTargets(
        N, C, warmup=1, noise_temperature=1.0, temperature=1.0, held_back=0.0
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        for index in torch.randperm(N, generator=generator).split(250):
            usual(index, ones[index], probs[index])
    torch.testing.assert_close(targets.noise_matrix, usual.noise_matrix, atol=1e-4, rtol=0)
    index = torch.arange(N)
    torch.testing.assert_close(
        targets.trust(index, ones.unsqueeze(1)), usual.trust(index, ones), atol=1e-3, rtol=0
    )
    noise, expected = (estimate_noise(targets, ones.unsqueeze(1)), estimate_noise(usual, ones))
    assert float(noise.rate.value) == pytest.approx(float(expected.rate.value), abs=0.01)


def test_targets_are_vote_shares_in_the_warm_up_and_stay_distributions():
    targets = RefurbishedTargets(4, 3, warmup=1, num_annotators=3, held_back=0.0)
    labels = torch.tensor([[0, 0, 1], [-1, 2, -1], [1, -1, 2], [0, 0, 0]])
    index, probs = torch.arange(4), torch.tensor([[0.5, 0.3, 0.2]]).expand(4, 3)
    expected = torch.tensor(
        [[2 / 3, 1 / 3, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    )
    torch.testing.assert_close(targets(index, labels, probs), expected)
    for _ in range(3):
        torch.testing.assert_close(targets(index, labels, probs).sum(-1), torch.ones(4))


def test_the_noise_rate_is_the_share_of_wrong_single_labels():
    true, labels, probs = simulated()
    targets = learned(labels, probs)
    estimate = estimate_noise(targets, labels)
    wrong = (labels != true.unsqueeze(1))[labels >= 0].double().mean()
    assert float(estimate.rate.value) == pytest.approx(float(wrong), abs=0.03)
    assert estimate.rate.low < estimate.rate.value < estimate.rate.high


def test_the_most_frequent_label_is_judged_and_of_equals_the_likeliest():
    targets = RefurbishedTargets(40, 2, warmup=0, num_annotators=3)
    probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(20, 1)
    labels = probs.argmax(-1).unsqueeze(1).repeat(1, 3)
    labels[2] = torch.tensor([1, 1, 0])  # most say 1, the model 0
    labels[4] = torch.tensor([1, 0, -1])  # equals
    for _ in range(4):
        targets(torch.arange(40), labels, probs)
    ranking = rank_labels(targets, labels)
    given_labels = ranking.given[ranking.sample.argsort()]
    assert given_labels[[0, 1, 2, 4]].tolist() == [0, 1, 1, 0]
    assert int(ranking.sample[0]) == 2
    trust = targets.trust(torch.arange(40), labels)
    torch.testing.assert_close(1.0 - ranking.doubt, trust[ranking.sample])


def test_saved_state_goes_on_alike(tmp_path):
    pytest.importorskip("safetensors")
    _, labels, probs = simulated(count=300)
    targets = learned(labels, probs, rounds=3)
    save(tmp_path / "targets.safetensors", targets)
    again = load(tmp_path / "targets.safetensors").model
    assert again.num_annotators == 4
    torch.testing.assert_close(again.annotator_matrices, targets.annotator_matrices)
    again.train()
    index = torch.arange(300)
    torch.testing.assert_close(
        again(index, labels, probs), targets(index, labels, probs), rtol=0, atol=0
    )


def test_files_are_believed_only_as_many_annotators_as_they_hold(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "targets.safetensors"
    save(path, RefurbishedTargets(20, C, num_annotators=4))
    tensors, config = tensor_file.read(path)
    settings = config["modules"]["model"]["parts"][""]
    settings["num_annotators"] = 10**9
    tensor_file.write(path, tensors, config)
    with pytest.raises(ValueError, match=r"annotators.joint of the shape \(4, 3, 3\)"):
        load(path)
    save(path, RefurbishedTargets(20, C))
    tensors, config = tensor_file.read(path)
    for name in ("num_annotators", "annotator_prior"):  # from before there were annotators
        del config["modules"]["model"]["parts"][""][name]
    tensor_file.write(path, tensors, config)
    assert load(path).model.annotator_matrices is None


def test_gathered_labels_are_those_of_one_process():
    _, labels, probs = simulated(count=300)
    index = torch.arange(300)
    alone, gathered = (
        RefurbishedTargets(300, C, warmup=1, num_annotators=4, held_back=0.0) for _ in range(2)
    )
    expected = [alone(index, labels, probs) for _ in range(3)]
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        found = [gathered(index, labels, probs) for _ in range(3)]
        gathered.check_ranks()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, expected)
    before = gathered.annotator_matrices
    again = gathered(index, labels, probs, update=False)
    torch.testing.assert_close(again, gathered(index, labels, probs), atol=0.05, rtol=0)
    assert not torch.equal(before, gathered.annotator_matrices)


def small_training(labels, epochs=6, recipe="robust"):
    """A criterion after training a balancer on well separated embeddings."""
    torch.manual_seed(0)
    true = torch.arange(len(labels)) % C
    embeddings = torch.randn(len(labels), 8) + 4 * torch.nn.functional.one_hot(true, 8)
    model = ReliabilityBalancer(8, C, recipe=recipe)
    criterion = RobustLoss(model, labels, epochs=epochs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(50):
            loss = criterion(model(embeddings[index]), labels[index], index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return criterion, model, embeddings, true


def test_the_robust_loss_learns_from_annotators_and_round_trips():
    _, labels, _ = simulated(count=600)
    criterion, model, embeddings, true = small_training(labels)
    error = (criterion.annotator_matrices - true_matrices()).abs().mean()
    assert error < 0.08
    ranking = criterion.doubtful_labels()
    assert (ranking.suggested == true[ranking.sample]).double().mean() > 0.95
    assert 0.0 < float(criterion.noise_rate().value) < 1.0
    criterion.check_labels(labels)
    file = io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    other = RobustLoss(ReliabilityBalancer(8, C), labels, epochs=6)
    other.load_state_dict(torch.load(file))
    torch.testing.assert_close(other.annotator_matrices, criterion.annotator_matrices)
    criterion.eval()
    output = model(embeddings)
    judged = criterion(output, labels)
    counts = torch.nn.functional.one_hot(labels + 1, C + 1)[:, :, 1:].sum(1).float()
    torch.testing.assert_close(judged, criterion(output, counts / counts.sum(1, keepdim=True)))
    assert criterion(output, true).isfinite()  # validation labels may be single ones


def test_the_paper_recipe_trains_on_vote_shares():
    _, labels, _ = simulated(count=100)
    criterion, *_ = small_training(labels, epochs=1, recipe="paper")
    assert criterion.recipe == get_recipe("paper")


def test_index_labels_have_no_annotators():
    criterion = RobustLoss(ReliabilityBalancer(8, C), torch.arange(30) % C, epochs=6)
    assert criterion.annotator_matrices is None
    assert "annotators.joint" not in criterion.targets.state_dict()


def test_swapped_annotators_are_refused():
    _, labels, probs = simulated(count=60)
    targets = learned(labels, probs, rounds=1)
    with pytest.raises(ValueError, match="`labels` must be those that the samples"):
        targets.check_given(torch.arange(60), labels[:, [1, 0, 2, 3]])
    targets.check_given(torch.arange(60), labels)


FULL = torch.tensor([[0, 1], [1, -1], [2, 2], [0, 0]])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (FULL.where(FULL != 1, -1)[:, 1:], ValueError, "must hold at least one label.*2 of 4"),
        (FULL - 1, ValueError, r"must lie in \[0, 3\), or be -1.*from -2 to 1"),
        (FULL + 1, ValueError, r"must lie in \[0, 3\), or be -1.*from 0 to 3"),
        (torch.eye(3, dtype=torch.int64)[[0, 1, 2, 0]], ValueError, "only zeros and ones"),
        (2 * torch.eye(3, dtype=torch.int64)[[0, 1, 2, 0]], ValueError, "sum to 2.*shares"),
        (FULL[:, :0], ValueError, "4 of 4 samples"),
        (FULL.int(), TypeError, "int64"),
    ],
)
def test_what_no_annotators_can_have_given_is_refused(labels, error, message):
    with pytest.raises(error, match=message):
        RobustLoss(ReliabilityBalancer(8, 3), labels, epochs=6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RefurbishedTargets(4, 3, num_annotators=-1), ValueError, "`num_annotators` must"),
        (lambda: RefurbishedTargets(4, 3, num_annotators=2.0), TypeError, "`num_annotators` must"),
        (lambda: RefurbishedTargets(4, 3, annotator_prior=-1), ValueError, "`annotator_prior`"),
        (
            lambda: RefurbishedTargets(4, 3, num_annotators=2)(
                torch.arange(4), FULL[:, 0], torch.full((4, 3), 1 / 3)
            ),
            ValueError,
            r"a column for each annotator, \(4, 2\); got \(4,\)",
        ),
        (
            lambda: RefurbishedTargets(4, 3, num_annotators=2)(
                torch.arange(4), torch.full((4, 2), -1), torch.full((4, 3), 1 / 3)
            ),
            ValueError,
            "must hold at least one label for each sample",
        ),
        (
            lambda: annotator_posterior(torch.ones(4, 3) / 3, FULL.float(), torch.ones(2, 3, 3)),
            TypeError,
            "`labels` of several annotators must be an int64",
        ),
        (
            lambda: annotator_posterior(torch.ones(4, 3) / 3, FULL + 1, torch.ones(2, 3, 3)),
            ValueError,
            "must lie in",
        ),
        (
            lambda: annotator_posterior(torch.ones(4, 3) / 3, FULL, torch.ones(2, 3, 2)),
            ValueError,
            r"`noise_matrices` must have shape \(A, 3, 3\)",
        ),
        (
            lambda: annotator_posterior(torch.ones(4, 3) / 3, FULL, torch.ones(3, 3)),
            ValueError,
            "`noise_matrices` must have shape",
        ),
        (
            lambda: annotator_posterior(torch.ones(2, 4, 3) / 3, FULL, torch.ones(2, 3, 3)),
            ValueError,
            r"`beliefs` must have shape \(B, C\)",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
