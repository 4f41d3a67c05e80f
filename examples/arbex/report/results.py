"""The results of a run, in numbers: ``metrics.json`` holds them, and the report shows them.

Rates, accuracies and ECE are in percent; doubts, plausibilities and confidences are in [0, 1].
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from examples.arbex.report.evaluation import Evaluation
from examples.arbex.report.scoring import FaceScores
from reliability_balance.calibration.calibrated_model import IDENTITY
from reliability_balance.diagnosis import Finding

FIRST = 100  # doubtful labels that are listed, and that the precision is given of


class Rate(NamedTuple):
    """A share in percent, with the limits of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BaselineRun:
    """The same encoder under plain cross-entropy, with the same faces and steps."""

    scores: FaceScores
    right: Tensor | None  # which predictions of the test faces are right, (N,) bool; None: unknown
    origin: str  # "trained in the same job", or by which command and when


@dataclass(frozen=True)
class Baseline:
    """How a run compares with its baseline."""

    scores: FaceScores  # of the baseline
    lead: Rate | None  # accuracy of the run less the baseline's, face by face; None: not known so
    origin: str


@dataclass(frozen=True)
class DoubtfulFace:
    """A training face whose label is likely wrong."""

    row: int  # in the training split
    name: str
    given: str
    suggested: str
    doubt: float  # probability that the given label is wrong
    plausibility: float  # near 0: clearly another class; near 0.5: ambiguous
    verdict: str  # "mislabelled", "ambiguous", "undoubted" or "unknown"
    truth: str | None  # the label before noise was added, if known


@dataclass(frozen=True)
class FoundLabels:
    """How the ranking of doubtful labels agrees with the labels before noise was added."""

    num_wrong: int
    num_found: int  # wrong labels that are called mislabelled
    precision: float | None  # of the labels called mislabelled; None: there are none
    precision_of_first: float  # of the `FIRST` most doubtful labels
    auroc: float | None  # of the doubt; None: all labels are right, or all are wrong
    average_precision: float | None


@dataclass(frozen=True)
class DoubtfulLabels:
    """The training labels, ranked by doubt; all of them are in ``doubtful_labels.csv``."""

    num_labels: int
    num_mislabelled: int
    num_ambiguous: int
    noise_rate: Rate | None  # estimated share of wrong labels
    caution: str  # why there are no verdicts; empty if there are
    first: list[DoubtfulFace]  # the most doubtful, at most `FIRST`
    found: FoundLabels | None  # None: the true labels are unknown


@dataclass(frozen=True)
class ReliabilityBin:
    """Test faces whose highest probability falls in one of 15 equal bins."""

    confidence: float  # mean highest probability, percent
    accuracy: float
    count: int


@dataclass(frozen=True)
class CalibrationResult:
    """Corrected predictions before and after calibration on the validation faces."""

    method: str
    num_fitted: int  # every other validation face
    before: FaceScores
    after: FaceScores
    bins_before: list[ReliabilityBin]
    bins_after: list[ReliabilityBin]

    @property
    def is_fitted(self) -> bool:
        """Whether it changes the probabilities: with few faces, nothing may be worth fitting."""
        return self.method != IDENTITY


@dataclass(frozen=True)
class RiskPoint:
    """Error rate among the most confident share of the test faces."""

    coverage: float
    risk: float


@dataclass(frozen=True)
class SelectiveResult:
    """Error rate when the model may answer "not sure"."""

    aurc: float  # mean of the curve's error rates
    curve: list[RiskPoint]  # by coverage, at most 100 points
    max_risk: float  # error rate that the threshold keeps below, with 95 % probability
    threshold: float | None  # of the calibrated probability of the predicted class; None: none
    coverage: float  # share of the test faces at or above the threshold
    risk: float | None  # error rate among these; None: there are none


@dataclass(frozen=True)
class RunResults:
    """All results of a run; a part is None if the run lacks the data for it."""

    evaluation: Evaluation
    baseline: Baseline | None = None
    doubtful: DoubtfulLabels | None = None
    calibration: CalibrationResult | None = None
    selective: SelectiveResult | None = None
    findings: tuple[Finding, ...] = ()  # what to look at next; empty: no problem was found
