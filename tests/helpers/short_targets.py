"""Targets for a few epochs: a short warm-up, and doubts of all classes alike."""

from typing import Any

from reliability_balance.labels import RefurbishedTargets

SHORT = {
    "momentum": 0.9,
    "temperature": 0.5,
    "noise_temperature": 1.0,
    "prior_count": 0.0,
    "warmup": 3,
    "held_back": 0.0,
}


def short_targets(num_samples: int, num_classes: int, **options: Any) -> RefurbishedTargets:
    """Targets of these settings, but for the options."""
    return RefurbishedTargets(num_samples, num_classes, **{**SHORT, **options})
