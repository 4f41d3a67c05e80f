"""Training on noisy labels, and what it learns of them: targets, mixing, rankings, estimates."""

from reliability_balance.labels.fitting import fit_head
from reliability_balance.labels.gallery import (
    save_csv,
    save_gallery,
    save_parquet,
    spreadsheet_text,
)
from reliability_balance.labels.inspection import (
    KNOWN_VERDICTS,
    DoubtfulLabel,
    LabelRanking,
    Verdict,
    inspect_embeddings,
    pred_probs,
    rank_labels,
)
from reliability_balance.labels.interval import Interval
from reliability_balance.labels.issue_checks import (
    CHECKS,
    Check,
    CheckInput,
    CheckResult,
    DuplicateSet,
    GroupAgreement,
    NearDuplicates,
    Outliers,
    WeakGroups,
    WrongLabels,
)
from reliability_balance.labels.issues import Issues, find_issues
from reliability_balance.labels.mixing import Mixed, mix
from reliability_balance.labels.noise_estimate import (
    NoiseEstimate,
    estimate_noise,
    noise_from_beliefs,
)
from reliability_balance.labels.noise_rate import noise_rate_bounds
from reliability_balance.labels.posterior import annotator_posterior, label_posterior
from reliability_balance.labels.robust_loss import RobustLoss
from reliability_balance.labels.targets import RefurbishedTargets

__all__ = [
    "CHECKS",
    "KNOWN_VERDICTS",
    "Check",
    "CheckInput",
    "CheckResult",
    "DoubtfulLabel",
    "DuplicateSet",
    "GroupAgreement",
    "Interval",
    "Issues",
    "LabelRanking",
    "Mixed",
    "NearDuplicates",
    "NoiseEstimate",
    "Outliers",
    "RefurbishedTargets",
    "RobustLoss",
    "Verdict",
    "WeakGroups",
    "WrongLabels",
    "annotator_posterior",
    "estimate_noise",
    "find_issues",
    "fit_head",
    "inspect_embeddings",
    "label_posterior",
    "mix",
    "noise_from_beliefs",
    "noise_rate_bounds",
    "pred_probs",
    "rank_labels",
    "save_csv",
    "save_gallery",
    "save_parquet",
    "spreadsheet_text",
]
