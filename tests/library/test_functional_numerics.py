"""Gradients, edges and extreme values of the functions."""

import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance import functional as RF

LABELS = torch.tensor([0, 2, 1])
SOFT_LABELS = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.4, 0.3, 0.3]])


def probs_from(logits):
    return logits.softmax(-1)


SMOOTH = {
    "confidence": lambda z, e, a: RF.confidence(probs_from(z)),
    "distances": lambda z, e, a: RF.anchor_distances(e, a),
    "cosine distances": lambda z, e, a: RF.anchor_distances(e, a, metric="cosine"),
    "similarities": lambda z, e, a: RF.anchor_similarities(RF.anchor_distances(e, a), 0.5),
    "correction": lambda z, e, a: RF.anchor_log_correction(RF.anchor_distances(e, a), 0.5),
    "fuse": lambda z, e, a: RF.fuse(probs_from(z), probs_from(z.flip(0))),
    "log fuse": lambda z, e, a: RF.log_fuse(z.log_softmax(-1), z.flip(0).log_softmax(-1)),
    "anchor loss": lambda z, e, a: RF.anchor_loss(a),
    "anchor loss between classes": lambda z, e, a: RF.anchor_loss(a, same_class=False),
    "center loss": lambda z, e, a: RF.center_loss(e, a, LABELS),
    "soft center loss": lambda z, e, a: RF.center_loss(e, a, LABELS, softmin_temperature=1.0),
    "center loss of soft labels": lambda z, e, a: RF.center_loss(e, a, SOFT_LABELS),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_first_and_second_derivative(name):
    shapes = ((3, 3), (3, 4), (3, 2, 4))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(SMOOTH[name], inputs)
    assert gradgradcheck(SMOOTH[name], inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("metric", RF.METRICS)
def test_distance_and_gradient_are_zero_on_an_anchor(metric, dtype):
    anchors = torch.randn(2, 2, 4).to(dtype).requires_grad_()
    embedding = anchors[0, 0].detach().clone().unsqueeze(0).requires_grad_()
    distances = RF.anchor_distances(embedding, anchors, metric=metric)
    assert float(distances[0, 0, 0].detach()) < 2e-3
    distances[0, 0, 0].backward()
    assert bool(torch.isfinite(embedding.grad).all())
    assert bool(torch.isfinite(anchors.grad).all())


@pytest.mark.parametrize("metric", RF.METRICS)
def test_zero_vectors_have_finite_gradients(metric):
    embedding = torch.zeros(1, 4, requires_grad=True)
    anchors = torch.zeros(2, 2, 4, requires_grad=True)
    RF.anchor_distances(embedding, anchors, metric=metric).sum().backward()
    assert bool(torch.isfinite(embedding.grad).all())
    assert bool(torch.isfinite(anchors.grad).all())


@pytest.mark.parametrize(
    ("point", "anchor"), [([3.0, 4.0], [3.0, 4.0]), ([0.0, 0.0], [1e-15, 0.0])]
)
def test_the_second_derivative_is_finite_at_an_anchor(point, anchor):
    embedding = torch.tensor([point], requires_grad=True)
    around = torch.tensor([[anchor]])
    anchors = torch.cat([around, -around]).requires_grad_()
    distances = RF.anchor_distances(embedding, anchors)
    first = torch.autograd.grad(distances.sum(), [embedding, anchors], create_graph=True)
    second = torch.autograd.grad(first[0].sum() + first[1].sum(), [embedding, anchors])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in (*first, *second))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_unit_length_is_taken_over_the_last_dimension(shape):
    vectors = torch.randn(shape)
    torch.testing.assert_close(RF.unit_length(vectors).norm(dim=-1), torch.ones(shape[:-1]))


def test_vectors_shorter_than_1e_6_are_not_blown_up():
    torch.testing.assert_close(RF.unit_length(torch.tensor([0.0, 1e-8])), torch.tensor([0.0, 1e-2]))


SHORT = {"zero": 0.0, "1e-30": 1e-30, "1e-9": 1e-9, "below the floor": 0.9e-6}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", SHORT.values(), ids=SHORT)
def test_the_gradient_of_unit_length_is_zero_below_its_floor(length, dtype):
    vectors = torch.tensor([[0.6, 0.8], [0.6, 0.8]], dtype=dtype) * torch.tensor([[1.0], [length]])
    vectors = vectors.to(dtype).requires_grad_()
    (RF.unit_length(vectors) * torch.tensor([3.0, 1.0])).sum().backward()
    assert vectors.grad[1].tolist() == [0.0, 0.0]
    # Of x / |x|, at (0.6, 0.8): (I - x x') (3, 1)
    expected = torch.tensor([3 - 2.6 * 0.6, 1 - 2.6 * 0.8])
    torch.testing.assert_close(vectors.grad[0].float(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5,), (50, 7), (4, 10, 64), (0, 3)])
def test_unit_length_is_a_division_by_the_length_or_the_floor(shape, dtype):
    lengths = 10.0 ** torch.linspace(-12, 4, math.prod(shape[:-1])).reshape(*shape[:-1], 1)
    vectors = (torch.randn(shape) * lengths).to(dtype)
    assert torch.equal(RF.unit_length(vectors), naive_unit_length(vectors))
    for extreme in (0.0, torch.inf, -torch.inf, torch.nan):
        vectors = torch.full(shape, extreme, dtype=dtype)
        assert torch.equal(RF.unit_length(vectors).isnan(), naive_unit_length(vectors).isnan())


def naive_unit_length(vectors):
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return wide / wide.norm(dim=-1, keepdim=True).clamp_min(1e-6)


@pytest.mark.parametrize("length", [2e-6, 1e-3, 1.0, 1e3])
def test_the_derivatives_of_unit_length_above_its_floor(length):
    vectors = torch.nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64), dim=-1) * length
    options = {"eps": length * 1e-6, "atol": 1e-3 / length}
    assert gradcheck(RF.unit_length, vectors.requires_grad_(), **options)
    options["atol"] /= length
    assert gradgradcheck(RF.unit_length, vectors, **options)


def test_the_second_derivative_of_unit_length_is_finite_at_zero():
    vectors = torch.tensor([[0.0, 0.0], [1e-7, 0.0], [1.0, 2.0]], requires_grad=True)
    outputs = (RF.unit_length(vectors) * torch.tensor([3.0, 1.0])).square().sum()
    (first,) = torch.autograd.grad(outputs, vectors, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), vectors)
    assert bool(torch.isfinite(second).all())
    assert second[:2].tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd])
def test_the_slope_of_unit_length_is_zero_in_both_modes(transform):
    vectors = torch.tensor([[0.0, 0.0], [1e-7, 0.0]])
    assert not bool(transform(RF.unit_length)(vectors).any())


@pytest.mark.parametrize("attention", ["off", "tokens"])
@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16], ids=str)
def test_an_embedding_of_zeros_gets_no_huge_gradient(autocast, attention):
    """Such as that of an encoder whose last ReLUs are all off."""
    shape = (4, 3, 16) if attention == "tokens" else (4, 16)
    balancer = ReliabilityBalancer(16, 4, num_anchors=2, attention=attention, head="linear")
    embedding = torch.zeros(shape, dtype=autocast or torch.float32, requires_grad=True)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        output = balancer(embedding)
        loss = ReliabilityLoss()(output, torch.tensor([0, 1, 2, 3])).total
    loss.backward()
    assert float(embedding.grad.abs().max()) < 1.0
    for parameter in balancer.parameters():
        assert parameter.grad is None or float(parameter.grad.abs().max()) < 10.0


@pytest.mark.parametrize("function", [RF.confidence, lambda p: RF.fuse(p, p).square()])
@pytest.mark.parametrize(
    "probs", [[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]
)
def test_gradients_are_finite_at_the_edges_of_the_simplex(function, probs):
    probs = torch.tensor(probs, requires_grad=True)
    function(probs).sum().backward()
    assert bool(torch.isfinite(probs.grad).all())


def test_distances_far_from_the_origin_do_not_cancel():
    """|x|^2 + |y|^2 - 2 x.y alone would lose all digits here."""
    shift = torch.tensor([1e4, -1e4])
    anchors = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]) + shift
    embedding = torch.zeros(1, 2) + shift
    torch.testing.assert_close(
        RF.anchor_distances(embedding, anchors).flatten(), torch.tensor([0.0, 5.0])
    )


def test_log_correction_is_exact_where_the_probability_underflows():
    distances = torch.tensor([[[0.0], [3000.0]]])
    torch.testing.assert_close(
        RF.anchor_log_correction(distances, 1.0), torch.tensor([[0.0, -3000.0]])
    )


def test_autocast_does_not_narrow_the_distances():
    embedding, anchors = torch.randn(4, 64), torch.randn(3, 2, 64)
    expected = RF.anchor_distances(embedding, anchors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = RF.anchor_distances(embedding, anchors)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, expected)


def test_leading_dimensions():
    anchors = torch.randn(3, 2, 4)
    embedding = torch.randn(2, 5, 4)
    labels = torch.randint(3, (2, 5))
    distances = RF.anchor_distances(embedding, anchors)
    assert distances.shape == (2, 5, 3, 2)
    assert RF.anchor_distances(embedding[0, 0], anchors).shape == (3, 2)
    torch.testing.assert_close(distances[1], RF.anchor_distances(embedding[1], anchors))
    assert RF.anchor_log_correction(distances).shape == (2, 5, 3)
    assert RF.confidence(torch.rand(2, 5, 3).softmax(-1)).shape == (2, 5)
    assert RF.center_loss(embedding, anchors, labels, reduction="none").shape == (2, 5)


def test_leading_dimensions_of_what_follows_from_distances_and_probabilities():
    distances, probs = torch.rand(2, 5, 3, 2), torch.rand(2, 5, 3).softmax(-1)
    log_probs, others = probs.log(), probs.flip(-1).log()
    for whole, part in (
        (RF.anchor_similarities(distances), RF.anchor_similarities(distances[1, 4])),
        (RF.anchor_correction(distances), RF.anchor_correction(distances[1, 4])),
        (RF.anchor_log_correction(distances), RF.anchor_log_correction(distances[1, 4])),
        (RF.log_fuse(log_probs, others), RF.log_fuse(log_probs[1, 4], others[1, 4])),
    ):
        torch.testing.assert_close(whole[1, 4], part)


def test_one_is_the_default_softness():
    distances = torch.rand(2, 3, 2)
    for function in (RF.anchor_similarities, RF.anchor_log_correction):
        torch.testing.assert_close(function(distances), function(distances, 1.0))


@pytest.mark.parametrize("dtypes", [("float", "double"), ("double", "float")])
def test_arguments_of_two_dtypes_are_computed_in_the_wider(dtypes):
    first, second = (getattr(torch.rand(3, 4).softmax(-1), dtype)() for dtype in dtypes)
    anchors = getattr(torch.randn(2, 2, 4), dtypes[1])()
    labels = torch.tensor([0, 1, 1])
    for function, arguments in (
        (RF.anchor_distances, [first, anchors]),
        (partial(RF.anchor_distances, metric="cosine"), [first, anchors]),
        (RF.center_loss, [first, anchors, labels]),
        (RF.fuse, [first, second]),
        (RF.log_fuse, [first.log(), second.log()]),
    ):
        wide = [each.double() if each.is_floating_point() else each for each in arguments]
        result = function(*arguments)
        torch.testing.assert_close(result, function(*wide), rtol=0, atol=1e-12)
        assert result.dtype == torch.float64


def test_confidence_stays_within_0_1_where_probabilities_are_rounded_above_1():
    assert float(RF.confidence(torch.tensor([1.0 + 1e-6, 0.0]))) == 1.0


def test_the_soft_minimum_of_many_leading_dimensions():
    distances, labels = torch.rand(2, 5, 3, 4), torch.randint(3, (2, 5))
    whole = RF.nearest_anchor_loss(distances, labels, softmin_temperature=1.0, reduction="none")
    part = RF.nearest_anchor_loss(
        distances[1], labels[1], softmin_temperature=1.0, reduction="none"
    )
    torch.testing.assert_close(whole[1], part)


def test_the_anchor_loss_far_from_the_origin_does_not_cancel():
    shift = torch.tensor([1e4, -1e4])
    anchors = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]) + shift
    torch.testing.assert_close(RF.anchor_loss(anchors, reduction="sum"), torch.tensor(-50.0))


def test_the_second_weight_multiplies_the_second_confidence():
    first, second = torch.tensor([0.9, 0.1]), torch.tensor([0.3, 0.7])
    one, other = RF.confidence(first), RF.confidence(second)
    weight = RF.fusion_weight(first, second, second_weight=3.0)
    torch.testing.assert_close(weight, one / (one + 3.0 * other))


def test_empty_batches():
    anchors, none = torch.randn(3, 2, 4), torch.zeros(0, 4)
    assert RF.anchor_distances(none, anchors).shape == (0, 3, 2)
    assert float(RF.center_loss(none, anchors, torch.zeros(0, dtype=torch.int64))) == 0.0


def test_an_ignored_batch_costs_nothing():
    embedding = torch.randn(2, 4, requires_grad=True)
    labels = torch.full((2,), -100)
    loss = RF.center_loss(embedding, torch.randn(3, 2, 4), labels)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not bool(embedding.grad.any())


def test_ignored_samples_do_not_count_in_the_mean():
    embedding, anchors = torch.randn(3, 4), torch.randn(3, 2, 4)
    some = RF.center_loss(embedding, anchors, torch.tensor([1, -100, 2]))
    kept = RF.center_loss(embedding[[0, 2]], anchors, torch.tensor([1, 2]))
    torch.testing.assert_close(some, kept)


def test_the_sum_of_the_center_loss_is_its_mean_times_the_count():
    embedding, anchors = torch.randn(3, 4), torch.randn(3, 2, 4)
    total = RF.center_loss(embedding, anchors, LABELS, reduction="sum")
    torch.testing.assert_close(total / 3, RF.center_loss(embedding, anchors, LABELS))


def test_the_mean_of_one_sample_is_its_loss():
    embedding, anchors = torch.randn(1, 4), torch.randn(3, 2, 4)
    mean = RF.center_loss(embedding, anchors, LABELS[1:2])
    torch.testing.assert_close(
        mean, RF.center_loss(embedding, anchors, LABELS[1:2], reduction="none").squeeze()
    )


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_soft_labels_weigh_the_nearest_anchors_of_the_classes(shape):
    distances, labels = torch.rand(*shape, 4, 2), torch.rand(*shape, 4).softmax(-1).double()
    losses = RF.nearest_anchor_loss(distances, labels, reduction="none")
    assert losses.dtype == torch.float32
    expected = (distances.amin(-1).square() * labels).sum(-1).float()
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_more_samples_than_half_precision_can_count(dtype):
    distances = torch.ones(70_001, 2, 1, dtype=dtype)
    labels = torch.zeros(70_001, dtype=torch.int64)
    for given in (labels, torch.nn.functional.one_hot(labels, 2).to(dtype)):
        torch.testing.assert_close(
            RF.nearest_anchor_loss(distances, given, validate_args=False), torch.tensor(1.0)
        )


def test_the_soft_minimum_is_of_the_mean():
    distances = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]])
    loss = RF.nearest_anchor_loss(distances, torch.tensor([0]), softmin_temperature=2.0)
    squared = distances[0, 0].square()
    torch.testing.assert_close(loss, -2.0 * (squared / -2.0).exp().mean().log())


def test_the_center_loss_passes_its_options_on():
    embedding, anchors = torch.randn(3, 4), torch.randn(3, 2, 4)
    labels = torch.tensor([1, -7, 2])
    loss = RF.center_loss(embedding, anchors, labels, metric="cosine", ignore_index=-7)
    kept, used = embedding[[0, 2]], torch.tensor([1, 2])
    torch.testing.assert_close(loss, RF.center_loss(kept, anchors, used, metric="cosine"))
    assert float(loss) != float(RF.center_loss(kept, anchors, used))


@pytest.mark.parametrize("same_class", [True, False])
def test_the_margin_is_the_mean_distance_at_which_the_anchor_loss_rests(same_class):
    anchors = torch.randn(3, 3, 4)
    points, classes = anchors.flatten(0, 1), torch.arange(3).repeat_interleave(3)
    mean = torch.stack(
        [
            (points[i] - points[j]).square().sum()
            for i in range(9)
            for j in range(9)
            if i != j and (same_class or classes[i] != classes[j])
        ]
    ).mean()
    loss = RF.anchor_loss(anchors, margin=5.0, same_class=same_class)
    torch.testing.assert_close(loss, 25.0 - mean)
    rests = RF.anchor_loss(anchors, margin=float(mean.sqrt()) - 0.1, same_class=same_class)
    assert float(rests) == 0.0


def test_vmap_over_a_batch_of_problems():
    embedding, anchors = torch.randn(5, 2, 4), torch.randn(5, 3, 2, 4)

    def correct(e, a):
        return RF.anchor_log_correction(RF.anchor_distances(e, a, validate_args=False))

    together = torch.vmap(correct)(embedding, anchors)
    for index in range(5):
        torch.testing.assert_close(together[index], correct(embedding[index], anchors[index]))


class LargestTensor(TorchDispatchMode):
    """Keep the number of elements of the largest tensor that any operation makes; no views."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {storage(value) for value in tree_leaves(args) if isinstance(value, torch.Tensor)}
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and storage(value) not in given:
                self.elements = max(self.elements, value.numel())
        return result


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("metric", RF.METRICS)
def test_no_operation_makes_more_than_points_by_anchors(metric):
    """(B, C, K, D) would have 2 million elements; nor is there a second copy of all anchors."""
    embedding = torch.randn(4, 64, requires_grad=True)
    anchors = torch.randn(1000, 8, 64, requires_grad=True)
    with LargestTensor() as forward:
        distances = RF.anchor_distances(embedding, anchors, metric=metric)
        loss = RF.nearest_anchor_loss(distances, torch.tensor([0, 1, 2, 3]))
        loss = loss + RF.anchor_loss(anchors) + RF.anchor_log_correction(distances).sum()
    assert forward.elements == max(4 * 8000, RF.ANCHOR_BLOCK * 64)
    with LargestTensor() as backward:
        loss.backward()
    assert backward.elements == anchors.numel()


@pytest.mark.parametrize("metric", RF.METRICS)
def test_many_blocks_of_anchors_equal_one(metric, monkeypatch):
    embedding, anchors = torch.randn(2, 3, 4).double(), torch.randn(5, 3, 4).double()
    labels = torch.tensor([[0, 2, 4], [1, 3, 0]])

    def losses():
        return (
            RF.anchor_distances(embedding, anchors, metric=metric),
            RF.center_loss(embedding, anchors, labels, metric=metric),
            RF.anchor_loss(anchors),
            RF.anchor_loss(anchors, same_class=False),
        )

    whole = losses()
    monkeypatch.setattr(RF, "ANCHOR_BLOCK", 4)
    torch.testing.assert_close(losses(), whole)
    with torch.no_grad():
        torch.testing.assert_close(losses(), whole)
