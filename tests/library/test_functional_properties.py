"""What must hold of confidence, correction and losses for any input."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import equations as paper
from strategies import (
    SUM_TOLERANCE,
    distribution_pairs,
    distributions,
    dtypes,
    logits,
    num_classes,
    points_and_anchors,
)

from reliability_balance import functional as RF


def assert_distributions(probs, tolerance=1e-12):
    assert bool((probs >= 0).all())
    assert bool(((probs.sum(-1) - 1).abs() <= tolerance).all())


@given(distributions(), dtypes)
def test_confidence_lies_in_0_1(probs, dtype):
    values = RF.confidence(probs.to(dtype))
    assert bool(((values >= 0) & (values <= 1)).all())


@given(num_classes, dtypes)
def test_confidence_is_0_at_uniform_and_1_at_one_hot(classes, dtype):
    # 1/C is not exact in half precision; the entropy of what is stored is still all but 1.
    uniform = torch.full((classes,), 1 / classes, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    tolerance = 2e-2 if dtype in (torch.float16, torch.bfloat16) else tolerance
    assert float(RF.confidence(uniform)) <= tolerance
    for one_hot in torch.eye(classes, dtype=dtype):
        assert float(RF.confidence(one_hot)) == 1.0


@given(distributions(), st.randoms())
def test_confidence_does_not_depend_on_the_order_of_classes(probs, random):
    order = list(range(probs.shape[-1]))
    random.shuffle(order)
    torch.testing.assert_close(RF.confidence(probs[:, order]), RF.confidence(probs))


@given(distributions(), st.floats(0, 1))
def test_confidence_falls_when_mixed_with_uniform(probs, share):
    mixed = (1 - share) * probs + share / probs.shape[-1]
    assert bool((RF.confidence(mixed) <= RF.confidence(probs) + 1e-12).all())


@given(distribution_pairs())
def test_fusion_is_symmetric(pair):
    first, second = pair
    torch.testing.assert_close(RF.fuse(first, second), RF.fuse(second, first))
    forward, backward = RF.fusion_weight(first, second), RF.fusion_weight(second, first)
    torch.testing.assert_close(forward + backward, torch.ones_like(forward))


@given(distribution_pairs(), st.floats(0, 10))
def test_fusion_lies_between_its_arguments_and_is_a_distribution(pair, second_weight):
    first, second = pair
    fused = RF.fuse(first, second, second_weight=second_weight)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    assert bool(((fused >= low - 1e-12) & (fused <= high + 1e-12)).all())
    assert_distributions(fused)


@given(num_classes, dtypes)
def test_fusion_gives_equal_weights_where_both_are_uniform(classes, dtype):
    uniform = torch.full((classes,), 1 / classes, dtype=dtype)
    assert float(RF.fusion_weight(uniform, uniform)) == 0.5


@given(distribution_pairs(), st.floats(0, 10))
def test_log_fusion_is_the_logarithm_of_fusion(pair, second_weight):
    first, second = pair
    # Where both are all but uniform, rounding chooses the weights.
    confidences = RF.confidence(first) + second_weight * RF.confidence(second)
    assume(float(confidences.min()) > 1e-6)
    log_fused = RF.log_fuse(
        first.clamp_min(1e-300).log(), second.clamp_min(1e-300).log(), second_weight=second_weight
    )
    fused = RF.fuse(first, second, second_weight=second_weight)
    torch.testing.assert_close(log_fused.exp(), fused)


@given(points_and_anchors(), st.sampled_from(RF.METRICS), st.sampled_from([0.05, 1.0, 20.0]))
def test_the_anchor_branch_is_a_distribution(points, metric, delta):
    embedding, anchors = points
    distances = RF.anchor_distances(embedding, anchors, metric=metric)
    assert bool((distances >= 0).all())
    similarities = RF.anchor_similarities(distances, delta)
    assert_distributions(similarities.flatten(-2))
    assert_distributions(RF.anchor_correction(similarities))
    torch.testing.assert_close(
        RF.anchor_log_correction(distances, delta).exp(), RF.anchor_correction(similarities)
    )


@given(points_and_anchors())
def test_distances_equal_the_naive_loop(points):
    embedding, anchors = points
    scale = float(anchors.abs().max())
    distances = RF.anchor_distances(embedding, anchors)
    for row, found in zip(embedding, distances, strict=True):
        expected = torch.from_numpy(paper.anchor_distances(row.numpy(), anchors.numpy()))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * scale)


@given(points_and_anchors())
def test_moving_and_rotating_everything_changes_no_distance(points):
    embedding, anchors = points
    width = embedding.shape[-1]
    rotation = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q
    shift = torch.randn(width, dtype=torch.float64) * anchors.abs().max()
    before = RF.anchor_distances(embedding, anchors)
    after = RF.anchor_distances(embedding @ rotation + shift, anchors @ rotation + shift)
    scale = float(anchors.abs().max())
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6 * scale)


@given(points_and_anchors(), st.floats(1e-2, 1e2))
def test_cosine_distances_do_not_depend_on_length(points, factor):
    embedding, anchors = points
    before = RF.anchor_distances(embedding, anchors, metric="cosine")
    after = RF.anchor_distances(embedding * factor, anchors * factor, metric="cosine")
    # Below the smallest length that counts as one, a vector keeps its length.
    long_enough = min(float(v.norm(dim=-1).min()) for v in (embedding, anchors)) > 1e-3
    if long_enough:
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert bool((before <= 2 + 1e-9).all())


@given(points_and_anchors())
def test_the_closed_form_of_the_anchor_loss_is_the_double_sum(points):
    _, anchors = points
    loss = RF.anchor_loss(anchors, reduction="sum")
    expected = torch.tensor(paper.anchor_loss(anchors.numpy()), dtype=torch.float64)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


@given(points_and_anchors(), st.floats(0.1, 10))
def test_a_margin_bounds_the_anchor_loss(points, margin):
    loss = RF.anchor_loss(points[1], margin=margin)
    assert 0.0 <= float(loss) <= margin**2 + 1e-9


@given(points_and_anchors(), st.integers(0, 2**31))
def test_soft_one_hot_labels_equal_index_labels_in_the_center_loss(points, seed):
    embedding, anchors = points
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(anchors.shape[0], (len(embedding),), generator=generator)
    soft = torch.nn.functional.one_hot(labels, anchors.shape[0]).double()
    torch.testing.assert_close(
        RF.center_loss(embedding, anchors, soft), RF.center_loss(embedding, anchors, labels)
    )


@given(points_and_anchors(), st.integers(0, 2**31))
def test_the_soft_minimum_nears_the_minimum(points, seed):
    embedding, anchors = points
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(anchors.shape[0], (len(embedding),), generator=generator)
    hard = RF.center_loss(embedding, anchors, labels, reduction="none")
    scale = float(hard.max().clamp_min(1e-6))
    soft = RF.center_loss(
        embedding, anchors, labels, softmin_temperature=1e-6 * scale, reduction="none"
    )
    torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4 * scale)


@given(logits(limit=1e3), dtypes)
def test_functions_widen_half_precision_and_keep_the_rest(values, dtype):
    probs = values.to(dtype).softmax(-1)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert RF.confidence(probs).dtype == expected
    assert RF.fuse(probs, probs).dtype == expected
    bound = SUM_TOLERANCE[dtype] if dtype == torch.float64 else 2e-2
    assert bool(((RF.fuse(probs, probs).sum(-1) - 1).abs() <= bound).all())
