"""What every public function must do: run under vmap, checks switched on, and compile whole."""

import inspect
import math

import pytest
import torch
from cases import CASES
from public_api import public_objects
from torch import nn

from reliability_balance import functional as RF
from reliability_balance import numerics
from reliability_balance.data import pair_noise, symmetric_noise
from reliability_balance.labels import label_posterior

SIZE, NUM_CLASSES, NUM_ANCHORS, WIDTH = 5, 3, 2, 4


def probs():
    return torch.randn(SIZE, NUM_CLASSES).softmax(-1)


def distances():
    return torch.rand(SIZE, NUM_CLASSES, NUM_ANCHORS) + 0.1


def labels():
    return torch.arange(SIZE) % NUM_CLASSES


ANCHORS = torch.randn(NUM_CLASSES, NUM_ANCHORS, WIDTH)

# The function, its batched arguments, those that all samples share, and its settings.
FUNCTIONS = {
    "widen": (numerics.widen, lambda: (probs(),), (), {}),
    "unit_length": (RF.unit_length, lambda: (torch.randn(SIZE, WIDTH),), (), {}),
    "normalized_entropy": (RF.normalized_entropy, lambda: (probs(),), (), {}),
    "confidence": (RF.confidence, lambda: (probs(),), (), {}),
    "anchor_distances": (RF.anchor_distances, lambda: (torch.randn(SIZE, WIDTH),), (ANCHORS,), {}),
    "anchor_similarities": (RF.anchor_similarities, lambda: (distances(),), (), {}),
    "anchor_correction": (RF.anchor_correction, lambda: (distances(),), (), {}),
    "anchor_log_correction": (RF.anchor_log_correction, lambda: (distances(),), (), {}),
    "fusion_weight": (RF.fusion_weight, lambda: (probs(), probs()), (), {}),
    "fuse": (RF.fuse, lambda: (probs(), probs()), (), {}),
    "log_fuse": (RF.log_fuse, lambda: (probs().log(), probs().log()), (), {}),
    "nearest_anchor_loss": (
        RF.nearest_anchor_loss,
        lambda: (distances(), labels()),
        (),
        {"reduction": "none"},
    ),
}


def call(name, *args):
    function, _, shared, settings = FUNCTIONS[name]
    return function(*args, *shared, **settings)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_over_the_batch(name):
    args = FUNCTIONS[name][1]()
    batched = torch.func.vmap(lambda *each: call(name, *each))(*args)
    torch.testing.assert_close(batched, call(name, *args))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_and_needs_no_contiguous_input(name):
    torch.compiler.reset()
    args = FUNCTIONS[name][1]()
    compiled = torch.compile(lambda *each: call(name, *each), fullgraph=True, backend="aot_eager")
    strided = tuple(x.repeat_interleave(2, dim=-1)[..., ::2] for x in args)
    torch.testing.assert_close(compiled(*strided), call(name, *args))


def test_vmap_over_sets_of_anchors():
    """An ensemble: each its own anchors, on the same embeddings; and a gradient for each sample."""
    embedding, ensemble = torch.randn(SIZE, WIDTH), torch.randn(3, NUM_CLASSES, NUM_ANCHORS, WIDTH)
    distances_of = torch.func.vmap(RF.anchor_distances, in_dims=(None, 0))
    expected = torch.stack([RF.anchor_distances(embedding, anchors) for anchors in ensemble])
    torch.testing.assert_close(distances_of(embedding, ensemble), expected)
    losses = torch.stack([RF.anchor_loss(anchors, margin=2.0) for anchors in ensemble])
    of_each = torch.func.vmap(lambda anchors: RF.anchor_loss(anchors, margin=2.0))
    torch.testing.assert_close(of_each(ensemble), losses)

    def loss(anchors, point, label):
        return RF.center_loss(point, anchors, label)

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(
        ANCHORS, embedding, labels()
    )
    for row, (point, label) in enumerate(zip(embedding, labels(), strict=True)):
        torch.testing.assert_close(gradients[row], torch.func.grad(loss)(ANCHORS, point, label))


def test_disagreement_is_in_loops_the_mean_over_samples():
    first, second = probs().double(), probs().double()
    first[0], second[0] = torch.eye(NUM_CLASSES)[:2]  # certain, and of other classes
    found = torch.func.vmap(RF.disagreement)(first.log(), second.log())
    for p, q, each in zip(first.tolist(), second.tolist(), found.tolist(), strict=True):
        terms = [
            x * math.log(2 * x / (a + b)) for a, b in zip(p, q, strict=True) for x in (a, b) if x
        ]
        assert each == pytest.approx(sum(terms) / 2, abs=1e-9)
    assert float(found[0]) == pytest.approx(math.log(2))
    whole = RF.disagreement(first.log(), second.log())
    torch.testing.assert_close(whole, found.mean())
    torch.compiler.reset()
    compiled = torch.compile(RF.disagreement, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(first.log(), second.log()), whole)
    logits = torch.randn(SIZE, NUM_CLASSES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: RF.disagreement(x.log_softmax(-1), second.softmax(-1).log()), logits
    )
    with pytest.raises(ValueError, match="shape"):
        RF.disagreement(first.log(), second[:2].log())


def test_vmap_of_the_posterior_over_noise_matrices():
    matrices = torch.randn(4, NUM_CLASSES, NUM_CLASSES).softmax(-1)
    beliefs = probs()
    batched = torch.func.vmap(label_posterior, in_dims=(None, None, 0))(beliefs, labels(), matrices)
    expected = torch.stack([label_posterior(beliefs, labels(), matrix) for matrix in matrices])
    torch.testing.assert_close(batched, expected)


def test_no_function_is_left_out():
    assert set(RF.__all__) - FUNCTIONS.keys() == {"anchor_loss", "center_loss", "disagreement"}


def test_no_module_is_left_out():
    """Every public module of the package is part of a case, or has a contract of its own."""
    tried = {type(part) for case in CASES.values() for part in case.make().modules()}
    public = {
        part
        for name, part in public_objects().items()
        if inspect.isclass(part) and issubclass(part, nn.Module) and "backbones" not in name
    }
    of_their_own = {"CalibratedModel", "Calibrator", "RefurbishedTargets", "RobustLoss"}
    assert {part.__name__ for part in public - tried} == of_their_own


@pytest.mark.parametrize("add_noise", [symmetric_noise, pair_noise])
@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_label_noise_of_any_size(add_noise, count, num_classes):
    clean = torch.arange(2 * count)[::2] % num_classes  # not contiguous
    noisy = add_noise(clean, 1.0, num_classes, seed=3)
    assert noisy.shape == clean.shape
    assert not bool((noisy == clean).any())
    assert torch.equal(noisy, add_noise(clean, 1.0, num_classes, seed=3))
