"""Means, paired differences and Markdown tables of runs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats

TORCH = f"torch {torch.__version__}"
MEANS = "Means ± 95 % intervals by Student's t over seeds"


class Interval(NamedTuple):
    """A mean and half the width of its 95 % interval by Student's t; NaN for a single value.

    Formats as `mean ± half`, both with the digits of the format; as "-" if there are no values.

    Example:
        >>> f"{interval([1.0, 2.0, 3.0]):+.1f}"
        '+2.0 ± 2.5'
    """

    mean: float
    half: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.mean) > self.half

    def mark(self, *, is_gain: bool = True) -> str:
        """Return ** if significantly better (bold), * if significantly worse (italic)."""
        return ("**" if (self.mean > 0) == is_gain else "*") if self.is_significant else ""

    def marked(self, spec: str, *, is_gain: bool = True) -> str:
        """Format with the mark around it."""
        mark = self.mark(is_gain=is_gain)
        return f"{mark}{self:{spec}}{mark}"

    def __format__(self, spec: str) -> str:
        if np.isnan(self.mean):
            return "-"
        half = "" if np.isnan(self.half) else f" ± {self.half:{spec.removeprefix('+')}}"
        return f"{self.mean:{spec}}{half}"


def interval(values: Iterable[float]) -> Interval:
    """Return the mean of independent values with its 95 % interval; missing ones are left out."""
    sample = np.asarray(list(values), dtype=float)
    sample = sample[~np.isnan(sample)]
    mean = float(sample.mean()) if len(sample) else float("nan")
    if len(sample) < 2:
        return Interval(mean, float("nan"))
    return Interval(mean, float(stats.t.ppf(0.975, len(sample) - 1) * stats.sem(sample)))


def paired(
    runs: pd.DataFrame, others: pd.DataFrame, measure: str, other_measure: str | None = None
) -> Interval:
    """Return the difference of two methods in a measure, paired by the seeds that both have."""
    theirs = others.set_index("seed")[measure if other_measure is None else other_measure]
    return interval(runs.set_index("seed")[measure] - theirs)


class Measure(NamedTuple):
    """A column: its title and format, and whether higher is better."""

    title: str
    spec: str = ".1f"
    is_gain: bool = True


Measures = Mapping[str, Measure]


def means(runs: pd.DataFrame, measures: Measures) -> list[str]:
    """Return a cell for each measure: its mean with interval."""
    return [f"{interval(runs[name]):{measure.spec}}" for name, measure in measures.items()]


def known(runs: pd.DataFrame, measures: Measures) -> Measures:
    """Return the measures that all of these runs have."""
    return {
        name: measure
        for name, measure in measures.items()
        if name in runs and runs[name].notna().all()
    }


def unfolded(runs: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """Return the runs by method, of a column that has a dict of measures for each method."""
    methods = runs[column].iloc[0]
    return {
        name: pd.DataFrame([found[name] for found in runs[column]]).assign(seed=runs["seed"].array)
        for name in methods
    }


def by_accuracy(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of each method, the most accurate method first."""
    methods = {str(name): part for name, part in runs.groupby("method", sort=False)}
    return dict(sorted(methods.items(), key=lambda item: -item[1]["accuracy"].mean()))


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table; cells are shown as they are, without padding."""
    table = pd.DataFrame([[str(cell) for cell in row] for row in rows], columns=list(heads))
    padded = table.to_markdown(index=False, disable_numparse=True)
    return re.sub(r" +\|", " |", re.sub(r":-+\|", ":---|", padded))


def page(title: str, *parts: str) -> str:
    """Join paragraphs, headings and tables to a page."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"
