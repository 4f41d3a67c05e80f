"""A disk that takes no more: an error that names the file, and the old file stays as it was."""

import pytest
import torch
from full_disk import largest_file
from tiny_training import tiny_recipe, train_tiny

from examples.arbex.face_model import build_model
from examples.arbex.model_bundle import load_bundle, save_bundle
from examples.arbex.serving.prediction import FacePrediction, prediction_files
from examples.arbex.training.run_keeping import AtomicCheckpointIO
from examples.result_files import save_json
from reliability_balance import ReliabilityBalancer
from reliability_balance.checkpoint import save

RECIPE = tiny_recipe()


def write_predictions(folder):
    with prediction_files(folder, ("a", "b")) as write:
        for number in range(500):
            write([FacePrediction(f"{number}.jpg")])


WRITERS = {
    "metrics.json": lambda path: save_json(path, list(range(5000))),
    "checkpoint.ckpt": lambda path: AtomicCheckpointIO().save_checkpoint(
        {"weight": torch.ones(5000)}, path
    ),
    "model.safetensors": lambda path: save_bundle(path, build_model(RECIPE, 2), RECIPE, ("a", "b")),
    "balancer.safetensors": lambda path: save(path, ReliabilityBalancer(64, 2)),
    "predictions.csv": lambda path: write_predictions(path.parent),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_old_file_stays(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    with largest_file(3000), pytest.raises(OSError, match=r"File too large|disk full"):
        WRITERS[name](path)
    assert {each: each.read_bytes() for each in before} == before
    # What a prediction had until then is beside them, and nothing else is.
    left = {each.name.partition("-")[0] for each in tmp_path.iterdir()} - {e.name for e in before}
    assert left == ({"predictions.part"} if name == "predictions.csv" else set())


def test_training_stops_and_keeps_what_it_had(tmp_path):
    folder = train_tiny(tmp_path, tiny_recipe(epochs=1))
    before = {path: path.read_bytes() for path in (folder.checkpoint, folder.model)}
    with largest_file(5000), pytest.raises(OSError, match=r"checkpoint.ckpt could not be written"):
        train_tiny(tmp_path, tiny_recipe(epochs=2))
    assert {path: path.read_bytes() for path in before} == before
    load_bundle(folder.model)
    train_tiny(tmp_path, tiny_recipe(epochs=2))
    assert len(folder.history.read_text().splitlines()) == 3
