"""Alternate measurements: other load on the machine affects both sides of each ratio."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SHORTEST_SAMPLE = 0.01  # seconds; shorter calls are repeated within a sample
MOST_CALLS = 1000


@dataclass(frozen=True)
class Estimate:
    """A median over the rounds with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    rounds: int


def alternate(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; every other round is in reverse order."""
    counts = {name: _calls_in_a_sample(call, clock) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order:
                start = clock()
                for _ in range(counts[name]):
                    calls[name]()
                seconds[name].append((clock() - start) / counts[name])
            order.reverse()
            gc.collect()
    finally:
        gc.enable()
    return seconds


def _calls_in_a_sample(call: Callable[[], object], clock: Callable[[], float]) -> int:
    for _ in range(3):
        call()  # warm-up
    start = clock()
    call()
    once = max(clock() - start, 1e-6)
    return min(max(round(SHORTEST_SAMPLE / once), 1), MOST_CALLS)


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """Return the median over the rounds, with an interval from 2,000 bootstrap samples."""
    sample = np.asarray(values)
    chosen = np.random.default_rng(seed).integers(len(sample), size=(2000, len(sample)))
    low, high = np.percentile(np.median(sample[chosen], axis=1), [2.5, 97.5])
    return Estimate(statistics.median(values), float(low), float(high), len(values))


def single(value: float) -> Estimate:
    """Return a figure that was measured once."""
    return Estimate(value, value, value, 1)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """Estimate the ratio of two times, round by round."""
    return estimate([one / other for one, other in zip(numerator, denominator, strict=True)])


def exponent(sizes: Sequence[float], seconds: Sequence[Sequence[float]]) -> Estimate:
    """Estimate b of cost = a size^b; `seconds` has the rounds of each size."""
    logs = np.log(sizes)
    slopes = [np.polyfit(logs, np.log(costs), 1)[0] for costs in zip(*seconds, strict=True)]
    return estimate([float(slope) for slope in slopes])
