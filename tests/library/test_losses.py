"""The losses: labels of all kinds, weights, what is ignored, errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reliability_balance import AnchorLoss, CenterLoss, ReliabilityBalancer, ReliabilityLoss
from reliability_balance import functional as RF

LABELS = torch.tensor([0, 1, 2, 1, 0, 2])


@pytest.fixture
def output():
    balancer = ReliabilityBalancer(8, 3, num_anchors=2, attention="single").eval()
    return balancer(torch.randn(6, 8))


def classification_only(**options):
    weights = {"anchor_weight": 0.0, "center_weight": 0.0, "branch_weight": 0.0}
    return ReliabilityLoss(**{**weights, **options})


def test_the_total_is_the_weighted_sum_of_the_terms(output):
    criterion = ReliabilityLoss(
        classification_weight=2.0, anchor_weight=0.3, center_weight=0.5, branch_weight=0.7
    )
    terms = criterion(output, LABELS)
    total = (
        2.0 * terms.classification + 0.3 * terms.anchor + 0.5 * terms.center + 0.7 * terms.branches
    )
    torch.testing.assert_close(terms.total, total)


def test_branches_are_supervised_each(output):
    terms = ReliabilityLoss(branch_weight=1.0)(output, LABELS)
    expected = sum(
        F.nll_loss(scores.log_softmax(-1), LABELS)
        for scores in (output.logits, output.anchor_log_probs, output.attentive_log_probs)
    )
    torch.testing.assert_close(terms.branches, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.11])
@pytest.mark.parametrize("weighted", [False, True])
def test_classification_equals_torchs_cross_entropy(output, smoothing, weighted):
    weights = torch.tensor([1.0, 2.0, 0.5]) if weighted else None
    labels = LABELS.clone()
    labels[3] = -7
    criterion = classification_only(
        label_smoothing=smoothing, class_weights=weights, ignore_index=-7
    )
    expected = F.cross_entropy(
        output.log_probs, labels, weight=weights, ignore_index=-7, label_smoothing=smoothing
    )
    torch.testing.assert_close(criterion(output, labels).total, expected)


def test_soft_one_hot_labels_equal_index_labels(output):
    soft = F.one_hot(LABELS, 3).float()
    hard_terms, soft_terms = (ReliabilityLoss()(output, labels) for labels in (LABELS, soft))
    torch.testing.assert_close(soft_terms, hard_terms)


def test_soft_labels_weigh_the_classes(output):
    soft = torch.rand(6, 3).softmax(-1)
    expected = -(soft * output.log_probs).sum(-1).mean()
    torch.testing.assert_close(classification_only()(output, soft).total, expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5])])
def test_a_batch_that_is_ignored_or_empty_gives_zero(weights):
    balancer = ReliabilityBalancer(8, 3).eval()
    criterion = ReliabilityLoss(anchor_weight=0.0, class_weights=weights)
    for embedding, labels in (
        (torch.randn(2, 8), torch.full((2,), -100)),
        (torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64)),
    ):
        loss = criterion(balancer(embedding), labels).total
        loss.backward()
        assert float(loss.detach()) == 0.0
    assert all(
        bool(torch.isfinite(p.grad).all()) for p in balancer.parameters() if p.grad is not None
    )


def test_absent_branches_cost_nothing():
    balancer = ReliabilityBalancer(8, 3, num_anchors=0, attention="off").eval()
    terms = ReliabilityLoss()(balancer(torch.randn(6, 8)), LABELS)
    assert float(terms.anchor) == float(terms.center) == 0.0


def test_the_mean_over_samples_does_not_depend_on_the_batch_size():
    balancer = ReliabilityBalancer(8, 3).eval()
    embedding, labels = torch.randn(6, 8), LABELS
    once = ReliabilityLoss()(balancer(embedding), labels)
    twice = ReliabilityLoss()(balancer(embedding.repeat(2, 1)), labels.repeat(2))
    torch.testing.assert_close(twice, once)


def test_class_weights_are_saved_and_moved_with_the_loss():
    criterion = ReliabilityLoss(class_weights=torch.ones(3))
    assert "class_weights" in criterion.state_dict()
    assert criterion.double().class_weights.dtype == torch.float64


def test_recipes():
    paper, robust = ReliabilityLoss(recipe="paper"), ReliabilityLoss()
    assert (paper.branch_weight, paper.label_smoothing) == (0.0, 0.11)
    assert robust.branch_weight == 1.0
    assert "branch_weight=1.0" in repr(robust)


def test_a_step_downhill_lowers_the_loss():
    balancer, criterion = ReliabilityBalancer(8, 3, head="linear"), ReliabilityLoss()
    embedding = torch.randn(6, 8)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=1e-2)
    before = criterion(balancer(embedding), LABELS).total
    before.backward()
    optimizer.step()
    assert float(criterion(balancer(embedding), LABELS).total.detach()) < float(before.detach())


def test_center_and_anchor_loss_as_modules():
    anchors = nn.Parameter(torch.randn(3, 2, 8))
    embedding = torch.randn(6, 8)
    loss = CenterLoss(softmin_temperature=1.0)(embedding, anchors, LABELS)
    loss = loss + AnchorLoss(margin=2.0, same_class=False)(anchors)
    loss.backward()
    assert bool((anchors.grad.abs().sum(-1) > 0).all()), "a soft minimum moves every anchor"


@pytest.mark.parametrize(
    "options",
    [
        {"margin": 3.0},
        {"margin": 3.0, "same_class": False},
        {"same_class": False, "reduction": "sum"},
    ],
)
def test_the_anchor_loss_passes_its_options_on(options):
    anchors = torch.randn(3, 2, 8)
    torch.testing.assert_close(AnchorLoss(**options)(anchors), RF.anchor_loss(anchors, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "cosine", "reduction": "sum"},
        {"softmin_temperature": 0.5, "reduction": "none"},
        {"ignore_index": 1},
    ],
)
def test_the_center_loss_passes_its_options_on(options):
    embedding, anchors = torch.randn(6, 8), torch.randn(3, 2, 8)
    torch.testing.assert_close(
        CenterLoss(**options)(embedding, anchors, LABELS),
        RF.center_loss(embedding, anchors, LABELS, **options),
    )


def test_the_center_loss_can_leave_out_its_checks():
    nan, anchors = torch.full((6, 8), torch.nan), torch.randn(3, 2, 8)
    with pytest.raises(ValueError, match="`embedding` must be finite"):
        CenterLoss()(nan, anchors, LABELS)
    assert bool(CenterLoss(validate_args=False)(nan, anchors, LABELS).isnan())


def test_the_reliability_loss_can_leave_out_its_checks(output):
    over = torch.ones(6, 3)
    terms = ReliabilityLoss(validate_args=False)(output, over)
    assert bool(torch.isfinite(terms.total))


def test_the_soft_minimum_reaches_the_reliability_loss(output):
    terms = ReliabilityLoss(softmin_temperature=0.5)(output, LABELS)
    expected = RF.nearest_anchor_loss(output.distances, LABELS, softmin_temperature=0.5)
    torch.testing.assert_close(terms.center, expected)


def test_what_is_ignored_is_ignored_in_the_center_loss_too(output):
    labels = torch.tensor([0, -7, 2, -7, 0, 2])
    terms = ReliabilityLoss(ignore_index=-7)(output, labels)
    expected = RF.nearest_anchor_loss(output.distances[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(terms.center, expected)


def test_an_output_without_distances_has_no_center_loss(output):
    terms = ReliabilityLoss()(output._replace(distances=None), LABELS)
    assert float(terms.center.detach()) == 0.0


def test_labels_and_weights_are_taken_in_the_scores_dtype(output):
    soft, weights = F.one_hot(LABELS, 3).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    terms = classification_only(class_weights=weights)(output, LABELS)
    expected = F.cross_entropy(output.log_probs, LABELS, weight=weights.float())
    torch.testing.assert_close(terms.total, expected)
    assert classification_only()(output, soft).total.dtype == torch.float32


def test_a_class_that_is_ruled_out_counts_for_nothing_in_soft_labels():
    balancer, embedding = ReliabilityBalancer(8, 3, head=None), torch.randn(2, 8)
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [0.0, 1.0, -torch.inf]], requires_grad=True)
    labels = torch.tensor([0, 1])
    output = balancer(embedding, logits)
    hard = ReliabilityLoss()(output, labels)
    soft = ReliabilityLoss()(output, F.one_hot(labels, 3).float())
    for one, other in zip(hard, soft, strict=True):
        torch.testing.assert_close(one, other)
    soft.total.backward()
    assert bool(logits.grad.isfinite().all())


def test_an_ignored_batch_gives_zero_in_float64():
    balancer = ReliabilityBalancer(8, 3).double().eval()
    output = balancer(torch.randn(2, 8).double())
    terms = ReliabilityLoss(anchor_weight=0.0)(output, torch.full((2,), -100))
    assert float(terms.total.detach()) == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReliabilityLoss(anchor_weight=-1.0), "`anchor_weight` must be at least 0"),
        (lambda: ReliabilityLoss(label_smoothing=1.0), r"`label_smoothing` must lie in \[0, 1\)"),
        (lambda: ReliabilityLoss(recipe="best"), "`recipe` must be one of"),
        (lambda: ReliabilityLoss(softmin_temperature=0.0), "`softmin_temperature` must be great"),
        (lambda: ReliabilityLoss(anchor_margin=0.0), "`margin` must be greater than 0"),
        (
            lambda: ReliabilityLoss(class_weights=torch.ones(1, 3)),
            r"`class_weights` must have shape \(C,\); got",
        ),
        (
            lambda: ReliabilityLoss(class_weights=torch.tensor([1.0, -0.5])),
            "`class_weights` must be at least 0; got -0.5",
        ),
        (lambda: AnchorLoss(reduction="none"), "`reduction` must be one of"),
        (lambda: CenterLoss(reduction="max"), "`reduction` must be one of"),
        (lambda: CenterLoss(metric="l1"), "`metric` must be one of"),
        (lambda: CenterLoss(softmin_temperature=-1.0), "`softmin_temperature` must be greater"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 0, 0]), ValueError, r"`labels` must lie in \[0, 3\)"),
        (LABELS[:4], ValueError, r"must have shape \(6,\); got \(4,\)"),
        (LABELS.float(), ValueError, r"soft `labels` must have shape \(6, 3\); got \(6,\)"),
        (torch.ones(6, 3), ValueError, "soft `labels` must be non-negative and sum to 1"),
        (LABELS.bool(), TypeError, "`labels` must be int64"),
    ],
)
def test_bad_labels(output, labels, error, message):
    with pytest.raises(error, match=message):
        ReliabilityLoss()(output, labels)


def test_other_bad_input(output):
    with pytest.raises(TypeError, match="`class_weights` must have a floating dtype"):
        ReliabilityLoss(class_weights=torch.ones(3).long())
    with pytest.raises(TypeError, match=r"`output` must be a BalancerOutput, .*; got Tensor"):
        ReliabilityLoss()(output.corrected, LABELS)
    criterion = ReliabilityLoss(class_weights=torch.ones(4))
    with pytest.raises(ValueError, match=r"`class_weights` must have shape \(3,\); got \(4,\)"):
        criterion(output, LABELS)
