import pytest
import torch
from oracles.window_attention import window_cross_attention

from reliability_balance.backbones.poster_v2.attention import (
    WindowCrossAttention,
    merge_windows,
    partition_windows,
    relative_position_index,
)
from reliability_balance.backbones.poster_v2.fusion import FusionMLP, cross_fuse, pool_to
from reliability_balance.backbones.poster_v2.layers import DropPath, HalvingConv, PReLU, named


@pytest.mark.parametrize("grad", [True, False], ids=["train", "predict"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("window_size", "rows", "columns"), [(2, 1, 1), (2, 2, 3), (3, 2, 1)])
def test_matches_a_loop_over_windows(
    window_size: int, rows: int, columns: int, with_bias: bool, grad: bool
) -> None:
    torch.manual_seed(0)
    attention = WindowCrossAttention(8, num_heads=2, window_size=window_size).double()
    with torch.no_grad():
        attention.relative_position_bias_table.normal_()
        if not with_bias:
            attention.relative_position_bias_table.zero_()
    image = torch.randn(2, rows * window_size, columns * window_size, 8, dtype=torch.float64)
    landmarks = torch.randn(2, window_size, window_size, 8, dtype=torch.float64)
    with torch.set_grad_enabled(grad):  # other kernels run without gradients
        windows = attention(partition_windows(image, window_size), landmarks.flatten(1, 2))
    expected = window_cross_attention(
        image,
        landmarks,
        window_size=window_size,
        num_heads=2,
        key_value=(attention.qkv.weight, attention.qkv.bias),
        output=(attention.proj.weight, attention.proj.bias),
        bias_table=attention.relative_position_bias_table if with_bias else None,
    )
    actual = merge_windows(windows, window_size, columns)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    attention = WindowCrossAttention(4, num_heads=2, window_size=2).double()
    windows = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    query = torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True)
    table = attention.relative_position_bias_table

    def run(windows: torch.Tensor, query: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return attention(windows, query)

    assert torch.autograd.gradcheck(run, (windows, query, table))


def test_index_counts_the_offset_in_rows_and_columns() -> None:
    index = relative_position_index(3)
    for first in range(9):
        for second in range(9):
            rows = first // 3 - second // 3 + 2
            columns = first % 3 - second % 3 + 2
            assert index[first, second] == rows * 5 + columns


def test_fusion_adds_nothing_when_its_factors_are_zero() -> None:
    """The residual is the normalised image, as published; Eq. 4 has the image itself."""
    torch.manual_seed(0)
    norm = named(norm=torch.nn.LayerNorm(8))
    fusion = FusionMLP(8)
    with torch.no_grad():
        fusion.gamma1.zero_()
        fusion.gamma2.zero_()
    image = torch.randn(2, 8, 4, 4)
    attention = WindowCrossAttention(8, num_heads=2, window_size=2)
    fused = cross_fuse(image, torch.randn(2, 8, 4, 4), norm, attention, fusion, 2)
    expected = norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(fused, expected)


def test_landmarks_are_averaged_down_to_a_window() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    assert pool_to(features, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_to(features, 4) is features


def test_drop_path_leaves_whole_samples_out_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(4000, 2, 3))
    per_sample = dropped.flatten(1)
    assert set(per_sample[:, 0].unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert per_sample.mean().item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (2, 2, 3, 3)])
def test_prelu_is_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = torch.randn(shape, dtype=torch.float64)
    features.view(-1)[::3] = 0.0  # here the slope decides, too
    gradient = torch.randn(shape, dtype=torch.float64)
    results = []
    for module in (PReLU(2).double(), torch.nn.PReLU(2).double()):
        inputs = features.clone().requires_grad_()
        output = module(inputs)
        output.backward(gradient)
        results.append((output, inputs.grad, module.weight.grad))
    torch.testing.assert_close(results[0], results[1])


def test_prelu_has_forward_and_second_derivatives() -> None:
    torch.manual_seed(0)
    module = PReLU(2).double()
    features = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)

    def run(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"weight": weight}, (features,))

    assert torch.autograd.gradcheck(run, (features, module.weight), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, (features, module.weight))


@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(4, 4), (5, 8), (1, 2)])
def test_halving_convolution_is_torchs(size: tuple[int, int], weights: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = HalvingConv(3, 5).double().to(memory_format=weights)
    features = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    wanted = [features, module.weight, module.bias]
    expected = torch.nn.Conv2d.forward(module, features)
    actual = module(features)
    torch.testing.assert_close(actual, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, wanted, gradient),
        torch.autograd.grad(expected, wanted, gradient),
    )
