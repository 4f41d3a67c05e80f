"""Any state comes back bit for bit, and any other bytes are refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reliability_balance import ReliabilityBalancer
from reliability_balance.checkpoint import load, save

NO_RESET = [HealthCheck.function_scoped_fixture]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype and shape, also empty, strided or with NaN in it."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = torch.randn(shape, dtype=torch.float64).to(draw(st.sampled_from(DTYPES)))
    if values.is_floating_point() and values.numel() and draw(st.booleans()):
        values.view(-1)[0] = draw(st.sampled_from([torch.nan, torch.inf, -0.0]))
    return values.T if values.ndim == 2 and draw(st.booleans()) else values


def module_of(buffers: dict[str, Tensor]) -> nn.Module:
    module = nn.Module()
    for name, tensor in buffers.items():
        module.register_buffer(name, tensor)
    return module


@settings(deadline=None, max_examples=50, suppress_health_check=NO_RESET)
@given(buffers=st.dictionaries(st.sampled_from("abcdef"), tensors(), max_size=4))
def test_any_state_comes_back(tmp_path: Path, buffers: dict[str, Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save(path, module_of(buffers))
    other = module_of({name: torch.zeros_like(tensor) for name, tensor in buffers.items()})
    load(path, other)
    for name, tensor in buffers.items():
        found = other.get_buffer(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(
            found.contiguous().view(-1).view(torch.uint8),
            tensor.contiguous().view(-1).view(torch.uint8),
        )


@settings(deadline=None, max_examples=30, suppress_health_check=NO_RESET)
@given(
    dim=st.integers(1, 9),
    classes=st.integers(2, 5),
    num_anchors=st.integers(0, 3),
    recipe=st.sampled_from(["robust", "paper"]),
    head=st.sampled_from(["mlp", "linear", None]),
    metric=st.sampled_from(["euclidean", "cosine", None]),
    delta=st.floats(1e-3, 1e3),
    attention=st.sampled_from(["tokens", "single", "off", None]),
    num_heads=st.integers(1, 3),
    head_dim=st.integers(1, 4),
    weight=st.just(0.0) | st.floats(1e-6, 10),
)
def test_any_balancer_is_rebuilt(
    tmp_path: Path, dim, classes, num_anchors, recipe, head, metric, delta, attention, num_heads,
    head_dim, weight,
) -> None:  # fmt: skip
    balancer = ReliabilityBalancer(
        dim, classes, num_anchors=num_anchors, recipe=recipe, head=head, metric=metric,
        delta=delta, attention=attention, num_heads=num_heads, head_dim=head_dim,
        correction_weight=weight,
    ).eval()  # fmt: skip
    path = tmp_path / "model.safetensors"
    save(path, balancer)
    found = load(path).model
    assert str(found) == str(balancer)
    logits = torch.randn(3, classes) if head is None else None
    embedding = torch.randn(3, dim)
    one, other = found(embedding, logits), balancer(embedding, logits)
    assert torch.equal(one.log_probs, other.log_probs)


@settings(deadline=None, max_examples=100, suppress_health_check=NO_RESET)
@given(content=st.binary(max_size=64), start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04"]))
def test_any_other_bytes_are_refused(tmp_path: Path, content: bytes, start: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(start + content)
    with pytest.raises(ValueError, match="`path` must"):
        load(path)
