"""The folder of a run: what lies where, and what is written down before it begins."""

from dataclasses import dataclass
from pathlib import Path

from configuration import Recipe, dump_recipe, load_recipe
from model_bundle import versions
from result_files import save_json, save_text


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what."""

    root: Path

    @property
    def recipe(self) -> Path:
        """The whole configuration."""
        return self.root / "recipe.yaml"

    @property
    def versions(self) -> Path:
        """Versions of the software."""
        return self.root / "versions.json"

    @property
    def checkpoint(self) -> Path:
        """What `--resume` goes on from."""
        return self.root / "checkpoint.ckpt"

    @property
    def model(self) -> Path:
        """The model of the best epoch on the validation set."""
        return self.root / "model.safetensors"

    @property
    def history(self) -> Path:
        """Metrics of each epoch."""
        return self.root / "history.csv"

    @property
    def has_trained(self) -> bool:
        """Whether training has left anything; a recipe alone is a run that never got going."""
        return any(path.exists() for path in (self.checkpoint, self.model, self.history))


def expect_no_run(folder: RunFolder) -> None:
    """Require a folder where a run may begin: none has trained there.

    A run that never got going may begin anew, by another recipe.

    Raises:
        FileExistsError: if the folder holds a run already, or a recipe that no run wrote.
    """
    if folder.recipe.exists() and not folder.versions.exists():
        raise FileExistsError(
            f"{folder.recipe} was not written by a run, and would be lost: give another --out"
        )
    if folder.has_trained:
        raise FileExistsError(
            f"{folder.root} holds a run already: continue it with --resume, or give another --out"
        )


def begin_run(recipe: Recipe, folder: RunFolder) -> None:
    """Write down what is going to be run.

    Raises:
        FileExistsError: if the folder holds a run already.
    """
    expect_no_run(folder)
    save_json(folder.versions, versions())  # first, as it tells that the recipe is a run's
    save_text(folder.recipe, dump_recipe(recipe))


def recipe_of(folder: RunFolder) -> Recipe:
    """Read what was run.

    Raises:
        FileNotFoundError: if the folder holds no run.
    """
    if not folder.recipe.is_file():
        raise FileNotFoundError(f"`out` must be the folder of a run; got {folder.root}")
    return load_recipe(str(folder.recipe))
