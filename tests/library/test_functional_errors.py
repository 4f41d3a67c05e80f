"""Bad input to the functions: an error that names the argument, what was expected, what came."""

import pytest
import torch

from reliability_balance import functional as RF

EMBEDDING = torch.zeros(2, 4)
ANCHORS = torch.zeros(3, 2, 4)
LABELS = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RF.confidence([0.5, 0.5]), TypeError, r"`probs` must be a torch.Tensor; got list"),
        (
            lambda: RF.confidence(torch.tensor([1, 0])),
            TypeError,
            r"`probs` must have a floating dtype; got torch.int64",
        ),
        (
            lambda: RF.normalized_entropy(torch.ones(3, 1)),
            ValueError,
            r"`probs` .* C >= 2 classes; got \(3, 1\)",
        ),
        (
            lambda: RF.anchor_distances(EMBEDDING.long(), ANCHORS),
            TypeError,
            r"`embedding` must have a floating dtype; got torch.int64",
        ),
        (
            lambda: RF.anchor_similarities(torch.zeros(3, 2).long()),
            TypeError,
            r"`distances` must have a floating dtype; got torch.int64",
        ),
        (
            lambda: RF.center_loss(torch.full((2, 4), torch.inf), ANCHORS, LABELS),
            ValueError,
            r"`embedding` must be finite; got 8 NaN or infinite values of 8",
        ),
        (
            lambda: RF.nearest_anchor_loss(torch.zeros(2, 3, 2), torch.tensor([0, 3])),
            ValueError,
            r"`labels` must lie in \[0, 3\)",
        ),
        (
            lambda: RF.anchor_distances(EMBEDDING, torch.zeros(3, 4)),
            ValueError,
            r"`anchors` must have shape \(C, K, D\); got \(3, 4\)",
        ),
        (
            lambda: RF.anchor_distances(EMBEDDING, torch.zeros(1, 2, 4)),
            ValueError,
            r"`anchors` .* C >= 2, K >= 1 and D >= 1; got \(1, 2, 4\)",
        ),
        (
            lambda: RF.anchor_distances(torch.zeros(2, 5), ANCHORS),
            ValueError,
            r"`embedding` must have last dimension 4; got \(2, 5\)",
        ),
        (
            lambda: RF.anchor_distances(EMBEDDING, ANCHORS, metric="l1"),
            ValueError,
            r"`metric` must be one of 'euclidean', 'cosine'; got 'l1'",
        ),
        (
            lambda: RF.anchor_distances(torch.full((2, 4), torch.nan), ANCHORS),
            ValueError,
            r"`embedding` must be finite; got 8 NaN or infinite values of 8",
        ),
        (
            lambda: RF.anchor_similarities(torch.zeros(3)),
            ValueError,
            r"`distances` must have shape \(..., C, K\); got \(3,\)",
        ),
        (
            lambda: RF.anchor_similarities(torch.zeros(3, 2), delta=0.0),
            ValueError,
            r"`delta` must be greater than 0; got 0.0",
        ),
        (
            lambda: RF.anchor_log_correction(torch.zeros(3, 2), delta=float("nan")),
            ValueError,
            r"`delta` must be greater than 0; got nan",
        ),
        (
            lambda: RF.anchor_correction(torch.zeros(3)),
            ValueError,
            r"`similarities` must have shape \(..., C, K\); got \(3,\)",
        ),
        (
            lambda: RF.fuse(torch.ones(2, 3).long(), torch.ones(2, 3)),
            TypeError,
            r"`first` must have a floating dtype; got torch.int64",
        ),
        (
            lambda: RF.log_fuse(torch.ones(2, 3), torch.ones(2, 1)),
            ValueError,
            r"`second` must have shape \(..., C\) with C >= 2 classes; got \(2, 1\)",
        ),
        (
            lambda: RF.fuse(torch.ones(2, 3), torch.ones(2, 4)),
            ValueError,
            r"`second` must have the shape of `first`, \(2, 3\); got \(2, 4\)",
        ),
        (
            lambda: RF.fuse(torch.ones(2), torch.ones(2), second_weight=-1),
            ValueError,
            r"`second_weight` must be at least 0; got -1",
        ),
        (
            lambda: RF.anchor_loss(ANCHORS, margin=0.0),
            ValueError,
            r"`margin` must be greater than 0; got 0.0",
        ),
        (
            lambda: RF.anchor_loss(ANCHORS, margin=1.0, reduction="sum"),
            ValueError,
            r"`margin` needs reduction='mean'; got reduction='sum'",
        ),
        (
            lambda: RF.anchor_loss(ANCHORS, reduction="none"),
            ValueError,
            r"`reduction` must be one of 'mean', 'sum'; got 'none'",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, torch.tensor([0, 3])),
            ValueError,
            r"`labels` must lie in \[0, 3\) or equal ignore_index=-100; got values from 0 to 3",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, torch.tensor([0, 1, 2])),
            ValueError,
            r"`labels` of dtype int64 must have shape \(2,\); got \(3,\)",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, LABELS.int()),
            TypeError,
            r"`labels` must be int64 .* class probabilities; got torch.int32: pass labels.long\(\)",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, torch.ones(2, 2)),
            ValueError,
            r"soft `labels` must have shape \(2, 3\); got \(2, 2\)",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, torch.ones(2, 3)),
            ValueError,
            r"soft `labels` must be non-negative and sum to 1; got .* sums from 3 to 3",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, [0, 1]),
            TypeError,
            r"`labels` must be a torch.Tensor; got list: pass torch.as_tensor\(labels\)",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, LABELS, softmin_temperature=0.0),
            ValueError,
            r"`softmin_temperature` must be greater than 0; got 0.0",
        ),
        (
            lambda: RF.center_loss(EMBEDDING, ANCHORS, LABELS, reduction="max"),
            ValueError,
            r"`reduction` must be one of 'mean', 'sum', 'none'; got 'max'",
        ),
    ],
)
def test_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_value_checks_can_be_switched_off():
    """They read tensors back, which waits for an accelerator."""
    nan = torch.full((2, 4), torch.nan)
    distances = RF.anchor_distances(nan, ANCHORS, validate_args=False)
    assert bool(distances.isnan().all())
    over = torch.tensor([[0.2, 0.2, 0.2], [1.0, 0.0, 0.0]])
    RF.center_loss(EMBEDDING, ANCHORS, over, validate_args=False)
    RF.center_loss(nan, ANCHORS, LABELS, validate_args=False)
