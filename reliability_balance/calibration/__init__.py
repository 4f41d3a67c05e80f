"""Calibration, prediction sets and abstention, all fitted on held-out predictions."""

from reliability_balance.calibration.branches import BranchTemperatures
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
    "PredictionSets",
    "TemperatureScaling",
    "TopLabelScaling",
    "VectorScaling",
    "error_rate_bound",
    "fit_with_noise",
]
