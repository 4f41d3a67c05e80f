"""The library against an independent numpy implementation of the paper (tests/helpers/oracles)."""

import math

import numpy as np
import pytest
import torch
from oracles import equations as paper
from torch import nn

from reliability_balance import AnchorLoss, CenterLoss, ReliabilityBalancer, ReliabilityLoss
from reliability_balance import functional as RF
from reliability_balance.core import LossTerms

TOLERANCE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture
def probs():
    raw = torch.rand(6, 5, dtype=torch.float64).pow(3)
    raw[0] = 1.0  # uniform
    raw[1] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])  # one-hot
    raw[2, :2] = 0.0  # zeros among others
    return raw / raw.sum(-1, keepdim=True)


@pytest.fixture
def points():
    """Embedding (6, 4) and anchors (3, 2, 4); one embedding lies on an anchor."""
    anchors = torch.randn(3, 2, 4, dtype=torch.float64)
    embedding = torch.randn(6, 4, dtype=torch.float64)
    embedding[0] = anchors[1, 1]
    return embedding, anchors


def test_entropy_and_confidence_equal_eq_10_and_11(probs):
    for row, entropy, confidence in zip(
        probs, RF.normalized_entropy(probs), RF.confidence(probs), strict=True
    ):
        assert float(entropy) == pytest.approx(paper.normalized_entropy(row.numpy()), abs=1e-12)
        assert float(confidence) == pytest.approx(paper.confidence(row.numpy()), abs=1e-12)


def test_anchor_branch_equals_eq_12_to_14(points):
    embedding, anchors = points
    distances = RF.anchor_distances(embedding, anchors)
    for delta in (0.1, 1.0, 7.0):
        similarities = RF.anchor_similarities(distances, delta)
        correction = RF.anchor_correction(similarities)
        log_correction = RF.anchor_log_correction(distances, delta)
        for b in range(len(embedding)):
            expected = paper.anchor_distances(embedding[b].numpy(), anchors.numpy())
            np.testing.assert_allclose(distances[b], expected, rtol=0, atol=1e-7)
            shares = paper.anchor_similarities(expected, delta)
            np.testing.assert_allclose(similarities[b], shares, **TOLERANCE)
            votes = paper.anchor_correction(shares)
            np.testing.assert_allclose(correction[b], votes, **TOLERANCE)
            np.testing.assert_allclose(log_correction[b].exp(), votes, **TOLERANCE)


def test_fusion_equals_eq_18(probs):
    others = probs.flip(0)
    fused, log_fused = RF.fuse(probs, others), RF.log_fuse(probs.log(), others.log())
    for b in range(len(probs)):
        expected = paper.fuse(probs[b].numpy(), others[b].numpy())
        np.testing.assert_allclose(fused[b], expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(log_fused[b].exp(), expected, rtol=0, atol=1e-12)


def test_anchor_loss_equals_the_four_sums_of_eq_21(points):
    _, anchors = points
    expected = paper.anchor_loss(anchors.numpy())
    assert float(RF.anchor_loss(anchors, reduction="sum")) == pytest.approx(expected)
    assert float(AnchorLoss(reduction="sum")(anchors)) == pytest.approx(expected)
    assert float(AnchorLoss()(anchors)) == pytest.approx(expected / 36)  # (C K)^2 pairs


def test_anchor_loss_can_leave_out_pairs_of_one_class(points):
    _, anchors = points
    within = sum(paper.anchor_loss(anchors[i : i + 1].numpy()) for i in range(3))
    expected = paper.anchor_loss(anchors.numpy()) - within
    loss = RF.anchor_loss(anchors, same_class=False, reduction="sum")
    assert float(loss) == pytest.approx(expected)


def test_the_mean_anchor_loss_is_over_the_pairs_that_count():
    anchors = torch.randn(4, 3, 2, dtype=torch.float64)
    total = RF.anchor_loss(anchors, same_class=False, reduction="sum")
    pairs = 12 * 12 - 4 * 3 * 3
    torch.testing.assert_close(RF.anchor_loss(anchors, same_class=False), total / pairs)


def test_center_loss_equals_eq_22(points):
    embedding, anchors = points
    labels = torch.tensor([1, 0, 2, 2, 0, 1])
    each = RF.center_loss(embedding, anchors, labels, reduction="none")
    for b, label in enumerate(labels.tolist()):
        expected = paper.center_loss(embedding[b].numpy(), anchors.numpy(), label)
        assert float(each[b]) == pytest.approx(expected, abs=1e-7)
    assert float(CenterLoss()(embedding, anchors, labels)) == pytest.approx(float(each.mean()))


def paper_forward(balancer, embedding):
    """Eq. 9-19 for one embedding, from the balancer's weights, by the oracle alone."""
    weights = {name: value.detach().numpy() for name, value in balancer.state_dict().items()}
    layers = []
    for index, layer in enumerate(balancer.head.layers):
        if isinstance(layer, nn.Linear):
            name = f"head.layers.{index}"
            norm_name = f"head.layers.{index + 3}"
            norm = None
            if f"{norm_name}.running_mean" in weights:
                norm = (
                    *(weights[f"{norm_name}.{part}"] for part in ("weight", "bias")),
                    weights[f"{norm_name}.running_mean"],
                    weights[f"{norm_name}.running_var"],
                    balancer.head.layers[index + 3].eps,
                )
            layers.append((weights[f"{name}.weight"], weights[f"{name}.bias"], norm))
    primary = paper.softmax(paper.mlp_head(embedding, layers))
    distances = paper.anchor_distances(embedding, weights["anchors"])
    anchor = paper.anchor_correction(paper.anchor_similarities(distances, balancer.delta))
    projection = np.split(weights["attention.projection.weight"], 3)
    biases = np.split(weights["attention.projection.bias"], 3)
    (heads,) = paper.attend([embedding], *projection, biases, balancer.attention.num_heads)
    attentive = paper.softmax(
        weights["attention.output.weight"] @ heads + weights["attention.output.bias"]
    )
    correction = paper.fuse(anchor, attentive)
    return {
        "primary": primary,
        "anchor": anchor,
        "attentive": attentive,
        "correction": correction,
        "corrected": paper.fuse(primary, correction),
    }


def test_the_paper_recipe_equals_eq_9_to_19():
    balancer = ReliabilityBalancer(12, 7, num_anchors=5, recipe="paper").double()
    with torch.no_grad():  # running statistics and scales that are not 0 and 1
        for layer in balancer.head.layers:
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2.0)
                layer.weight.normal_()
                layer.bias.normal_()
    balancer.eval()
    embedding = torch.randn(9, 12, dtype=torch.float64)
    output = balancer(embedding)
    for b in range(len(embedding)):
        for name, expected in paper_forward(balancer, embedding[b].numpy()).items():
            np.testing.assert_allclose(getattr(output, name)[b].detach(), expected, **TOLERANCE)
        confidence = paper.confidence(output.corrected[b].detach().numpy())
        assert float(output.confidence[b].detach()) == pytest.approx(confidence, abs=1e-9)
    torch.testing.assert_close(output.log_probs.exp(), output.corrected)


def test_attention_over_tokens_equals_eq_15_to_17():
    balancer = ReliabilityBalancer(6, 3, attention="tokens", num_heads=2, head_dim=5).double()
    tokens = torch.randn(2, 4, 6, dtype=torch.float64)
    attention = balancer.attention
    projection = np.split(attention.projection.weight.detach().numpy(), 3)
    biases = np.split(attention.projection.bias.detach().numpy(), 3)
    attentive = balancer.eval()(tokens).attentive.detach()
    for b in range(2):
        heads = paper.attend(list(tokens[b].numpy()), *projection, biases, 2)
        logits = attention.output.weight.detach().numpy() @ np.mean(heads, axis=0)
        expected = paper.softmax(logits + attention.output.bias.detach().numpy())
        np.testing.assert_allclose(attentive[b], expected, rtol=0, atol=1e-9)


def test_attention_over_parts_is_attention_over_tokens_each_with_one_part():
    """A (D,) embedding in P parts is P tokens that are zero outside their own part."""
    attention = ReliabilityBalancer(16, 3, attention="tokens").double().attention
    embedding = torch.randn(5, 16, dtype=torch.float64)
    size = 16 // attention.num_parts
    tokens = torch.zeros(5, attention.num_parts, 16, dtype=torch.float64)
    for part in range(attention.num_parts):
        columns = slice(part * size, (part + 1) * size)
        tokens[:, part, columns] = embedding[:, columns]
    torch.testing.assert_close(attention(embedding), attention(tokens))


def test_the_paper_loss_equals_eq_20_to_23():
    balancer = ReliabilityBalancer(4, 3, num_anchors=2, recipe="paper").double().eval()
    criterion = ReliabilityLoss(
        recipe="paper", label_smoothing=0.0, anchor_weight=0.3, center_weight=0.7
    )
    embedding, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    output = balancer(embedding)
    terms = LossTerms(*(term.detach() for term in criterion(output, labels)))
    anchors = balancer.anchors.detach().numpy()
    classification = np.mean(
        [
            -math.log(row[label])
            for row, label in zip(output.corrected.tolist(), labels.tolist(), strict=True)
        ]
    )
    center = np.mean(
        [
            paper.center_loss(e.numpy(), anchors, int(y))
            for e, y in zip(embedding, labels, strict=True)
        ]
    )
    anchor = paper.anchor_loss(anchors) / 36
    assert float(terms.classification) == pytest.approx(classification)
    assert float(terms.center) == pytest.approx(center, abs=1e-7)
    assert float(terms.anchor) == pytest.approx(anchor)
    total = classification + 0.3 * anchor + 0.7 * center
    assert float(terms.total) == pytest.approx(total, abs=1e-6)
    assert float(terms.branches) == 0.0
