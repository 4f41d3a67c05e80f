"""Samples and classes that are added while training: what is learned stays, the new starts anew."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reliability_balance import ReliabilityBalancer, RobustLoss, checkpoint, wrap
from reliability_balance.core import get_recipe
from reliability_balance.data import symmetric_noise
from reliability_balance.labels import RefurbishedTargets, rank_labels
from reliability_balance.labels.noise_matrix import DenseCounts, SparseCounts, first_joint

KINDS = {
    "index": {},
    "sparse": {"kept": 4},
    "soft": {},
    "annotators": {"num_annotators": 2},
}


def labels_of(kind, count, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "soft":
        return torch.rand(count, classes, generator=generator).softmax(-1)
    size = (count, 2) if kind == "annotators" else (count,)
    return torch.randint(classes, size, generator=generator)


def predictions(count, classes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, classes, generator=generator).mul_(2).softmax(-1)


def assert_same_state(first, second, **tolerance):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], msg=name, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [(30, 70), (64, 1, 35)])
def test_samples_added_before_training_are_as_if_known_from_the_start(kind, parts):
    labels = labels_of(kind, 100, 5)
    grown = RefurbishedTargets(parts[0], 5, warmup=2, **KINDS[kind])
    for count in parts[1:]:
        grown.add_samples(count)
    known = RefurbishedTargets(100, 5, warmup=2, **KINDS[kind])
    for targets in (grown, known):
        targets.expect(labels)
        for _ in range(3):
            targets(torch.arange(100), labels, predictions(100, 5))
    assert bool(known.memorization.control[30:].any())
    assert repr(grown) == repr(known)
    assert_same_state(grown, known, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["index", "soft", "annotators"])
def test_in_the_warm_up_a_grown_training_equals_one_that_knew_the_samples(kind):
    """Afterwards J differs: its running mean over an epoch had fewer samples."""
    labels, probs = labels_of(kind, 100, 5), predictions(100, 5)
    made = []
    for first in (60, 100):
        targets = RefurbishedTargets(first, 5, held_back=0.0, **KINDS[kind])
        for step in range(6):
            if step == 3 and first < 100:
                targets.add_samples(40)
            seen = torch.arange(60 if step < 3 else 100)
            made.append(targets(seen, labels[seen], probs[seen].roll(step, 0)))
        made.append(targets.averages.values)
        made.append(targets.given)
    for grown, known in zip(made[: len(made) // 2], made[len(made) // 2 :], strict=True):
        assert torch.equal(grown, known)


def test_what_was_counted_stays_and_weighs_less_beside_more_samples():
    targets = RefurbishedTargets(60, 3, warmup=2, num_annotators=2)
    labels = labels_of("annotators", 60, 3)
    for step in range(4):
        targets(torch.arange(60), labels, predictions(60, 3, seed=step))
    learned = targets.classes.learned_counts()
    counted = 60 * targets.annotators.joint
    gap, sums = targets.memorization.log_likelihood_gap(), 60 * targets.memorization.sums
    before = copy.deepcopy(targets)
    targets.add_samples(20)
    torch.testing.assert_close(targets.classes.learned_counts(), learned)
    torch.testing.assert_close(80 * targets.annotators.joint, counted)
    torch.testing.assert_close(80 * targets.memorization.sums, sums)
    torch.testing.assert_close(targets.memorization.log_likelihood_gap(), gap)
    torch.testing.assert_close(targets.noise_matrix, before.noise_matrix, rtol=0, atol=5e-3)
    old = torch.arange(60)
    torch.testing.assert_close(targets.beliefs(old), before.beliefs(old), rtol=0, atol=0)
    # One more batch of ten: J keeps 1 - B / N of what it was.
    index, probs = old[:10], predictions(10, 3)
    joint = targets.joint.clone()
    targets(index, labels[index], probs)
    kept = (targets.joint - (1 - 10 / 80) * joint) * 80  # the sum of the batch
    assert bool((kept > -1e-5).all())
    assert float(kept.sum()) == pytest.approx(10, abs=1e-3)


def test_added_samples_have_their_own_warm_up_and_held_back_labels():
    labels, probs = labels_of("index", 200, 4), predictions(200, 4)
    targets = RefurbishedTargets(120, 4, warmup=3, held_for=2, held_back=0.3, prior_count=0.0)
    old, new = torch.arange(120), torch.arange(120, 200)
    for step in range(4):
        targets(old, labels[old], probs[old])
        if step == 1:
            targets.judge_memory()
    targets.add_samples(80)
    held = targets.memorization.control[new]
    assert bool(held.any())
    given = F.one_hot(labels[new], 4).float()
    for _ in range(2):
        made = targets(new, labels[new], probs[new])
        torch.testing.assert_close(made[held], probs[new][held])
        assert torch.equal(made[~held], given[~held])
        others = targets(old, labels[old], probs[old])
        assert not torch.equal(others, F.one_hot(labels[old], 4).float())
    assert bool((targets.out_of_sample.classes[new][held] >= 0).all())
    for _ in range(targets.effective_warmup - 2):
        assert torch.equal(targets(new, labels[new], probs[new]), given)
    assert not torch.equal(targets(new, labels[new], probs[new]), given)


def test_samples_added_before_the_release_are_held_back_as_long_as_the_others():
    labels, held_for, sizes = torch.arange(1200) % 3, 10, (600, 1200)
    model, points = ReliabilityBalancer(8, 3), torch.randn(1200, 8)
    made = [RobustLoss(model, labels[:600], epochs=20)]
    for _ in range(held_for - 1):
        for index in torch.arange(600).split(300):
            made[0](model(points[index]), labels[index], index)
    made[0].add_samples(labels[600:])
    made.append(RobustLoss(model, labels, epochs=20))
    made[1].load_state_dict(copy.deepcopy(made[0].state_dict()))
    for criterion in made:
        targets, everything = criterion.targets, torch.arange(sizes[1])
        for epoch in range(1, held_for + 2):
            criterion(model(points), labels, everything)
            _, held = targets._memorization_groups(everything, targets.updates.unsqueeze(-1))
            held = held.squeeze(-1)
            assert int(targets.remembers) >= 0
            assert not bool(held[:600].any())
            control = targets.memorization.control[600:]
            assert torch.equal(held[600:], control & (epoch <= held_for))


POINTS = 3 * torch.randn(4, 16, generator=torch.Generator().manual_seed(5))


def blobs(count, classes=4, rate=0.3):
    generator = torch.Generator().manual_seed(3)
    truth = torch.arange(count) % classes
    inputs = POINTS[truth] + torch.randn(count, 16, generator=generator)
    return inputs, truth, symmetric_noise(truth, rate, num_classes=classes, seed=1)


def train(model, criterion, optimizer, inputs, labels, epochs, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.randperm(len(labels), generator=generator).split(100):
            torch.manual_seed(int(index[0]))  # of mixing
            loss = criterion(model(inputs[index]), labels[index], index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float(loss.detach())


SHORT = replace(get_recipe("robust"), warmup=4)


def network(classes=4):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, classes))
    return wrap(body, recipe=SHORT)


def adam(model):
    return torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)


def test_a_training_with_added_samples_finds_their_wrong_labels_and_resumes_exactly():
    inputs, truth, labels = blobs(400)
    model = network()
    criterion, optimizer = RobustLoss(model, labels[:300], epochs=8), adam(model)
    train(model, criterion, optimizer, inputs[:300], labels[:300], epochs=5, seed=0)
    assert criterion.progress == 5
    criterion.add_samples(labels[300:])
    assert criterion.progress == 5
    assert criterion.refurbishes
    counts = labels.bincount(minlength=4) + 1.0
    torch.testing.assert_close(criterion.class_prior, counts / counts.sum())
    assert torch.equal(model.balancer.class_prior, criterion.class_prior)
    train(model, criterion, optimizer, inputs, labels, epochs=2, seed=1)  # still held back

    other = network()
    resumed, others = RobustLoss(other, labels, epochs=8), adam(other)
    for each, origin in ((other, model), (resumed, criterion), (others, optimizer)):
        each.load_state_dict(copy.deepcopy(origin.state_dict()))
    losses = [
        train(*each, inputs, labels, epochs=5, seed=2)
        for each in ((model, criterion, optimizer), (other, resumed, others))
    ]
    assert losses[0] == losses[1]
    assert_same_state(criterion.targets, resumed.targets, rtol=0, atol=0)

    ranking = criterion.doubtful_labels()
    is_new = ranking.sample >= 300
    assert int(is_new.sum()) == 100
    wrong = labels != truth
    found = ranking.sample[is_new][: int(wrong[300:].sum())]
    assert float(wrong[found].float().mean()) > 0.9
    with pytest.raises(ValueError, match="got 300 for 400: repeat `add_samples` and `add_classes`"):
        RobustLoss(network(), labels[:300], epochs=8).load_state_dict(criterion.state_dict())
    earlier = copy.deepcopy(criterion.state_dict())
    del earlier["_extra_state"]["cohorts"]
    earlier["_extra_state"]["first"] = 300  # what it held instead
    resumed = RobustLoss(network(), labels, epochs=8)
    resumed.load_state_dict(earlier)
    assert [len(each) for each in resumed.targets.cohorts] == [300, 100]


@pytest.mark.parametrize("taken", [0, 199, 499, 500, 501, 1999, 2000, 2600])
@pytest.mark.parametrize("added", [1, 33, 5000])
def test_memorization_is_judged_once_however_samples_are_added(taken, added):
    labels = torch.arange(100) % 2
    criterion = RobustLoss(ReliabilityBalancer(4, 2), labels, epochs=10)
    judged = []
    criterion.targets.judge_memory = lambda: judged.append(criterion.progress)
    criterion._advance(taken)
    criterion.add_samples(torch.arange(added) % 2)
    assert criterion.progress == pytest.approx(taken / 100, abs=0.01)
    for _ in range(30):
        criterion._advance(100 + added)
    assert len(judged) == 1


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0, 4]), ValueError, r"lie in \[0, 4\); got .* 4: call `add_classes` first"),
        (torch.tensor([], dtype=torch.int64), ValueError, r"must have shape \(M\), M >= 1"),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError, r"must have shape \(M\)"),
        (torch.tensor([0.5, 0.5]), TypeError, "`labels` must be of torch.int64"),
        ([0, 1], TypeError, "got list"),
    ],
)
def test_wrong_labels_are_refused_and_change_nothing(labels, error, message):
    criterion = RobustLoss(network(), blobs(40)[2], epochs=8)
    with pytest.raises(error, match=message):
        criterion.add_samples(labels)
    assert criterion.targets.num_samples == len(criterion.targets.updates) == 40


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("attention", ["off", "tokens"])
@pytest.mark.parametrize("anchors", [0, 3])
def test_added_classes_leave_the_logits_of_the_others(head, attention, anchors):
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(
        8, 3, head=head, attention=attention, num_anchors=anchors, metric="euclidean"
    ).eval()
    points = torch.randn(20, 8)
    before = balancer(points)
    kept = {name: value.clone() for name, value in balancer.named_parameters()}
    after = balancer.add_classes(2)(points)
    assert torch.equal(after.logits[:, :3], before.logits) or torch.allclose(
        after.logits[:, :3], before.logits, atol=1e-6
    )
    for name in ("primary_log_probs", "anchor_log_probs", "attentive_log_probs"):
        old, new = getattr(before, name), getattr(after, name)
        assert (old is None) == (new is None)
        if old is not None:
            ratios = [each - each[:, :1] for each in (old, new[:, :3])]
            torch.testing.assert_close(*ratios, rtol=1e-4, atol=1e-4)
    for name, value in balancer.named_parameters():
        assert torch.equal(value[: len(kept[name])], kept[name]), name
    fresh = ReliabilityBalancer(
        8, 5, head=head, attention=attention, num_anchors=anchors, metric="euclidean"
    )
    assert repr(balancer) == repr(fresh)
    sizes = [{k: v.shape for k, v in each.state_dict().items()} for each in (balancer, fresh)]
    assert sizes[0] == sizes[1]
    torch.testing.assert_close(balancer.class_prior, fresh.class_prior)


def test_new_weights_are_drawn_as_at_construction():
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(64, 2).add_classes(400)
    fresh = ReliabilityBalancer(64, 402)
    for name, value in fresh.named_parameters():
        grown = balancer.get_parameter(name)[2:]
        assert float(grown.std()) == pytest.approx(float(value.std()), rel=0.1)


def test_a_linear_head_of_the_users_grows_without_a_bias():
    balancer = ReliabilityBalancer(8, 3, head=nn.Linear(8, 3, bias=False))
    assert balancer.add_classes(1)(torch.randn(2, 8)).logits.shape == (2, 4)


@pytest.mark.parametrize("head", [None, nn.Sequential(nn.Linear(8, 3))])
def test_a_head_that_is_not_the_balancers_is_refused(head):
    balancer = ReliabilityBalancer(8, 3, head=head)
    with pytest.raises(ValueError, match="`add_classes` needs a balancer whose head is"):
        balancer.add_classes(1)
    assert balancer.num_classes == 3
    model = wrap(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), keep_head=True)
    criterion = RobustLoss(model, torch.arange(9) % 3, epochs=2)
    with pytest.raises(ValueError, match="no head of its own"):
        criterion.add_classes(1)
    assert criterion.targets.num_classes == 3


@pytest.mark.parametrize("count", [0, -1, 1.0, True])
def test_wrong_counts_are_refused(count):
    targets = RefurbishedTargets(5, 2)
    for call in (targets.add_samples, targets.add_classes, ReliabilityBalancer(4, 2).add_classes):
        with pytest.raises((TypeError, ValueError), match="`count` must be"):
            call(count)


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, momentum=0.9)])
def test_the_optimizer_goes_on_with_the_old_rows(make):
    """With the same gradients, the old rows move as without new ones."""
    torch.manual_seed(0)
    grown = ReliabilityBalancer(8, 3)
    optimizer = make(grown.parameters())

    def step(balancer, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for value in balancer.parameters():
            value.grad = torch.zeros_like(value)
            value.grad[:3] = torch.randn(3, *value.shape[1:], generator=generator)
        optimizer.step()

    for seed in range(3):
        step(grown, optimizer, seed)
    plain = copy.deepcopy(grown)
    other = make(plain.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    grown.add_classes(2, optimizer)
    for seed in range(3, 6):
        step(grown, optimizer, seed)
        step(plain, other, seed)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(grown.get_parameter(name)[:3], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_may_be_added_while_the_last_loss_is_alive(dtype):
    torch.manual_seed(0)
    model = ReliabilityBalancer(8, 3, head="mlp", attention="tokens").to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    points, labels = torch.randn(30, 8, dtype=dtype), torch.arange(30) % 3
    criterion, index = RobustLoss(model, labels, epochs=30), torch.arange(30)
    alive = []
    for step in range(3):
        loss = criterion(model(points), labels, index)
        alive.append(loss)
        optimizer.zero_grad()
        loss.backward()
        before = {name: value.clone() for name, value in model.named_parameters()}
        optimizer.step()
        assert all(not torch.equal(v, before[k]) for k, v in model.named_parameters())
        if step < 2:
            criterion.add_classes(1, optimizer)
    assert {value.dtype for value in model.parameters()} == {dtype}


def stepped(make, parameters):
    """Return an optimizer that has made a step."""
    parameters = list(parameters)
    optimizer = make(parameters)

    def closure():
        optimizer.zero_grad()
        loss = sum(each.square().sum() for each in parameters)
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer


@pytest.mark.parametrize(
    ("optimizer_of", "error", "message"),
    [
        (lambda m: "adam", TypeError, "`optimizer` must be a torch.optim.Optimizer; got str"),
        (
            lambda m: torch.optim.AdamW(nn.Linear(2, 2).parameters()),
            ValueError,
            "`optimizer` must hold the balancer's weights; got AdamW without 3 of the 3",
        ),
        (
            lambda m: torch.optim.AdamW(m.head.parameters()),
            ValueError,
            "without 1 of the 3 that grow",
        ),
        (
            lambda m: stepped(torch.optim.Adafactor, m.parameters()),
            ValueError,
            "must keep its state in the shape of each weight, .* got Adafactor, whose 'row_var'",
        ),
        (
            lambda m: stepped(torch.optim.LBFGS, m.parameters()),
            ValueError,
            "must keep its state in the shape of each weight, .* got LBFGS",
        ),
    ],
)
def test_an_optimizer_that_cannot_grow_is_refused_and_nothing_changes(optimizer_of, error, message):
    model = ReliabilityBalancer(8, 3)
    criterion = RobustLoss(model, torch.arange(9) % 3, epochs=2)
    optimizer, before = optimizer_of(model), copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        criterion.add_classes(1, optimizer)
    assert model.num_classes == criterion.targets.num_classes == len(criterion.class_prior) == 3
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_optimizer_need_not_hold_frozen_weights():
    model = ReliabilityBalancer(8, 3)
    model.anchors.requires_grad_(False)
    model.add_classes(1, stepped(torch.optim.Rprop, model.head.parameters()))
    assert model.anchors.shape[0] == 4
    assert not model.anchors.requires_grad


def test_labels_that_would_be_read_as_one_hot_are_refused_and_nothing_changes():
    labels = labels_of("annotators", 60, 2).repeat(1, 2)[:, :3]
    model, points = ReliabilityBalancer(8, 2), torch.randn(60, 8)
    criterion = RobustLoss(model, labels, epochs=6)
    with pytest.raises(ValueError, match="as in one-hot"):
        criterion.add_classes(1)
    assert model.num_classes == criterion.targets.num_classes == len(criterion.class_prior) == 2
    criterion(model(points), labels, torch.arange(60)).backward()
    criterion.add_classes(2)
    criterion(model(points), labels, torch.arange(60)).backward()


@pytest.mark.parametrize("kind", KINDS)
def test_targets_with_added_classes_keep_what_they_know_of_the_others(kind):
    size = 40 if kind == "sparse" else 6
    labels = labels_of(kind, 200, size)
    targets = RefurbishedTargets(200, size, warmup=2, **KINDS[kind])
    everything = torch.arange(200)
    for step in range(4):
        targets(everything, labels, predictions(200, size, seed=step // 2))
    beliefs, matrix = targets.beliefs(everything), targets.noise_matrix
    targets.add_classes(2)
    after = targets.beliefs(everything)
    assert after.shape == (200, size + 2)
    shares = after[:, :size] / after[:, :size].sum(-1, keepdim=True)
    # A new class takes its share of the rest of a sparse row, and of a column of J.
    torch.testing.assert_close(shares, beliefs, rtol=0, atol=0.02 if kind == "sparse" else 1e-6)
    assert float(after[:, size:].max()) < 1 / size
    rows = targets.noise_matrix[:size, :size]
    rows = rows / rows.sum(-1, keepdim=True)
    torch.testing.assert_close(rows, matrix, rtol=0, atol=0.02 if kind == "sparse" else 5e-3)
    assert float(targets.joint.sum()) == pytest.approx(1.0, abs=1e-3)
    if kind == "soft":
        labels = F.pad(labels, (0, 2))
    elif kind == "annotators":
        torch.testing.assert_close(
            targets.annotator_matrices.sum(-1), torch.ones(2, size + 2), rtol=0, atol=1e-5
        )
    targets.check_given(everything, labels)  # codes of labels do not depend on C
    targets(everything, labels, predictions(200, size + 2))
    assert rank_labels(targets, labels).sample.shape == (200,)


@pytest.mark.parametrize("make", [DenseCounts, lambda *sizes: SparseCounts(*sizes, 3)])
def test_rows_and_columns_of_added_classes_are_those_of_the_initial_matrix(make):
    counts, even = make(50, 4), torch.full((6,), 1 / 6)
    counts.add_classes(2)
    expected = first_joint(torch.zeros(6))
    joint = counts.whole(even)
    torch.testing.assert_close(joint[:, 4:], expected[:, 4:])
    torch.testing.assert_close(joint[4:], expected[4:], rtol=0, atol=0.01)
    assert float(joint.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(("kept", "size"), [(10, 15), (10, 18), (10, 30), (4, 15), (20, 15)])
def test_a_criterion_with_added_classes_resumes(kept, size):
    """Of each label as many entries of J are stored as in one that knew the classes."""
    torch.manual_seed(0)
    labels, points = torch.arange(150) % size, torch.randn(150, 8)
    grown = ReliabilityBalancer(8, size)
    criterion = RobustLoss(grown, labels, epochs=30, kept=kept)
    everything = torch.arange(150)
    criterion(grown(points), labels, everything)
    criterion.add_classes(5)
    joint = criterion.targets.joint
    assert float(joint.sum()) == pytest.approx(1.0, abs=1e-3)
    model = ReliabilityBalancer(8, size + 5)
    resumed = RobustLoss(model, labels, epochs=30, kept=kept)
    if kept >= size:  # all classes were stored, and still are
        assert criterion.targets.kept == size + 5
        resumed = RobustLoss(model, labels, epochs=30, kept=size + 5)
    resumed.load_state_dict(copy.deepcopy(criterion.state_dict()))
    model.load_state_dict(grown.state_dict())
    assert torch.equal(resumed.targets.joint, joint)
    losses = [
        each(balancer(points), labels, everything)
        for each, balancer in ((criterion, grown), (resumed, model))
    ]
    assert torch.equal(*losses)
    assert_same_state(criterion.targets, resumed.targets, rtol=0, atol=0)


def test_a_class_is_learned_after_it_was_added_and_the_model_can_be_saved(tmp_path):
    inputs, truth, labels = blobs(500, rate=0.2)
    known = ((truth < 3) & (labels < 3)).nonzero().squeeze(1)
    later = ((truth == 3) | (labels == 3)).nonzero().squeeze(1)
    order = torch.cat([known, later])
    inputs, truth, labels = inputs[order], truth[order], labels[order]
    model = network(3)
    criterion, optimizer = RobustLoss(model, labels[: len(known)], epochs=8), adam(model)
    train(model, criterion, optimizer, inputs, labels[: len(known)], epochs=5, seed=0)
    criterion.add_classes(1, optimizer)
    criterion.add_samples(labels[len(known) :])
    train(model, criterion, optimizer, inputs, labels, epochs=8, seed=1)
    model.eval()
    predicted = model(inputs).corrected.argmax(-1)
    for each in range(4):
        assert float((predicted == truth)[truth == each].float().mean()) > 0.9
    ranking = criterion.doubtful_labels()
    wrong = labels != truth
    assert float(wrong[ranking.sample[:40]].float().mean()) > 0.9
    checkpoint.save(tmp_path / "model.safetensors", model)
    loaded = checkpoint.load(tmp_path / "model.safetensors", network(3).unwrap()).model
    assert torch.equal(loaded(inputs).log_probs, model(inputs).log_probs)


def test_a_training_with_added_classes_resumes_exactly_if_the_calls_are_repeated():
    inputs, _, labels = blobs(200)
    few, more = labels.clamp_max(2), torch.tensor([3, 3, 0, 3])
    model = network(3)
    criterion, optimizer = RobustLoss(model, few, epochs=8), adam(model)
    train(model, criterion, optimizer, inputs, few, epochs=3, seed=0)
    criterion.add_classes(1, optimizer)
    criterion.add_samples(more)
    inputs, few = torch.cat([inputs, inputs[:4]]), torch.cat([few, more])
    train(model, criterion, optimizer, inputs, few, epochs=2, seed=1)

    other = network(3)
    resumed = RobustLoss(other, few[:200], epochs=8)
    resumed.add_classes(1)
    resumed.add_samples(more)
    others = adam(other)
    for each, origin in ((other, model), (resumed, criterion), (others, optimizer)):
        each.load_state_dict(copy.deepcopy(origin.state_dict()))
    losses = [
        train(*each, inputs, few, epochs=5, seed=2)
        for each in ((model, criterion, optimizer), (other, resumed, others))
    ]
    assert losses[0] == losses[1]
