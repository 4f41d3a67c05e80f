"""Calibration, prediction sets, abstention and familiarity, fitted on a model's outputs.

Fit calibrations on data that the model was not trained on. Its labels should be as clean as
possible: wrong labels make the calibrated predictions underconfident.

**Prior.** A small set may hold no error, or errors that the scores separate perfectly. Its
likelihood then has no finite optimum (Albert and Anderson, Biometrika 1984,
https://doi.org/10.1093/biomet/71.1.1), and a fit would turn every prediction into a certainty. So
all scalings are fitted under a weak prior, as Gelman et al. propose for logistic regression (Annals
of Applied Statistics 2008, https://doi.org/10.1214/08-AOAS191). The prior on log T, and on its
counterpart in the other scalings, is normal, centred on the identity, with standard deviation
1 + k. Here k is the number of wrong predictions, or of right ones if these are fewer. That width is
ours. Example: after ten predictions that were all right with p = (.5, .3, .2), the .5 becomes .94,
near the 11/12 of the rule of succession. With hundreds of errors the prior has no measurable
effect.

**Class frequencies.** The predictions of a model that was trained with `class_prior` are for evenly
frequent classes. Held-out data with other frequencies then need importance weights:
``fit(..., class_prior=...)`` weights each sample by the inverse frequency of its class. This fits
the expected likelihood on data with even classes (Shimodaira, Journal of Statistical Planning and
Inference 2000, https://doi.org/10.1016/S0378-3758(00)00115-4). Adjusting the predictions to the
held-out frequencies before the fit would fit the frequent classes instead.

**Guarantee.** On the data that it was fitted on, a scaling never raises the mean negative
log-likelihood (with the weights, without the prior), up to rounding. Each fit is evaluated as it
will be stored, and dropped if it is not better than the uncalibrated predictions.

**Prediction sets.** All are fitted by split conformal prediction, on held-out samples that nothing
else was fitted on. Coverage holds for any model; a poor one only has larger sets.
"""

from reliability_balance.binomial import error_rate_bound
from reliability_balance.calibration.branches import BranchTemperatures
from reliability_balance.calibration.calibrated_model import (
    CalibratedModel,
    CalibratedOutput,
    Calibrator,
    assumes_even_classes,
    calibrate,
)
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
from reliability_balance.calibration.selection_score import SelectionScore
from reliability_balance.calibration.selective import Abstention
from reliability_balance.calibration.top_label import TopLabelScaling

__all__ = [
    "Abstention",
    "BranchTemperatures",
    "CalibratedModel",
    "CalibratedOutput",
    "Calibration",
    "Calibrator",
    "ClassPredictionSets",
    "Familiarity",
    "GroupPredictionSets",
    "PredictionSets",
    "SelectionScore",
    "SelectiveRisk",
    "TemperatureScaling",
    "TopLabelScaling",
    "VectorScaling",
    "area_under_generalized_risk",
    "area_under_risk_coverage",
    "assumes_even_classes",
    "calibrate",
    "error_rate_bound",
    "estimate_class_prior",
    "fit_with_noise",
    "selective_risk",
]
