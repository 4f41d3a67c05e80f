"""Compare states to the bit."""

from collections.abc import Mapping
from typing import Any

import torch


def assert_equal_states(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Require the same names and, to the bit, the same values."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        elif isinstance(value, dict):
            assert_equal_states(value, second[name])
        else:
            assert value == second[name], name
