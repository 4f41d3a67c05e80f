"""Rows and noise counts of many classes, against those that are stored whole."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_targets import short_targets
from torch.utils._python_dispatch import TorchDispatchMode

from reliability_balance import ReliabilityBalancer, RobustLoss
from reliability_balance.data import pair_noise, symmetric_noise
from reliability_balance.labels import RefurbishedTargets, estimate_noise, rank_labels, rows
from reliability_balance.labels.noise_matrix import DenseCounts, SparseCounts
from reliability_balance.labels.rows import SparseRows, make_rows


def drawn(generator, *shape):
    return torch.randn(*shape, generator=generator).mul(2).softmax(-1)


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_kept_entries_are_exact_and_the_others_share_the_rest(seed, kept):
    generator = torch.Generator().manual_seed(seed)
    stored = make_rows(9, 7, kept, torch.float64)
    written, shares = drawn(generator, 4, 7).double(), drawn(generator, 7).double()
    index, first = torch.tensor([8, 0, 3, 5]), torch.randint(7, (4,), generator=generator)
    before = written.clone()
    assert torch.equal(stored.write(index, written, stored.largest(written, first)), before)
    assert torch.equal(written, before)
    found = stored.read(index, shares)
    for row, read, own in zip(before.tolist(), found.tolist(), first.tolist(), strict=True):
        others = sorted((c for c in range(7) if c != own), key=lambda c: -row[c])
        largest = [own, *others[: kept - 1]]
        left_out = [c for c in range(7) if c not in largest]
        rest = sum(row[c] for c in left_out)
        total = sum(float(shares[c]) for c in left_out)
        for c in range(7):
            # Shares below 1/C of the rest are rounding errors to it.
            expected = row[c] if c in largest else rest * float(shares[c]) / max(total, 1 / 7)
            assert read[c] == pytest.approx(expected)
    assert bool((stored.read(torch.tensor([1, 2]), shares) == 0).all())


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_counts_of_all_classes_are_those_stored_whole(seed, soft):
    generator = torch.Generator().manual_seed(seed)
    size, count = 4, 40
    whole, sparse = DenseCounts(count, size), SparseCounts(count, size, kept=size)
    shares, classes = torch.full((size,), 1 / size), torch.arange(size).repeat(6, 1)
    for _ in range(5):
        posterior = drawn(generator, 6, size)
        posterior[0] = 0.0
        labels = torch.randint(size, (6,), generator=generator)
        given = drawn(generator, 6, size) if soft else torch.eye(size)[labels]
        labels = given if soft else labels
        for counts in (whole, sparse):
            counts.add(*counts.collect(posterior, labels, given, shares, classes), shares, classes)
        torch.testing.assert_close(sparse.whole(shares), whole.joint)
        torch.testing.assert_close(sparse.matrix(shares), whole.matrix(shares))
        beliefs = drawn(generator, 6, size)
        of_both = [counts.rule(shares)(beliefs, labels) for counts in (whole, sparse)]
        torch.testing.assert_close(*of_both)
        if not soft:
            of_both = [
                counts.posteriors(beliefs.log(), 0.25, labels, shares) for counts in (whole, sparse)
            ]
            for expected, found in zip(*of_both, strict=True):
                torch.testing.assert_close(found / found.sum(-1, keepdim=True), expected)


def test_first_counts_and_a_replacement_are_those_stored_whole():
    generator = torch.Generator().manual_seed(0)
    shares = torch.full((40,), 1 / 40)
    whole, sparse = DenseCounts(90, 40), SparseCounts(90, 40, kept=5)
    torch.testing.assert_close(sparse.whole(shares), whole.joint)
    torch.testing.assert_close(sparse.matrix(shares), whole.matrix(shares))
    joint = drawn(generator, 40, 40) / 40
    sparse.replace(joint)
    found = sparse.whole(shares)
    torch.testing.assert_close(found.sum(0), joint.sum(0))
    assert torch.equal(found.diagonal(), joint.diagonal())
    torch.testing.assert_close(sparse.matrix(shares).sum(-1), torch.ones(40))


def simulate(num_classes, noise, rate, batch_size=250, **options):
    """Train on simulated predictions, of which some are undecided between similar classes."""
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(30 * num_classes) % num_classes
    labels = noise(true, rate, num_classes, seed=0)
    targets = short_targets(len(true), num_classes, held_back=0.2, warmup=4, **options)
    own = 6.0 * torch.nn.functional.one_hot(true, num_classes)
    own = own + 4.0 * torch.nn.functional.one_hot((true + 3) % num_classes, num_classes)
    for _ in range(12):
        for index in torch.randperm(len(true), generator=generator).split(batch_size):
            blur = 1.5 * torch.randn(len(index), num_classes, generator=generator)
            targets(index, labels[index], (own[index] + blur).softmax(-1))
    return targets, true, labels


@pytest.mark.parametrize(("noise", "rate"), [(symmetric_noise, 0.4), (pair_noise, 0.3)])
def test_the_largest_beliefs_suffice(noise, rate):
    whole, true, labels = simulate(100, noise, rate, kept=100)
    sparse, *_ = simulate(100, noise, rate)
    assert sparse.averages.values.shape == (3000, 15)
    index, wrong = torch.arange(3000), true != labels
    trusts = [each.trust(index, labels) for each in (whole, sparse)]
    for trust in trusts:
        assert float((trust[wrong] < 0.5).float().mean()) > 0.97
        assert float((trust[~wrong] > 0.5).float().mean()) > 0.97
    assert float((trusts[0] - trusts[1]).abs().mean()) < 0.01
    likely = [each.posterior_rule()(each.beliefs(index), labels) for each in (whole, sparse)]
    right = [float((each.argmax(-1) == true).float().mean()) for each in likely]
    assert right[1] > right[0] - 0.005
    diagonals = [float(each.noise_matrix.diagonal().mean()) for each in (whole, sparse)]
    assert diagonals[0] == pytest.approx(diagonals[1], abs=0.02)
    strengths = [float(each.memorization.strength) for each in (whole, sparse)]
    assert strengths[0] == pytest.approx(strengths[1], abs=0.02)


@pytest.mark.parametrize("batch_size", [250, 3000])
def test_the_noise_matrix_is_that_of_whole_rows_whatever_the_batch(batch_size):
    """A class that few samples of a batch are taken for counts in all of them."""
    whole, sparse = (
        simulate(100, symmetric_noise, 0.4, batch_size, kept=kept)[0].noise_matrix
        for kept in (100, None)
    )
    assert float((whole - sparse).abs().sum(-1).mean()) < 0.02


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.untyped_storage().nbytes() // each.element_size())
        return made


@pytest.mark.parametrize("soft", [False, True])
def test_a_step_creates_no_tensor_of_classes_squared(soft):
    num_classes, size = 1500, 16
    generator = torch.Generator().manual_seed(0)
    targets = RefurbishedTargets(64, num_classes, warmup=2)
    index = torch.arange(size)
    labels = torch.randint(num_classes, (size,), generator=generator)
    labels = drawn(generator, size, num_classes) if soft else labels
    with LargestTensor() as largest:
        for _ in range(3):
            targets(index, labels, drawn(generator, size, num_classes))
    limit = 4 if soft else 2  # four classes of a soft label count
    assert largest.size <= limit * size * num_classes


def test_state_does_not_grow_with_the_classes():
    sizes = [
        sum(each.nbytes for each in RefurbishedTargets(20_000, size).state_dict().values())
        for size in (100, 1000)
    ]
    assert sizes[1] < 1.1 * sizes[0]
    assert sizes[1] / 20_000 < 220  # bytes for each sample


def test_blocks_change_no_ranking(monkeypatch):
    targets, true, labels = simulate(40, symmetric_noise, 0.3)
    ranked, noise = rank_labels(targets, labels), targets.noise_matrix
    monkeypatch.setattr(rows, "BLOCK", 777)
    again = rank_labels(targets, labels)
    torch.testing.assert_close(again.doubt, ranked.doubt)
    assert again.caution == ranked.caution == ""
    wrong = true != labels
    assert float(wrong[ranked.sample[: int(wrong.sum())]].float().mean()) > 0.95
    assert bool((noise > 0).all())
    assert 0.2 < float(estimate_noise(targets, labels, num_resamples=2).rate.value) < 0.4


def test_state_before_format_6_is_read():
    targets, _, labels = simulate(5, symmetric_noise, 0.3)
    old = {
        "average": "averages.values",
        "joint": "counts.joint",
        "memorization.residual": "memorization.residuals.values",
    }
    state = targets.state_dict()
    for name, new in old.items():
        state[name] = state.pop(new)
    other = short_targets(len(labels), 5, held_back=0.2, warmup=4)
    other.load_state_dict(state)
    index = torch.arange(20)
    probs = torch.full((20, 5), 0.2)
    expected = copy.deepcopy(targets)(index, labels[index], probs)
    assert torch.equal(other(index, labels[index], probs), expected)


def test_a_checkpoint_of_whole_rows_is_refused_by_name():
    labels = torch.arange(80) % 40
    balancer = ReliabilityBalancer(4, num_classes=40)
    whole, sparse = (RobustLoss(balancer, labels, epochs=20, kept=kept) for kept in (40, None))
    state = whole.state_dict()
    plan = state["_extra_state"]["plan"]
    del plan["kept"]  # as before format 6
    plan["even_classes"] = plan.pop("logit_adjustment")  # its former name
    with pytest.raises(ValueError, match=r"`kept` must be as in the checkpoint; got .* 15 for 40"):
        sparse.load_state_dict(state)
    whole.load_state_dict(state)


def test_sparse_rows_reject_no_class_twice():
    stored = SparseRows(3, 40, 4, torch.float16)
    probs = torch.full((3, 40), 1 / 40)
    stored.write(torch.arange(3), probs, stored.largest(probs, torch.tensor([7, 0, 39])))
    assert all(len(set(each)) == 4 for each in stored.classes.tolist())
    assert stored.classes[:, 0].tolist() == [7, 0, 39]
