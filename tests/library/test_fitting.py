"""Frozen-feature mode: a balancer trained on stored embeddings."""

import copy

import pytest
import torch
from torch import nn

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, RobustLoss, wrap
from reliability_balance.core import Recipe
from reliability_balance.labels import fit_head

FEATURES = torch.randn(120, 8, generator=torch.Generator().manual_seed(3))
LABELS = (FEATURES[:, 0] > 0).long() + 2 * (FEATURES[:, 1] > 0).long()


def test_it_learns_and_leaves_the_balancer_ready_to_predict():
    balancer = ReliabilityBalancer(8, 4, head="linear")
    history = fit_head(balancer, FEATURES, LABELS, epochs=30, batch_size=32, learning_rate=1e-2)
    assert len(history) == 30
    assert history[6] < 0.9 * history[0], "before mixing makes it harder"
    assert not balancer.training
    accuracy = (balancer(FEATURES).corrected.argmax(-1) == LABELS).float().mean()
    assert float(accuracy) > 0.8


def test_the_seed_repeats_a_run():
    def run():
        torch.manual_seed(5)
        balancer = ReliabilityBalancer(8, 4)
        return fit_head(balancer, FEATURES, LABELS, epochs=2), balancer.state_dict()

    (first, first_state), (second, second_state) = run(), run()
    assert first == second
    assert all(torch.equal(value, second_state[name]) for name, value in first_state.items())


def test_a_last_batch_of_one_joins_its_neighbour():
    """Batch norm cannot train on one sample."""
    balancer = ReliabilityBalancer(8, 4, head="mlp")
    assert len(fit_head(balancer, FEATURES[:33], LABELS[:33], epochs=1, batch_size=32)) == 1


def test_soft_labels_tokens_and_given_logits():
    soft = torch.nn.functional.one_hot(LABELS, 4).float()
    tokens = FEATURES.unsqueeze(1).repeat(1, 3, 1)
    logits = torch.randn(120, 4)
    balancer = ReliabilityBalancer(8, 4, head=None, attention="tokens")
    assert len(fit_head(balancer, tokens, soft, primary_logits=logits, epochs=1)) == 1


def test_ignored_samples_do_not_start_anchors():
    balancer = ReliabilityBalancer(8, 4, num_anchors=1, metric="euclidean", head="linear")
    labels = LABELS.clone()
    labels[LABELS == 3] = -100
    start = balancer.anchors.detach()[3].clone()
    criterion = ReliabilityLoss()
    fit_head(balancer, FEATURES, labels, criterion=criterion, epochs=1, learning_rate=1e-9)
    torch.testing.assert_close(balancer.anchors.detach()[3], start, rtol=0, atol=1e-4)


def test_a_criterion_of_ones_own():
    criterion = ReliabilityLoss(classification_weight=0.0, branch_weight=0.0)
    balancer = ReliabilityBalancer(8, 4, head="linear")
    before = balancer.head.weight.detach().clone()
    fit_head(balancer, FEATURES, LABELS, criterion=criterion, epochs=1, weight_decay=0.0)
    assert torch.equal(balancer.head.weight, before), "nothing asks the head for an answer"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": FEATURES[0]}, ValueError, r"`features` must have shape \(N, D\) or"),
        ({"features": FEATURES[:, :5]}, ValueError, "`features` must have last dimension 8"),
        ({"features": FEATURES.long()}, TypeError, "`features` must have a floating dtype"),
        ({"features": FEATURES / 0}, ValueError, "`features` must be finite; got"),
        ({"labels": LABELS[:7]}, ValueError, r"`labels` of dtype int64 must have shape \(120,\)"),
        ({"labels": LABELS + 1}, ValueError, r"`labels` must lie in \[0, 4\)"),
        ({"epochs": 0}, ValueError, "`epochs` must be at least 1; got 0"),
        ({"batch_size": 1}, ValueError, "`batch_size` must be at least 2; got 1"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be greater than 0"),
        ({"weight_decay": -1.0}, ValueError, "`weight_decay` must be at least 0"),
        ({"primary_logits": FEATURES[:, :4]}, ValueError, "`primary_logits` must .* got logits"),
        ({"criterion": "x"}, TypeError, "`criterion` must be a ReliabilityLoss, a .*; got str"),
        ({"criterion": nn.CrossEntropyLoss()}, TypeError, "got CrossEntropyLoss"),
        (
            {"features": FEATURES[:1], "labels": LABELS[:1]},
            ValueError,
            "`features` must hold at least 2 samples; got 1",
        ),
    ],
)
def test_errors_come_before_anything_is_trained(changes, error, message):
    balancer = ReliabilityBalancer(8, 4)
    before = [parameter.detach().clone() for parameter in balancer.parameters()]
    with pytest.raises(error, match=message):
        fit_head(balancer, **{"features": FEATURES, "labels": LABELS, "epochs": 1, **changes})
    for parameter, old in zip(balancer.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (None, ValueError, "`primary_logits` must be given if the balancer has no head.*got None"),
        (FEATURES[:7, :4], ValueError, r"must have shape \(N, C\) = \(120, 4\); got \(7, 4\)"),
        (FEATURES[:, :4].long(), TypeError, "`primary_logits` must have a floating dtype"),
        (FEATURES[:, :4] / 0, ValueError, "`primary_logits` must not be NaN or plus infinity"),
    ],
)
def test_logits_that_do_not_fit_leave_the_anchors_alone(logits, error, message):
    balancer = ReliabilityBalancer(8, 4, head=None)
    before = balancer.anchors.detach().clone()
    with pytest.raises(error, match=message):
        fit_head(balancer, FEATURES, LABELS, primary_logits=logits, epochs=1)
    assert torch.equal(balancer.anchors, before)


def test_no_gradient_goes_back_to_what_made_the_features():
    weight = torch.eye(8, requires_grad=True)
    bare = ReliabilityBalancer(8, 4, head=None)
    features = FEATURES @ weight
    fit_head(bare, features, LABELS, primary_logits=features[:, :4], epochs=2)
    assert weight.grad is None


def test_a_wrapped_model_is_refused():
    model = wrap(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    with pytest.raises(TypeError, match=r"`model.balancer` of .*; got WrappedClassifier"):
        fit_head(model, FEATURES, LABELS)


def test_nothing_to_train_is_told():
    bare = ReliabilityBalancer(8, 4, num_anchors=0, head=None, attention="off")
    with pytest.raises(ValueError, match="`balancer` must have something to train"):
        fit_head(bare, FEATURES, LABELS, primary_logits=FEATURES[:, :4])


def test_the_criterion_is_the_robust_one_and_follows_the_training():
    features = FEATURES + 3.0 * torch.nn.functional.one_hot(LABELS, 8)
    labels = LABELS.clone()
    labels[:12] = (labels[:12] + 1) % 4
    options = {"epochs": 12, "batch_size": 32, "learning_rate": 1e-2}

    def run(**more):
        torch.manual_seed(0)
        balancer = ReliabilityBalancer(8, 4)
        torch.manual_seed(1)
        return balancer, fit_head(balancer, features, labels, **more, **options)

    balancer, history = run()
    torch.manual_seed(0)
    own = ReliabilityBalancer(8, 4)
    criterion = RobustLoss(own, labels, epochs=12)
    torch.manual_seed(1)
    assert fit_head(own, features, labels, criterion=criterion, **options) == history
    assert torch.equal(own.head.weight, balancer.head.weight)
    assert (criterion.targets.updates == 12).all()
    trust = criterion.targets.trust(torch.arange(120), labels)
    assert trust[:12].mean() < trust[12:].mean() - 0.1
    _, plain = run(criterion=ReliabilityLoss())
    assert plain != history


def test_a_kept_heads_logits_are_trained_robustly():
    bare = ReliabilityBalancer(8, 4, head=None)
    criterion = RobustLoss(bare, LABELS, epochs=2)
    logits = FEATURES[:, :4]
    fit_head(bare, FEATURES, LABELS, primary_logits=logits, criterion=criterion, epochs=2)
    assert (criterion.targets.updates == 2).all()


def test_the_papers_balancer_trains_on_the_labels_as_they_are():
    def run(criterion):
        torch.manual_seed(5)
        balancer = ReliabilityBalancer(8, 4, recipe="paper")
        torch.manual_seed(6)
        return fit_head(balancer, FEATURES, LABELS, criterion=criterion, epochs=2)

    assert run(None) == run(ReliabilityLoss(recipe="paper"))


def test_a_criterion_of_other_labels_is_refused():
    balancer = ReliabilityBalancer(8, 4)
    before = copy.deepcopy(balancer.state_dict())
    for labels, message in (
        (LABELS[:50], "`labels` must be the criterion's 50; got 120"),
        (LABELS.flip(0), "`labels` must be those .* got other labels for"),
    ):
        criterion = RobustLoss(balancer, labels, epochs=3, recipe=Recipe(logit_adjustment=False))
        with pytest.raises(ValueError, match=message):
            fit_head(balancer, FEATURES, LABELS, criterion=criterion)
    ignored = LABELS.clone()
    ignored[0] = -100
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 4\)"):
        fit_head(balancer, FEATURES, ignored)
    assert all(torch.equal(before[name], now) for name, now in balancer.state_dict().items())


def test_a_criterion_of_another_training_is_refused():
    balancer = ReliabilityBalancer(8, 4)
    used = RobustLoss(balancer, LABELS, epochs=2)
    fit_head(balancer, FEATURES, LABELS, criterion=used, epochs=2)
    before = copy.deepcopy(balancer.state_dict())
    for criterion, message in (
        (used, "`criterion` must be new.* run for 2 epochs"),
        (RobustLoss(balancer, LABELS, epochs=3), "made with epochs=2, .* got epochs=3"),
        (
            RobustLoss(ReliabilityBalancer(8, 4), LABELS, epochs=2),
            "`criterion` must be made with the balancer that is trained",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fit_head(balancer, FEATURES, LABELS, criterion=criterion, epochs=2)
    assert all(torch.equal(before[name], now) for name, now in balancer.state_dict().items())


def test_a_criterion_in_eval_mode_trains_and_keeps_its_mode():
    balancer = ReliabilityBalancer(8, 4)
    criterion = RobustLoss(balancer, LABELS, epochs=2).eval()
    fit_head(balancer, FEATURES, LABELS, criterion=criterion, epochs=2)
    assert criterion.progress == 2
    assert not criterion.training


def test_the_class_prior_is_that_of_the_criterion_and_a_refused_call_leaves_it():
    labels = LABELS.clone()
    labels[:60] = 0
    balancer = ReliabilityBalancer(8, 4)
    even = torch.full((4,), 0.25)
    with pytest.raises(ValueError, match="`primary_logits` must"):
        fit_head(balancer, FEATURES, labels, primary_logits=FEATURES[:, :4])
    assert torch.equal(balancer.class_prior, even)
    fit_head(balancer, FEATURES, labels, epochs=1)
    assert float(balancer.class_prior[0]) > 0.5
    fit_head(balancer, FEATURES, labels, criterion=ReliabilityLoss(), epochs=1)
    assert torch.equal(balancer.class_prior, even)
