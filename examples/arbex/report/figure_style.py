"""Common style of all figures, and writing them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from examples.result_files import open_result

RIGHT_COLOR, WRONG_COLOR = "#2e8b57", "#d1495b"
MUTED_COLOR = "#6b7280"
DOTS_PER_INCH = 130

# After Okabe and Ito, for colour-blind readers; 12 classes.
CLASS_COLORS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"),
    *("#8c6d31", "#6a3d9a", "#b2b000", "#444444", "#b15928", "#7fc97f"),
)


@contextmanager
def figure_file(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure, sized in inches, and write it as PNG unless there was an error."""
    style: dict[Any, Any] = {  # matplotlib's own type is a list of all its settings
        "font.size": 9,
        "text.parse_math": False,  # class names may have a $
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED_COLOR,
        "axes.labelcolor": MUTED_COLOR,
        "xtick.color": MUTED_COLOR,
        "ytick.color": MUTED_COLOR,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with open_result(path) as file:
            figure.savefig(file, dpi=DOTS_PER_INCH, format="png")


def class_color(index: int) -> str:
    """Return the colour of a class; colours repeat after the twelfth."""
    return CLASS_COLORS[index % len(CLASS_COLORS)]
