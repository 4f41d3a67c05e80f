"""The examples of one framework each, run on a tiny data set."""

import re

import pytest
import torch
import typer
from idx_files import write_mnist
from typer.testing import CliRunner

from examples import huggingface_trainer, lightning_training, tabular, timm_training

# 48 samples are too few for verdicts.
pytestmark = [
    pytest.mark.filterwarnings("ignore:no verdicts"),
    pytest.mark.filterwarnings("ignore:labels are trained on as given"),
]


@pytest.fixture
def run(tmp_path):
    folder = write_mnist(tmp_path / "data", count=64)

    def invoke(main, *options):
        app = typer.Typer()
        app.command()(main)
        arguments = ["--data", folder, "--count", 48, "--epochs", 4, "--batch-size", 16]
        result = CliRunner().invoke(app, [str(each) for each in (*arguments, *options)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        assert "test accuracy" in result.output
        assert "most doubtful labels: of samples" in result.output

    return invoke


def updates(criterion):
    return criterion["_extra_state"]["targets"]["updates"]


def test_lightning(run, tmp_path):
    run(lightning_training.main, "--out", tmp_path, "--accelerator", "cpu")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    kept = torch.load(checkpoint, weights_only=True)
    learned = kept["state_dict"]["criterion._extra_state"]["targets"]
    assert int(learned["updates"].sum()) == 4 * 48
    run(lightning_training.main, "--accelerator", "cpu", "--out", tmp_path, "--resume", checkpoint)


def test_hugging_face(run, tmp_path):
    run(huggingface_trainer.main, "--out", tmp_path)
    learned = updates(torch.load(tmp_path / "robust_loss.pt", weights_only=True))
    assert int(learned.sum()) == 4 * 48, "evaluation must not count"
    assert (tmp_path / "model.safetensors").is_file()
    run(huggingface_trainer.main, "--out", tmp_path, "--resume")


def test_timm(run, tmp_path):
    run(timm_training.main, "--out", tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert int(updates(saved["criterion"]).max()) >= 4


def test_tabular(capsys):
    tabular.main("wine", rate=0.3, seed=0)
    found = re.search(r"124 rows, 37 labels wrong\n.*AUROC ([.\d]+)\n", capsys.readouterr().out)
    assert float(found[1]) > 0.8
