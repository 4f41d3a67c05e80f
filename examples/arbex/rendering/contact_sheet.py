"""Draw a contact sheet of a table: faces of each class, with their distributions."""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from examples.arbex.faces.face_table import FaceTable
from examples.result_files import open_result


def contact_sheet(table: FaceTable, path: Path, *, columns: int = 10, seed: int = 0) -> None:
    """Draw faces of each class, with their two most probable classes if known.

    Each row has the faces with one label. If the labels before noise are known, a face with a wrong
    label has its true one in red.

    Args:
        table: the faces.
        path: a PNG file.
        columns: faces of each class.
        seed: of the choice of faces.
    """
    generator = torch.Generator().manual_seed(seed)
    num_rows = len(table.class_names)
    with mpl.rc_context({"font.size": 7, "text.parse_math": False}):
        figure = Figure(figsize=(1.05 * columns + 0.9, 1.25 * num_rows), layout="constrained")
        axes = figure.subplots(num_rows, columns, squeeze=False)
        for label, class_name in enumerate(table.class_names):
            rows = (table.labels == label).nonzero().squeeze(-1)
            chosen = rows[torch.randperm(len(rows), generator=generator)[:columns]].tolist()
            for cell in axes[label]:
                cell.set(xticks=[], yticks=[])
                cell.spines[:].set_visible(False)
            axes[label, 0].set_ylabel(class_name, fontsize=9)
            for cell, row in zip(axes[label], chosen, strict=False):
                cell.imshow(table.images[row].permute(1, 2, 0).numpy())
                text, color = _caption(table, row)
                cell.set_xlabel(text, color=color, fontsize=5.5, labelpad=2)
        with open_result(path) as file:
            figure.savefig(file, dpi=130, format="png")


def _caption(table: FaceTable, row: int) -> tuple[str, str]:
    if table.true_labels is not None and table.true_labels[row] != table.labels[row]:
        return f"is {table.class_names[int(table.true_labels[row])]}", "#c2453d"
    if table.distributions is None:
        return "", "black"
    shares, classes = table.distributions[row].topk(2)
    return (
        "\n".join(
            f"{share:.0%} {table.class_names[index]}"
            for share, index in zip(shares.tolist(), classes.tolist(), strict=True)
            if share > 0.005
        ),
        "0.3",
    )
