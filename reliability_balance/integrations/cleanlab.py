"""Hand-over of issues to cleanlab's Datalab; needs ``cleanlab[datalab]``."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from reliability_balance.labels.issue_checks import CheckResult
from reliability_balance.labels.issues import Issues

if TYPE_CHECKING:
    from cleanlab import Datalab

__all__ = ["fill_datalab"]


def fill_datalab(lab: "Datalab", issues: Issues) -> None:
    """Put the issues into a Datalab, so that its report and its other methods show them.

    They replace what the Datalab found by its own checks of the same names. Checks of your own must
    be registered with cleanlab for ``lab.report()``.

    To let Datalab judge by its own rules instead, pass it our predictions:
    ``lab.find_issues(pred_probs=pred_probs(criterion.targets), features=embeddings.numpy())``.

    Args:
        lab: Datalab of the same samples, in the same order.
        issues: from :func:`labels.find_issues`.

    Raises:
        ValueError: if the Datalab has another number of samples, or other labels.
    """
    count = lab.get_info("statistics")["num_examples"]
    if count != len(issues):
        raise ValueError(f"`lab` must hold the {len(issues)} samples of `issues`; got {count}")
    given = issues.columns().get("given_label")
    if lab.has_labels and given is not None:
        others = int((torch.as_tensor(lab.labels) != given).sum())
        if others:
            raise ValueError(f"`lab` must have the labels of `issues`; got {others} others")
    for name, found in issues.found.items():
        score = float(found.score.mean())
        columns = {f"is_{name}_issue": found.is_issue, f"{name}_score": found.score}
        known = lab.data_issues
        known.issues = known.issues.drop(columns=[each for each in columns if each in known.issues])
        known.issue_summary = known.issue_summary[known.issue_summary["issue_type"] != name]
        known.info.pop(name, None)
        known.collect_issues_from_issue_manager(
            SimpleNamespace(
                issue_name=name,
                issues=pd.DataFrame({key: each.numpy() for key, each in columns.items()}),
                summary=pd.DataFrame({"issue_type": [name], "score": [score]}),
                info=_info(found),
            )
        )
    lab.data_issues.set_health_score()


def _info(found: CheckResult) -> dict[str, Any]:
    """Return what Datalab keeps of an issue beside its columns."""
    info: dict[str, Any] = {name: column.tolist() for name, column in found.details.items()}
    if "near_duplicate_set" in found.details:
        sets: list[list[int]] = [[] for _ in found.score]
        for group in found.groups:
            for sample in group.samples:
                sets[sample] = [each for each in group.samples if each != sample]
        info["near_duplicate_sets"] = sets
    return info
