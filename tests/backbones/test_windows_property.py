import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reliability_balance.backbones.poster_v2 import PosterV2Config
from reliability_balance.backbones.poster_v2.attention import (
    WindowCrossAttention,
    merge_windows,
    partition_windows,
)

sizes = st.integers(1, 4)


@settings(deadline=None, max_examples=50)
@given(batch=sizes, rows=sizes, columns=sizes, window_size=sizes, channels=sizes)
def test_merging_undoes_partitioning(
    batch: int, rows: int, columns: int, window_size: int, channels: int
) -> None:
    features = torch.randn(batch, rows * window_size, columns * window_size, channels)
    windows = partition_windows(features, window_size)
    assert windows.shape == (batch, rows * columns, window_size**2, channels)
    assert torch.equal(merge_windows(windows, window_size, columns), features)
    corner = features[:, :window_size, :window_size].flatten(1, 2)
    assert torch.equal(windows[:, 0], corner)


@settings(deadline=None, max_examples=30)
@given(
    batch=sizes,
    num_windows=sizes,
    window_size=sizes,
    heads=sizes,
    depth=sizes,
    seed=st.integers(0, 99),
)
def test_windows_do_not_see_each_other(
    batch: int, num_windows: int, window_size: int, heads: int, depth: int, seed: int
) -> None:
    torch.manual_seed(seed)
    attention = WindowCrossAttention(heads * depth, heads, window_size).double()
    shape = (batch, num_windows, window_size**2, heads * depth)
    windows = torch.randn(*shape, dtype=torch.float64)
    query = torch.randn(batch, *shape[2:], dtype=torch.float64)
    together = attention(windows, query)
    alone = torch.cat([attention(window, query) for window in windows.split(1, dim=1)], dim=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    # The bias moves no weight between heads, and a constant one changes nothing.
    with torch.no_grad():
        attention.relative_position_bias_table.add_(3.0)
    torch.testing.assert_close(attention(windows, query), together, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(tiles=st.integers(1, 8), windows_per_side=st.integers(1, 4))
def test_windows_tile_the_maps_of_every_size_that_fits(tiles: int, windows_per_side: int) -> None:
    config = PosterV2Config(
        image_size=16 * windows_per_side * tiles, windows_per_side=windows_per_side
    )
    for size, window_size in zip(config.map_sizes, config.window_sizes, strict=True):
        assert size == window_size * windows_per_side
    assert config.num_tokens == 3 * config.map_sizes[-1] ** 2
