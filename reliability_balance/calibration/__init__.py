"""Calibration, prediction sets, abstention and familiarity, fitted on a model's outputs."""

from reliability_balance.calibration.branches import BranchTemperatures
from reliability_balance.calibration.familiarity import Familiarity
from reliability_balance.calibration.label_shift import estimate_class_prior
from reliability_balance.calibration.prediction_sets import (
    ClassPredictionSets,
    GroupPredictionSets,
    PredictionSets,
)
from reliability_balance.calibration.risk_coverage import (
    SelectiveRisk,
    area_under_generalized_risk,
    area_under_risk_coverage,
    selective_risk,
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
    "Familiarity",
    "GroupPredictionSets",
    "PredictionSets",
    "SelectiveRisk",
    "TemperatureScaling",
    "TopLabelScaling",
    "VectorScaling",
    "area_under_generalized_risk",
    "area_under_risk_coverage",
    "error_rate_bound",
    "estimate_class_prior",
    "fit_with_noise",
    "selective_risk",
]
