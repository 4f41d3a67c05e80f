"""A batch that does not fit: the error names the way out, and what was saved before is kept."""

import pytest
import torch
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe, train_tiny

from examples.arbex.face_model import FaceModel
from examples.arbex.model_bundle import load_bundle
from examples.arbex.report.evaluation import predict_table
from examples.arbex.training.balanced_training import BalancedTraining


def out_of_memory(*args):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_training_tells_what_to_lower_and_goes_on(tmp_path, monkeypatch):
    step = BalancedTraining.training_step

    def failing_step(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 4:
            out_of_memory()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(BalancedTraining, "training_step", failing_step)
    with pytest.raises(MemoryError, match=r"lower optimization\.batch_size, which is 8"):
        train_tiny(tmp_path, tiny_recipe(epochs=2))
    monkeypatch.undo()
    assert torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)["global_step"] > 0
    load_bundle(tmp_path / "model.safetensors")
    folder = train_tiny(tmp_path, tiny_recipe(epochs=2))
    assert len(folder.history.read_text().splitlines()) == 3


def test_evaluation_tells_the_way_out(tmp_path, monkeypatch):
    model = load_bundle(train_tiny(tmp_path, tiny_recipe(epochs=1)).model).model
    monkeypatch.setattr(FaceModel, "forward", out_of_memory)
    with pytest.raises(MemoryError, match="out of memory: try --device cpu"):
        predict_table(model, synthetic_table(), image_size=16)
