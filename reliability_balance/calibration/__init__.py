"""Calibration, prediction sets, abstention and familiarity, fitted on a model's outputs."""

from reliability_balance.calibration.branches import BranchTemperatures
from reliability_balance.calibration.familiarity import Familiarity
from reliability_balance.calibration.scaling import (
    Calibration,
    TemperatureScaling,
    VectorScaling,
    fit_with_noise,
)
from reliability_balance.calibration.selective import Abstention, PredictionSets, error_rate_bound
from reliability_balance.calibration.top_label import TopLabelScaling

__all__ = [
    "Abstention",
    "BranchTemperatures",
    "Calibration",
    "Familiarity",
    "PredictionSets",
    "TemperatureScaling",
    "TopLabelScaling",
    "VectorScaling",
    "error_rate_bound",
    "fit_with_noise",
]
