"""Plain cross-entropy as a baseline: the same encoder, faces and steps.

    python -m examples.arbex.baseline

trains it on the quick recipe, and writes ``quick_baseline.json``, which the report of that recipe
compares with.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from examples.arbex.configuration import RunConfig, as_plain, load_config, plain_cross_entropy
from examples.arbex.faces.face_table import TEST, FaceTable
from examples.arbex.model_bundle import load_bundle, versions
from examples.arbex.report.evaluation import predict_table
from examples.arbex.report.results import BaselineRun
from examples.arbex.report.scoring import FaceScores, score_faces
from examples.arbex.run_data import load_faces
from examples.arbex.training.fitting import fit
from examples.arbex.training.run_folder import RunFolder
from examples.arbex.training.run_identity import FREE_KEYS, flat
from examples.result_files import save_json

RECORDED = Path(__file__).with_name("quick_baseline.json")
RUN = Path("runs/quick_baseline")
COMMAND = "python -m examples.arbex.baseline"


def train_baseline(
    config: RunConfig, faces: FaceTable, folder: Path, *, accelerator: str = "auto"
) -> BaselineRun | None:
    """Train or resume the baseline of a recipe; judge it on the test faces, if there are any."""
    run = RunFolder(folder)
    fit(plain_cross_entropy(config), faces, run, accelerator=accelerator)
    test = faces.subset(TEST)
    if not len(test):
        return None
    data = config.data
    output = predict_table(
        load_bundle(run.model).model, test, image_size=data.image_size, workers=data.workers
    )
    scores = score_faces(output.corrected, output.log_probs, test.labels, test.distributions)
    right = output.corrected.argmax(-1) == test.labels
    return BaselineRun(scores, right, "trained in the same job")


def recorded_baseline(config: RunConfig, faces: FaceTable) -> BaselineRun | None:
    """Return the recorded baseline, if it is that of this recipe.

    It holds which predictions are right if it was recorded on these test faces; another version of
    torch may draw others.
    """
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    if comparable(as_plain(config)) != comparable(recorded["recipe"]):
        return None
    used = ", ".join(f"{name} {recorded['versions'][name]}" for name in ("torch", "numpy"))
    origin = f"recorded with `{recorded['command']}`, {used}"
    right = None
    if recorded.get("labels") == _digits(faces.subset(TEST).labels):
        right = torch.tensor([each == "1" for each in recorded["right"]])
    else:
        origin += ", on other test faces"
    return BaselineRun(FaceScores(**recorded["scores"]), right, origin)


def _digits(column: Tensor) -> str:
    """Write a column of single digits in one line."""
    return "".join(str(int(each)) for each in column)


def comparable(recipe: dict[str, object]) -> dict[str, object]:
    """Return the values that change the result of a training."""
    telling = ("optimization.epochs", "data.corrections")
    free = tuple(key for key in FREE_KEYS if key not in telling)
    values = flat(recipe).items()
    return {key: each for key, each in values if each is not None and not key.startswith(free)}


def main() -> None:
    """Train the baseline of the quick recipe, or resume it, and record it."""
    config = load_config("quick")
    faces = load_faces(config.data)
    found = train_baseline(config, faces, RUN)
    assert found is not None  # the recipe has test faces
    assert found.right is not None
    content = {
        "command": COMMAND,
        "versions": versions(),
        "recipe": as_plain(config),
        "scores": asdict(found.scores),
        "labels": _digits(faces.subset(TEST).labels),
        "right": _digits(found.right),
    }
    save_json(RECORDED, content)


if __name__ == "__main__":
    main()
