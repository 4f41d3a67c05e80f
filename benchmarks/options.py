"""Options that several questions share."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path(__file__).parent / "results"
CORES = os.cpu_count() or 1

Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds.")]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of each training.")]
Results = Annotated[Path, typer.Option(help="Folder of the results.", show_default=False)]
Quick = Annotated[bool, typer.Option("--quick", help="Only a small part.")]
RenderOnly = Annotated[bool, typer.Option("--render-only", help="Run nothing.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Number of processes.", show_default="one per core")
]
FerPlus = Annotated[Path | None, typer.Option(help="Folder of FER+; see data/human_faces.py.")]
Cifar = Annotated[Path | None, typer.Option(help="Folder of CIFAR-10N; see data/cifar_human.py.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps embeddings.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="A value of the recipe: section.key=value.")
]


def one_of(names: Iterable[str]) -> Any:
    """Return a repeatable option that takes these names."""
    known = list(names)

    def check(given: list[str] | None) -> list[str] | None:
        if unknown := [name for name in given or () if name not in known]:
            raise typer.BadParameter(f"must be of {', '.join(known)}; got {', '.join(unknown)}")
        return given

    return typer.Option(callback=check, help=f"Of: {'; '.join(known)}. Repeatable.")
