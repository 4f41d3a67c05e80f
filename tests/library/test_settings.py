"""Modules declare all of their settings, and `repr` shows them."""

import inspect

import pytest
import torch

from reliability_balance import ReliabilityLoss
from reliability_balance.calibration import TemperatureScaling
from reliability_balance.checkpoint.rebuilding import BUILDABLE
from reliability_balance.core import AttentiveCorrection

NOT_SETTINGS = {"dtype", "group", "validate_args"}


@pytest.mark.parametrize("kind", [*BUILDABLE.values(), AttentiveCorrection, ReliabilityLoss])
def test_every_argument_is_a_setting(kind):
    defaults = {"recipe"} if kind is ReliabilityLoss else set()  # a recipe fills in the others
    assert kind.SETTINGS.keys() == (
        inspect.signature(kind).parameters.keys() - NOT_SETTINGS - defaults
    )


def test_a_loss_is_rebuilt_from_its_settings():
    criterion = ReliabilityLoss(
        recipe="paper",
        class_weights=torch.tensor([1.0, 2.0]),
        ignore_index=7,
        anchor_margin=1.5,
        softmin_temperature=0.5,
    )
    again = ReliabilityLoss(**criterion.settings())
    assert repr(again) == repr(criterion)
    assert "ignore_index=7, anchor_margin=1.5, softmin_temperature=0.5" in repr(criterion)


def test_attention_is_rebuilt_from_its_settings():
    attention = AttentiveCorrection(12, 3, mode="single", num_heads=2, head_dim=5)
    again = AttentiveCorrection(**attention.settings())
    again.load_state_dict(attention.state_dict())
    assert repr(again) == repr(attention)


def test_fitted_values_on_the_meta_device_are_shown_without_a_value():
    assert repr(TemperatureScaling().to("meta")) == "TemperatureScaling(temperature=...)"
