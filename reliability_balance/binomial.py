"""Exact binomial limits."""

import math

import torch

from reliability_balance import checks

HALVINGS = 60  # of an interval, to find a root


def error_rate_bound(errors: int, count: int, delta: float) -> float:
    """Return an upper bound of the true error rate that holds with probability 1 - `delta`.

    The exact binomial (Clopper-Pearson) bound: the rate at which `errors` or fewer errors have
    probability `delta`.

    Args:
        errors: wrong predictions, in [0, count].
        count: predictions.
        delta: probability of a rate above the bound, in (0, 1).

    Raises:
        TypeError: if a count is not an int.
        ValueError: on values out of range.

    Example:
        >>> round(error_rate_bound(0, 100, 0.05), 4)  # 1 - 0.05 ** (1 / 100)
        0.0295
    """
    checks.at_least("errors", errors, 0)
    checks.at_least("count", count, errors)
    checks.open_share("delta", delta)
    if errors == count:
        return 1.0
    k = torch.arange(errors + 1, dtype=torch.float64)
    total = torch.tensor(float(count), dtype=torch.float64)
    log_choices = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)
    low, high = errors / count, 1.0
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        log_terms = log_choices + k * math.log(rate) + (total - k) * math.log1p(-rate)
        if float(log_terms.logsumexp(0)) > math.log(delta):
            low = rate
        else:
            high = rate
    return high
