"""Measure a trained model: what is idle, what has collapsed, what harms."""

from reliability_balance.diagnosis.diagnostics import Diagnosis, diagnose
from reliability_balance.diagnosis.rules import Finding
from reliability_balance.diagnosis.symptoms import (
    Changes,
    anchor_spacing,
    anchor_use,
    branch_agreement,
    class_shares,
    count_changes,
    non_finite_parameters,
    non_finite_terms,
)

__all__ = [
    "Changes",
    "Diagnosis",
    "Finding",
    "anchor_spacing",
    "anchor_use",
    "branch_agreement",
    "class_shares",
    "count_changes",
    "diagnose",
    "non_finite_parameters",
    "non_finite_terms",
]
