"""Numbers that settings may have."""

import math

import pytest
import torch

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, RobustLoss, checks
from reliability_balance.labels import RefurbishedTargets, fit_head, mix


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (checks.positive, (1e-300, 0.5, 3, 1e300), (0, -1, -0.0, math.nan, math.inf, -math.inf)),
        (checks.non_negative, (0, 0.0, 2, 1e300), (-1e-300, math.nan, math.inf, -math.inf)),
        (checks.fraction, (0, 0.5, 1 - 1e-16), (1, 1.0, -1e-300, math.nan, math.inf, -math.inf)),
    ],
)
def test_infinity_and_nan_are_refused(check, good, bad):
    for value in good:
        check("setting", value)
    for value in bad:
        with pytest.raises(ValueError, match=f"`setting` must .*; got {value}"):
            check("setting", value)


BALANCER = ReliabilityBalancer(4, 2)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("temperature", lambda: RefurbishedTargets(2, 2, temperature=math.inf)),
        ("noise_temperature", lambda: RefurbishedTargets(2, 2, noise_temperature=math.inf)),
        ("prior_count", lambda: RefurbishedTargets(2, 2, prior_count=math.inf)),
        ("epochs", lambda: RobustLoss(BALANCER, torch.tensor([0, 1]), epochs=math.inf)),
        ("delta", lambda: ReliabilityBalancer(4, 2, delta=math.inf)),
        ("anchor_weight", lambda: ReliabilityLoss(anchor_weight=math.inf)),
        (
            "concentration",
            lambda: mix(
                BALANCER, BALANCER(torch.zeros(2, 4)), torch.eye(2), concentration=math.inf
            ),
        ),
        (
            "learning_rate",
            lambda: fit_head(
                BALANCER, torch.zeros(4, 4), torch.tensor([0, 1, 0, 1]), learning_rate=math.inf
            ),
        ),
        (
            "weight_decay",
            lambda: fit_head(
                BALANCER, torch.zeros(4, 4), torch.tensor([0, 1, 0, 1]), weight_decay=math.inf
            ),
        ),
    ],
)
def test_settings_must_be_finite(name, call):
    with pytest.raises(ValueError, match=f"`{name}` must be finite; got inf"):
        call()
