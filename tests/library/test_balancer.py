"""The balancer's options, branches, errors and the anchors' start."""

import pytest
import torch
from torch import nn

from reliability_balance import BalancerOutput, ReliabilityBalancer
from reliability_balance.core import Recipe
from reliability_balance.core.clustering import k_means

EMBEDDING = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def test_the_output_names_every_branch():
    output = ReliabilityBalancer(8, 3, num_anchors=2, attention="tokens").eval()(EMBEDDING)
    assert isinstance(output, BalancerOutput)
    for name in ("corrected", "log_probs", "primary", "logits", "anchor", "attentive"):
        assert getattr(output, name).shape == (5, 3), name
    for name in ("confidence", "primary_confidence", "anchor_confidence", "attentive_confidence"):
        assert getattr(output, name).shape == (5,), name
    assert output.changed.dtype == torch.bool
    assert output.distances.shape == (5, 3, 2)
    assert output.anchors.shape == (3, 2, 8)
    assert output.embedding is EMBEDDING
    assert output.tokens is output.token_mask is None


def test_probabilities_are_in_row_major_order():
    output = ReliabilityBalancer(8, 3, attention="single")(torch.randn(5, 8))
    for name in ("corrected", "primary", "anchor", "attentive", "correction"):
        assert getattr(output, name).is_contiguous(), name


def test_what_attention_saw_is_kept_for_mixing():
    tokens, mask = torch.randn(5, 4, 8), torch.ones(5, 4, dtype=torch.bool)
    output = ReliabilityBalancer(8, 3, attention="tokens")(tokens, token_mask=mask)
    assert output.tokens is tokens
    assert output.token_mask is mask
    assert ReliabilityBalancer(8, 3, attention="off")(tokens, token_mask=mask).tokens is None


def test_class_frequencies_are_even_until_they_are_told_and_change_no_output():
    balancer = ReliabilityBalancer(8, 4).eval()
    assert balancer.class_prior.tolist() == [0.25] * 4
    before = balancer(EMBEDDING).log_probs
    balancer.class_prior.copy_(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    for each in (balancer, balancer.train()):
        assert torch.equal(each(EMBEDDING).log_probs, before)


def test_anchors_are_a_parameter_of_shape_c_k_d():
    balancer = ReliabilityBalancer(8, 3, num_anchors=2)
    assert isinstance(balancer.anchors, nn.Parameter)
    assert balancer.anchors.shape == (3, 2, 8)
    assert len({tuple(row.tolist()) for row in balancer.anchors.detach().flatten(0, 1)}) == 6


def test_without_anchors():
    output = ReliabilityBalancer(8, 3, num_anchors=0, attention="tokens").eval()(EMBEDDING)
    assert output.anchor is None
    assert output.distances is None
    assert output.anchors is None
    torch.testing.assert_close(output.correction, output.attentive)


def test_without_attention():
    output = ReliabilityBalancer(8, 3, attention="off").eval()(EMBEDDING)
    assert output.attentive is None
    torch.testing.assert_close(output.correction, output.anchor)


def test_without_both_it_is_the_plain_head():
    balancer = ReliabilityBalancer(8, 3, num_anchors=0, attention="off", head="linear").eval()
    output = balancer(EMBEDDING)
    assert output.correction is None
    torch.testing.assert_close(output.corrected, balancer.head(EMBEDDING).softmax(-1))
    assert torch.equal(output.corrected, output.primary)
    assert not bool(output.changed.any())


def test_a_correction_weight_of_zero_leaves_the_primary_distribution_bit_for_bit():
    logits = torch.randn(5, 3)
    output = ReliabilityBalancer(8, 3, correction_weight=0.0).eval()(EMBEDDING, logits)
    assert torch.equal(output.corrected, output.primary)
    assert torch.equal(output.log_probs, logits.log_softmax(-1))
    assert output.logits is logits


def test_given_logits_are_the_primary_branch():
    logits = torch.randn(5, 3)
    output = ReliabilityBalancer(8, 3, head=None).eval()(EMBEDDING, logits)
    torch.testing.assert_close(output.primary, logits.softmax(-1))


def test_the_papers_head():
    """Two hidden layers of 64, each with ReLU, dropout .5 and batch norm, none after the last."""
    head = ReliabilityBalancer(8, 3, recipe="paper").head
    layers = [type(layer).__name__ for layer in head.layers]
    hidden = ["Linear", "ReLU", "Dropout", "BatchNorm1d"]
    assert layers == [*hidden, *hidden, "Linear"]
    assert [layer.out_features for layer in head.layers if isinstance(layer, nn.Linear)] == [
        64,
        64,
        3,
    ]
    assert head.layers[2].p == 0.5


def test_a_head_of_ones_own():
    head = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
    balancer = ReliabilityBalancer(8, 3, head=head).eval()
    assert torch.equal(balancer(EMBEDDING).logits, head(EMBEDDING))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", "0.5"), ("held_back", None), ("momentum", "x"), ("prior_count", [1])),
        *(("memory", torch.ones(2)), ("consistency", True), ("warmup", 1.0)),
    ],
)
def test_a_recipe_names_the_field_of_a_wrong_type(name, value):
    with pytest.raises(TypeError, match=rf"`{name}` must be a.*; got {type(value).__name__}"):
        Recipe(**{name: value})


@pytest.mark.parametrize("recipe", [None, {"delta": 1.0}, 3])
def test_what_is_no_recipe(recipe):
    with pytest.raises(TypeError, match=r"`recipe` must be a name or a Recipe; got"):
        ReliabilityBalancer(4, 2, recipe=recipe)


def test_recipes_set_the_defaults_and_arguments_win():
    paper = ReliabilityBalancer(8, 3, recipe="paper")
    assert (paper.metric, paper.delta, paper.attention.mode) == ("euclidean", 1.0, "single")
    robust = ReliabilityBalancer(8, 3)
    assert (robust.recipe, robust.metric, robust.attention) == ("robust", "cosine", None)
    assert type(robust.head) is nn.Linear
    assert type(ReliabilityBalancer(8, 3, recipe="paper", head="linear").head) is nn.Linear
    mixed = ReliabilityBalancer(8, 3, recipe="paper", metric="cosine", delta=0.3)
    assert (mixed.metric, mixed.delta, mixed.attention.mode) == ("cosine", 0.3, "single")


def test_tokens_are_averaged_for_head_and_anchors():
    balancer = ReliabilityBalancer(8, 3, attention="tokens").eval()
    tokens = torch.randn(5, 4, 8)
    output, pooled = balancer(tokens), balancer(tokens.mean(1))
    torch.testing.assert_close(output.primary, pooled.primary)
    torch.testing.assert_close(output.anchor, pooled.anchor)
    assert not torch.allclose(output.attentive, pooled.attentive)


def test_attention_across_the_batch_depends_on_the_batch_and_warns_in_eval():
    balancer = ReliabilityBalancer(8, 3, attention="batch").eval()
    with pytest.warns(UserWarning, match="depend on the rest of its batch"):
        whole, part = balancer(EMBEDDING), balancer(EMBEDDING[:2])
    assert not torch.allclose(whole.attentive[:2], part.attentive)


def test_bfloat16_autocast_gives_wide_probabilities():
    balancer = ReliabilityBalancer(8, 3).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = balancer(EMBEDDING)
    assert output.logits.dtype == torch.bfloat16
    assert output.corrected.dtype == torch.float32
    torch.testing.assert_close(output.corrected.sum(-1), torch.ones(5))
    torch.testing.assert_close(output.corrected, balancer(EMBEDDING).corrected, rtol=0, atol=2e-2)


def test_the_representation_tells_the_settings():
    text = repr(ReliabilityBalancer(8, 3, recipe="paper"))
    assert "embedding_dim=8, num_classes=3, num_anchors=8, recipe='paper'" in text
    assert "mode='single'" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embedding_dim": 0}, ValueError, "`embedding_dim` must be at least 1; got 0"),
        ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2; got 1"),
        ({"num_classes": 3.0}, TypeError, "`num_classes` must be an int; got float"),
        ({"num_anchors": -1}, ValueError, "`num_anchors` must be at least 0; got -1"),
        ({"num_anchors": True}, TypeError, "`num_anchors` must be an int; got bool"),
        ({"delta": 0.0}, ValueError, "`delta` must be greater than 0; got 0.0"),
        ({"metric": "l1"}, ValueError, "`metric` must be one of"),
        ({"attention": "none"}, ValueError, "`attention` must be one of .*'off'; got 'none'"),
        ({"recipe": "best"}, ValueError, "`recipe` must be one of 'robust', 'paper'; got 'best'"),
        ({"head": "tree"}, ValueError, "`head` must be one of 'mlp', 'linear'; got 'tree'"),
        (
            {"num_heads": 0, "attention": "tokens"},
            ValueError,
            "`num_heads` must be at least 1",
        ),
        (
            {"head_dim": 0, "attention": "tokens"},
            ValueError,
            "`head_dim` must be at least 1",
        ),
        ({"correction_weight": -0.1}, ValueError, "`correction_weight` must be at least 0"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        ReliabilityBalancer(**{"embedding_dim": 8, "num_classes": 3, **options})


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((torch.zeros(8),), ValueError, r"`embedding` must have shape \(B, 8\) or \(B, T, D\)"),
        ((torch.zeros(2, 9),), ValueError, r"last dimension 8; got \(2, 9\)"),
        ((torch.zeros(2, 8).long(),), TypeError, "`embedding` must have a floating dtype"),
        (([0.0] * 8,), TypeError, "`embedding` must be a torch.Tensor; got list"),
        ((torch.full((2, 8), torch.inf),), ValueError, "`embedding` must be finite; got 16 NaN"),
        (
            (torch.zeros(2, 8), torch.zeros(2, 4)),
            ValueError,
            r"`primary_logits` must have shape \(B, C\) = \(2, 3\); got \(2, 4\)",
        ),
        ((torch.zeros(2, 8), torch.zeros(2, 3).long()), TypeError, "`primary_logits` must have a"),
        ((torch.zeros(1, 8),), ValueError, "batch of at least 2 in training.*batch norm"),
    ],
)
def test_bad_input(inputs, error, message):
    with pytest.raises(error, match=message):
        ReliabilityBalancer(8, 3, head="mlp")(*inputs)


def test_no_head_needs_logits():
    with pytest.raises(ValueError, match="`primary_logits` must be given"):
        ReliabilityBalancer(8, 3, head=None)(EMBEDDING)


def test_the_check_for_finite_values_can_be_switched_off():
    balancer = ReliabilityBalancer(8, 3, validate_args=False).eval()
    assert bool(balancer(torch.full((2, 8), torch.nan)).corrected.isnan().all())


def test_anchors_start_at_class_means_or_clusters():
    points = torch.cat([torch.randn(50, 8) * 0.1 + center for center in (-3.0, 3.0, 9.0, 15.0)])
    labels = torch.tensor([0, 0, 1, 1]).repeat_interleave(50)
    balancer = ReliabilityBalancer(8, 3, num_anchors=2, metric="euclidean")
    untouched = balancer.anchors.detach()[2].clone()
    assert balancer.initialize_anchors(points, labels) is balancer
    means = balancer.anchors.detach().mean(-1).sort(-1).values
    torch.testing.assert_close(
        means[:2], torch.tensor([[-3.0, 3.0], [9.0, 15.0]]), rtol=0, atol=0.1
    )
    assert torch.equal(balancer.anchors.detach()[2], untouched)


def test_anchors_of_the_cosine_metric_start_on_the_sphere():
    balancer = ReliabilityBalancer(8, 3, num_anchors=1)
    labels = torch.tensor([0, 0, 1, 1, 2])
    balancer.initialize_anchors(EMBEDDING * 100, labels)
    assert bool((balancer.anchors.detach().norm(dim=-1) <= 1 + 1e-5).all())


def test_initializing_needs_anchors_and_labels_that_fit():
    with pytest.raises(ValueError, match="needs num_anchors > 0"):
        ReliabilityBalancer(8, 3, num_anchors=0).initialize_anchors(EMBEDDING, torch.arange(5))
    balancer = ReliabilityBalancer(8, 3)
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 3\)"):
        balancer.initialize_anchors(EMBEDDING, torch.arange(5))
    with pytest.raises(TypeError, match="`labels` must be an int64 tensor"):
        balancer.initialize_anchors(EMBEDDING, torch.zeros(5))
    with pytest.raises(ValueError, match=r"`labels` of dtype int64 must have shape \(5,\)"):
        balancer.initialize_anchors(EMBEDDING, torch.zeros(4, dtype=torch.int64))


def test_k_means_finds_separate_clusters_whatever_the_start():
    points = torch.cat([torch.randn(40, 3) * 0.05 + center for center in (0.0, 5.0)])
    for seed in range(5):
        torch.manual_seed(seed)
        centers = k_means(points, 2).mean(-1).sort().values
        torch.testing.assert_close(centers, torch.tensor([0.0, 5.0]), rtol=0, atol=0.1)


def test_k_means_with_fewer_points_than_clusters_keeps_them_apart():
    centers = k_means(torch.tensor([[1.0, 2.0]]), 4)
    assert centers.shape == (4, 2)
    assert len({tuple(row.tolist()) for row in centers}) == 4
    torch.testing.assert_close(centers.mean(0), torch.tensor([1.0, 2.0]), rtol=0, atol=0.1)
