"""Calibration, prediction sets and abstention, all fitted on held-out predictions."""

from reliability_balance.calibration.branches import BranchTemperatures
from reliability_balance.calibration.label_shift import estimate_class_prior
from reliability_balance.calibration.prediction_sets import (
    ClassPredictionSets,
    GroupPredictionSets,
    PredictionSets,
)
from reliability_balance.calibration.scaling import (
    Calibration,
    TemperatureScaling,
    VectorScaling,
    fit_with_noise,
)
from reliability_balance.calibration.selective import Abstention, error_rate_bound
from reliability_balance.calibration.top_label import TopLabelScaling

__all__ = [
    "Abstention",
    "BranchTemperatures",
    "Calibration",
    "ClassPredictionSets",
    "GroupPredictionSets",
    "PredictionSets",
    "TemperatureScaling",
    "TopLabelScaling",
    "VectorScaling",
    "error_rate_bound",
    "estimate_class_prior",
    "fit_with_noise",
]
