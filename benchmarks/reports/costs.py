"""Tables of measured costs, one for each part of a question."""

from typing import Any

from benchmarks.tables import markdown, page

HEADS = ("what", "size", "figure", "95 % interval", "ms", "asked for")
RATIOS = (
    "Each figure is the first cost as a multiple of the second, median and 95 % interval, both "
    "sides in turn: processor time of one thread, or the clock where a GPU is named. ms: of the "
    "first. In bold: above what was asked for."
)


def report(parts: dict[str, Any], title: str, introduction: str) -> str:
    """Format the figures of each part."""
    text = [introduction]
    for name, part in parts.items():
        machine = ", ".join(f"{key} {value}" for key, value in part["machine"].items())
        text += [f"## {name}", f"{part['about']} {machine}."]
        text.append(markdown(HEADS, map(row, part["findings"])))
    return page(title, *text)


def row(finding: dict[str, Any]) -> list[str]:
    """Format one figure."""
    figure, limit = finding["estimate"], finding["limit"]
    value = f"{figure['value']:.3g}"
    if limit is not None and round(figure["value"], 3) > limit:
        value = f"**{value}**"
    milliseconds = finding["milliseconds"]
    return [
        *(finding["question"], finding["setup"], value),
        f"{figure['low']:.3g} to {figure['high']:.3g}",
        "" if milliseconds is None else f"{milliseconds:.3g}",
        "" if limit is None else f"≤ {limit}",
    ]
