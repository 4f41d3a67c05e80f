"""One palette and one style for all figures and pages, in light and dark."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from examples.result_files import open_result, save_text

LIGHT = {
    "page": "#ffffff",
    "card": "#f6f8fa",
    "line": "#d9dee5",
    "muted": "#5b6472",
    "ink": "#1f2733",
    "ours": "#17708f",
    "other": "#8d97a5",
    "good": "#217a4b",
    "warn": "#8f5b00",
    "bad": "#b3372f",
}
DARK = {
    "page": "#14181d",
    "card": "#1c222a",
    "line": "#353e4a",
    "muted": "#a3acb9",
    "ink": "#e6e9ee",
    "ours": "#4fb3d3",
    "other": "#828d9c",
    "good": "#5cc48d",
    "warn": "#e5b25d",
    "bad": "#ff8f86",
}
DOTS_PER_INCH = 130
WIDTH, HEIGHT = 4.4, 3.2  # inches, of a figure that is legible on a phone

# After Okabe and Ito, for colour-blind readers; 12 classes, all visible on light and dark.
CLASS_COLORS = (
    *("#1f82bd", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"),
    *("#8c6d31", "#8a5cc9", "#b2b000", "#7a7f87", "#b15928", "#7fc97f"),
)


def class_color(index: int) -> str:
    """Return the colour of a class; colours repeat after the twelfth."""
    return CLASS_COLORS[index % len(CLASS_COLORS)]


@contextmanager
def figure_file(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure, sized in inches, and write it as PNG or SVG unless there was an error.

    An SVG follows the reader's colour scheme: each colour of the palette becomes a variable.
    """
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        if path.suffix == ".svg":
            save_text(path, _themed_svg(figure))
        else:
            with open_result(path) as file:
                figure.savefig(file, dpi=DOTS_PER_INCH, format="png")


def _style() -> dict[Any, Any]:  # matplotlib's own type is a list of all its settings
    return {
        "font.size": 9,
        "text.color": LIGHT["ink"],
        "text.parse_math": False,  # class names may have a $
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": LIGHT["line"],
        "axes.labelcolor": LIGHT["muted"],
        "axes.titlecolor": LIGHT["ink"],
        "axes.grid": False,
        "grid.color": LIGHT["line"],
        "grid.linewidth": 0.6,
        "xtick.color": LIGHT["line"],
        "ytick.color": LIGHT["line"],
        "xtick.labelcolor": LIGHT["muted"],
        "ytick.labelcolor": LIGHT["muted"],
        "legend.frameon": False,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "arbex",  # equal figures give equal files
    }


def _themed_svg(figure: Figure) -> str:
    file = StringIO()
    figure.savefig(
        file,
        dpi=2 * DOTS_PER_INCH,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None},
    )
    svg = file.getvalue()
    for name, color in LIGHT.items():
        svg = svg.replace(f": {color}", f": var(--{name})")
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1system-ui, sans-serif", svg)
    light, dark = (
        "".join(f"--{name}: {color}; " for name, color in palette.items())
        for palette in (LIGHT, DARK)
    )
    style = (
        f"<style>:root {{ {light}}} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}</style>"
    )
    return svg.replace("<defs>", f"{style}<defs>", 1)
