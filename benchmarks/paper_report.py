"""Render the runs of paper_tables.py with the paper's figures, and test each claim."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from measures import accuracy_by_seed, mean_and_interval, paired_differences, show_mean
from paper_setups import ANCHORS

from examples.result_files import save_text

# Tables 1-4 of the paper: accuracy in percent, by number of anchors K, noise and smoothing.
PAPER_BY_ANCHORS = dict(
    zip(
        (*ANCHORS, 20),
        (68.92, 70.74, 70.95, 71.03, 71.11, 71.16, 71.18, 71.21, 71.21, 69.43),
        strict=True,
    )
)
PAPER_BY_NOISE = {  # noise: (K = 0, K = 8)
    0: (68.92, 71.24),
    5: (68.41, 70.72),
    10: (67.7, 70.52),
    15: (63.69, 67.01),
    20: (54.99, 60.31),
    25: (50.36, 51.66),
    30: (41.18, 44.49),
    35: (36.94, 38.26),
    40: (34.12, 36.43),
    50: (30.92, 34.29),
}
PAPER_BY_SMOOTHING = {  # smoothing: (K = 0, K = 8)
    0: (68.92, 71.24),
    5: (69.16, 71.86),
    10: (69.18, 72.44),
    11: (69.18, 72.47),
    15: (69.03, 71.96),
    18: (68.64, 71.18),
    20: (67.50, 71.12),
    25: (64.27, 67.09),
    30: (61.75, 63.57),
    35: (59.34, 61.16),
    40: (55.83, 56.65),
    50: (50.88, 51.70),
}
PAPER_BY_FACTOR = {1.0: 89.6, 100.0: 47.9, 0.01: 82.3, 0.0: 88.5}

Lines = list[dict[str, Any]]


def write_report(lines: Lines, results: Path) -> str:
    """Write `paper_tables.md` and return it."""
    parts = [
        "# The paper's ablations",
        "",
        'By `python benchmarks/paper_tables.py`: `recipe="paper"` behind a small perceptron, '
        "test accuracy in percent at the last epoch, ± 95 % intervals over seeds. Gains are paired "
        "by seed. K = 0 is the head alone, the paper's baseline, so a gain is that of anchors and "
        "attention together. The paper's figures are for AffWild2 (Tables 1-3) and a data set that "
        "it does not name (Table 4).",
    ]
    for data in sorted({line["data"] for line in lines}):
        these = [line for line in lines if line["data"] == data]
        parts += [
            "",
            f"## {data}, {len({line['seed'] for line in these})} seeds",
            *_anchors(these),
            *_gains(these, "Table 2: does K = 8 help more under noise?", "noise", PAPER_BY_NOISE),
            *_gains(these, "Table 3: K = 8 and label smoothing", "smoothing", PAPER_BY_SMOOTHING),
            *_factors(these),
        ]
    text = "\n".join(parts) + "\n"
    save_text(results / "paper_tables.md", text)
    return text


def _anchors(lines: Lines) -> list[str]:
    rows = [
        (str(k), f"{paper:.2f}", f"{paper - PAPER_BY_ANCHORS[0]:+.2f}", accuracy, gain)
        for k, paper in PAPER_BY_ANCHORS.items()
        if (accuracy := _accuracy(lines, num_anchors=k)) is not None
        and (gain := _gain(lines, k)) is not None
    ]
    heads = ("K", "paper %", "paper's gain", "ours %", "our gain")
    verdict = f"K = 8 against K = 0, clean labels: {_verdict(_differences(lines, 8).values())}."
    return _section("Table 1: number of anchors", heads, rows, verdict)


def _gains(lines: Lines, title: str, name: str, paper: dict[int, tuple[float, float]]) -> list[str]:
    rows = []
    for value, (none, eight) in paper.items():
        ours = _accuracy(lines, num_anchors=0, **{name: value})
        differences = list(_differences(lines, 8, **{name: value}).values())
        if ours is not None and differences:
            gain = show_mean(differences, 2, "+")
            row = (f"{none:.2f}", f"{eight - none:+.2f}", ours, gain, _verdict(differences))
            rows.append((str(value), *row))
    heads = (f"{name} %", "paper K = 0 %", "paper's gain", "ours K = 0 %", "our gain", "K = 8")
    return _section(title, heads, rows, _more_than_without(lines, name, paper))


def _more_than_without(lines: Lines, name: str, paper: dict[int, tuple[float, float]]) -> str:
    """Return how much the gain of K = 8 changes with noise or smoothing, paired by seed."""
    without, *levels = paper
    printed = {level: eight - none for level, (none, eight) in paper.items()}
    papers = fmean(printed[level] for level in levels) - printed[without]
    ours = {level: _differences(lines, 8, **{name: level}) for level in paper}
    seeds = set.intersection(*(set(gains) for gains in ours.values()))
    more = [
        fmean(ours[level][seed] for level in levels) - ours[without][seed] for seed in sorted(seeds)
    ]
    here = show_mean(more, 2, "+") if more else "not run yet"
    return (
        f"What K = 8 gains changes with {name} (mean of {levels[0]} to {levels[-1]} %) by "
        f"{papers:+.2f} points in the paper; here: {here}."
    )


def _factors(lines: Lines) -> list[str]:
    rows = [
        (f"x{factor:g}", f"{paper:.1f}", ours)
        for factor, paper in PAPER_BY_FACTOR.items()
        if (ours := _accuracy(lines, smoothing=11, anchor_factor=factor)) is not None
    ]
    heads = ("weight of the anchor loss", "paper %", "ours %")
    return _section("Table 4: weight of the anchor loss", heads, rows, "")


def _section(
    title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], conclusion: str
) -> list[str]:
    if not rows:
        return ["", f"### {title}", "", "Not run yet."]
    table = ["| " + " | ".join(row) + " |" for row in (heads, ("---",) * len(heads), *rows)]
    return ["", f"### {title}", "", *table, *(["", conclusion] if conclusion else [])]


def _select(lines: Lines, wanted: dict[str, float]) -> dict[int, float]:
    """Return the accuracy by seed of one cell; other fields have their defaults."""
    cell = {"num_anchors": 8, "noise": 0, "smoothing": 0, "anchor_factor": 1.0, **wanted}
    return accuracy_by_seed(lines, cell)


def _accuracy(lines: Lines, **wanted: float) -> str | None:
    values = list(_select(lines, wanted).values())
    return show_mean(values, 2) if values else None


def _differences(lines: Lines, num_anchors: int, **wanted: float) -> dict[int, float]:
    """Return the gain over K = 0 in the same setting, by seed."""
    ours = _select(lines, {**wanted, "num_anchors": num_anchors})
    base = _select(lines, {**wanted, "num_anchors": 0})
    return paired_differences(ours, base)


def _gain(lines: Lines, num_anchors: int, **wanted: float) -> str | None:
    differences = list(_differences(lines, num_anchors, **wanted).values())
    return show_mean(differences, 2, "+") if differences else None


def _verdict(differences: Iterable[float]) -> str:
    mean, interval = mean_and_interval(list(differences))
    if interval != interval:
        return "one seed, no verdict"
    if mean - interval > 0:
        return "helps"
    return "hurts" if mean + interval < 0 else "no significant difference"
