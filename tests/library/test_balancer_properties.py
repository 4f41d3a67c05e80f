"""What must hold of a whole balancer for any input."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SUM_TOLERANCE, dtypes, logits

from reliability_balance import ReliabilityBalancer

RECIPES = st.sampled_from(["paper", "robust"])
EMBEDDING_DIM = 6


def make_balancer(num_classes, *, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    options.setdefault("attention", "tokens" if options.get("recipe") != "paper" else "single")
    options.setdefault("num_heads", 2)
    options.setdefault("head_dim", 3)
    options.setdefault("num_anchors", 3)
    return ReliabilityBalancer(EMBEDDING_DIM, num_classes, **options).to(dtype).eval()


def is_decided(probs):
    first, second = probs.topk(2).values.unbind(-1)
    return first - second > 1e-5


@given(logits(), dtypes, RECIPES, st.sampled_from([1e-3, 1.0, 100.0]))
def test_probabilities_for_any_finite_logits_and_dtype(values, dtype, recipe, scale):
    balancer = make_balancer(values.shape[-1], dtype=dtype, recipe=recipe, head=None)
    embedding = (torch.randn(len(values), EMBEDDING_DIM) * scale).to(dtype)
    output = balancer(embedding, values.to(dtype))
    for name in ("corrected", "primary", "anchor", "attentive", "correction"):
        probs = getattr(output, name)
        assert bool((probs >= 0).all()), name
        assert bool(((probs.sum(-1) - 1).abs() <= SUM_TOLERANCE[dtype]).all()), name
    assert bool(torch.isfinite(output.log_probs).all())
    torch.testing.assert_close(output.log_probs.exp(), output.corrected)
    # Logits that differ by less than probabilities can tell are ties of these.
    decided = is_decided(output.corrected) & is_decided(output.primary)
    differ = output.corrected.argmax(-1) != output.primary.argmax(-1)
    assert bool((output.changed == differ)[decided].all())


@given(logits(limit=1e4), RECIPES)
def test_gradients_are_finite_for_any_finite_logits(values, recipe):
    balancer = make_balancer(values.shape[-1], recipe=recipe, head=None)
    values = values.clone().requires_grad_()
    embedding = torch.randn(len(values), EMBEDDING_DIM, dtype=torch.float64)
    with torch.no_grad():
        embedding[0] = balancer.anchors[0, 0]
    embedding.requires_grad_()
    output = balancer(embedding, values)
    output.log_probs[:, 0].sum().backward()
    for tensor in (values, embedding, *balancer.parameters()):
        assert bool(torch.isfinite(tensor.grad).all())


@given(st.integers(2, 6), st.randoms(), RECIPES)
@settings(max_examples=25)
def test_relabelling_the_classes_permutes_the_output(num_classes, random, recipe):
    order = list(range(num_classes))
    random.shuffle(order)
    balancer = make_balancer(num_classes, recipe=recipe, head="linear")
    permuted = make_balancer(num_classes, recipe=recipe, head="linear")
    with torch.no_grad():
        for layer in (permuted.head, permuted.attention.output):
            layer.weight.copy_(layer.weight[order].clone())
            layer.bias.copy_(layer.bias[order].clone())
        permuted.anchors.copy_(permuted.anchors[order].clone())
    embedding = torch.randn(4, EMBEDDING_DIM, dtype=torch.float64)
    before, after = balancer(embedding), permuted(embedding)
    for name in ("corrected", "log_probs", "primary", "anchor", "attentive", "correction"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name)[:, order])
    torch.testing.assert_close(after.confidence, before.confidence)


@given(st.integers(1, 7), RECIPES, st.booleans())
@settings(max_examples=25)
def test_a_prediction_does_not_depend_on_its_batch(batch_size, recipe, has_tokens):
    balancer = make_balancer(4, recipe=recipe)
    shape = (batch_size, 5, EMBEDDING_DIM) if has_tokens else (batch_size, EMBEDDING_DIM)
    embedding = torch.randn(shape, dtype=torch.float64)
    whole = balancer(embedding)
    for index in range(batch_size):
        alone = balancer(embedding[index : index + 1])
        torch.testing.assert_close(alone.corrected[0], whole.corrected[index])
        torch.testing.assert_close(alone.confidence[0], whole.confidence[index])


@given(st.integers(0, 2**31), st.floats(0, 20))
@settings(max_examples=25)
def test_more_correction_weight_moves_the_answer_towards_the_correction(seed, weight):
    embedding = torch.randn(5, EMBEDDING_DIM, dtype=torch.float64)
    light = make_balancer(4, seed=seed, correction_weight=weight)(embedding)
    heavy = make_balancer(4, seed=seed, correction_weight=weight + 1)(embedding)

    def gap(output):
        return (output.corrected - output.correction).abs().sum(-1)

    assert bool((gap(heavy) <= gap(light) + 1e-9).all())


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_the_order_of_tokens_does_not_matter(seed):
    balancer = make_balancer(4)
    tokens = torch.randn(2, 5, EMBEDDING_DIM, dtype=torch.float64)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(balancer(tokens[:, order]).corrected, balancer(tokens).corrected)
