"""The folder of a run: its files, and what is written before training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from examples.arbex.configuration import RunConfig, dump_config, load_config
from examples.arbex.faces.face_table import Correction
from examples.arbex.model_bundle import versions
from examples.arbex.readers.corrections import save_corrections
from examples.result_files import save_json, save_text


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    root: Path

    @property
    def recipe(self) -> Path:
        """Path of the complete configuration."""
        return self.root / "recipe.yaml"

    @property
    def corrections(self) -> Path:
        """Path of the corrected labels that training applied, if any."""
        return self.root / "trained_corrections.csv"

    @property
    def versions(self) -> Path:
        """Path of the software versions."""
        return self.root / "versions.json"

    @property
    def checkpoint(self) -> Path:
        """Path of the resume point."""
        return self.root / "checkpoint.ckpt"

    @property
    def model(self) -> Path:
        """Path of the model of the best epoch on the validation set."""
        return self.root / "model.safetensors"

    @property
    def history(self) -> Path:
        """Path of the metrics of each epoch."""
        return self.root / "history.csv"

    @property
    def has_trained(self) -> bool:
        """Whether training has left any result; with only a recipe, it never started."""
        return any(path.exists() for path in (self.checkpoint, self.model, self.history))


def expect_no_run(folder: RunFolder) -> None:
    """Require a folder without results of training.

    A run that never started training can be replaced, also with another recipe.

    Raises:
        FileExistsError: if the folder holds a run already, or a recipe that no run wrote.
    """
    if folder.recipe.exists() and not folder.versions.exists():
        raise FileExistsError(
            f"{folder.recipe} was not written by a run and would be lost: choose another --out"
        )
    if folder.has_trained:
        raise FileExistsError(
            f"{folder.root} holds a run already: resume it with --resume, or choose another --out"
        )


def begin_run(config: RunConfig, corrections: Sequence[Correction], folder: RunFolder) -> None:
    """Write the configuration of a new run, and the corrected labels that it read.

    Raises:
        FileExistsError: if the folder holds a run already.
    """
    expect_no_run(folder)
    save_json(folder.versions, versions())  # first, since it marks the recipe as that of a run
    if config.data.corrections is None:
        folder.corrections.unlink(missing_ok=True)
    else:
        save_corrections(folder.corrections, corrections)
    save_text(folder.recipe, dump_config(config))


def config_of(folder: RunFolder) -> RunConfig:
    """Read the recipe of a run; its corrected labels are those of the run's copy.

    Raises:
        FileNotFoundError: if the folder holds no run.
    """
    if not folder.recipe.is_file():
        raise FileNotFoundError(f"`out` must be the folder of a run; got {folder.root}")
    config = load_config(str(folder.recipe))
    if config.data.corrections is None or not folder.corrections.exists():
        return config
    return replace(config, data=replace(config.data, corrections=folder.corrections))
