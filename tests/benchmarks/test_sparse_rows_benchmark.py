"""The benchmark of sparse rows, on a tiny task and on runs that were made up."""

import pandas as pd
import pytest

pytest.importorskip("scipy", reason="the benchmarks need scipy")

from small_task import make_task

from benchmarks.methods.ours import Ours
from benchmarks.questions import sparse_rows
from benchmarks.reports.sparse_rows import report


def test_the_method_stores_what_is_asked_for():
    for kept, expected in ((None, 3), (2, 2)):
        assert Ours(make_task(), 2, is_wrapped=False, kept=kept).targets.kept == expected


def test_the_table_marks_significant_differences():
    lines = [
        {
            **sparse_rows.Run("digits-4k", "clean", kept, seed)._asdict(),
            "accuracy": 90.0 + seed - 0.5 * bool(kept),
            "nll": 0.5 + 0.1 * bool(kept) + 0.01 * seed * bool(kept),
            "ece": 2.0,
            "aurc": 3.0 - seed * bool(kept),
            "wrong_label_auroc": float("nan"),
        }
        for kept in (sparse_rows.ALL, sparse_rows.KEPT)
        for seed in range(3)
    ]
    text = report(pd.DataFrame(lines))
    row = next(line for line in text.splitlines() if line.startswith("| digits-4k"))
    assert "*-0.50 ± 0.00*" in row
    assert "*+0.110 ± 0.025*" in row
    assert "| -1.00 ± 2.48 |" in row
    assert row.endswith("| - |")
    mean = next(line for line in text.splitlines() if line.startswith("| mean"))
    assert "| -0.50 | +0.110 | +0.00 | -1.00 | - |" in mean
