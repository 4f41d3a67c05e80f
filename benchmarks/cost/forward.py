"""Operations and time of forward passes, and how those of windowed attention grow."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reliability_balance.backbones.poster_v2.attention import WindowCrossAttention

WINDOW_SIZE, WINDOW_WIDTH, WINDOW_HEADS = 7, 64, 2
WINDOW_COUNTS = (1, 4, 16, 64, 256)


def operations(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Return the floating-point operations of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(*inputs)
    return int(counter.get_total_flops())


def median_seconds(run: Callable[[], None], budget: float) -> float:
    """Return the median CPU time of calls that take about `budget` seconds."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 50):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def window_growth(seed: int, repetitions: int) -> dict[str, list[float]]:
    """Fit the exponent of W-MCSA's cost with the number of windows, against full attention."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    windowed = WindowCrossAttention(WINDOW_WIDTH, WINDOW_HEADS, WINDOW_SIZE).eval()
    positions = WINDOW_SIZE**2
    query = torch.randn(1, positions, WINDOW_WIDTH)
    inputs = [torch.randn(1, count, positions, WINDOW_WIDTH) for count in WINDOW_COUNTS]
    counted = [operations(windowed, windows, query) for windows in inputs]
    # With one window over the whole map, every position attends to every other.
    full = [
        3 * WINDOW_WIDTH**2 * 2 * positions * count + 4 * WINDOW_WIDTH * (positions * count) ** 2
        for count in WINDOW_COUNTS
    ]

    @torch.inference_mode()
    def run(windows: torch.Tensor) -> None:
        windowed(windows, query)

    # Below 16 windows, call overhead dominates.
    large = [each for each in inputs if each.shape[1] >= 16]
    seconds = [
        [median_seconds(partial(run, windows), 0.2) for windows in large]
        for _ in range(repetitions)
    ]
    return {
        "operations, windows": [_exponent(counted)],
        "operations, one window over all": [_exponent(full)],
        "seconds, windows (16 to 256)": [_exponent(row) for row in seconds],
    }


def _exponent(costs: Sequence[float]) -> float:
    """Return b of cost = a windows^b, for the largest counts of windows."""
    return float(np.polyfit(np.log(WINDOW_COUNTS[-len(costs) :]), np.log(costs), 1)[0])
