"""The examples of one framework each, run on a tiny data set."""

import re

import huggingface_trainer
import lightning_training
import pytest
import tabular
import timm_training
import torch
import typer
from idx_files import write_mnist
from typer.testing import CliRunner

from reliability_balance import wrap
from reliability_balance.targets import RefurbishedTargets


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

    return invoke


def test_lightning(run, tmp_path):
    run(lightning_training.main, "--out", tmp_path, "--accelerator", "cpu")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    kept = torch.load(checkpoint, weights_only=True)
    assert int(kept["callbacks"]["RefurbishLabels"]["updates"].sum()) == 4 * 48
    assert not any("targets" in name for name in kept["state_dict"])


def test_hugging_face(run, tmp_path):
    run(huggingface_trainer.main, "--out", tmp_path)
    targets = torch.load(tmp_path / "targets.pt", weights_only=True)
    assert int(targets["updates"].sum()) == 4 * 48, "evaluation must not count"
    assert (tmp_path / "model.safetensors").is_file()


def test_hugging_face_accumulates_means(tmp_path):
    """Two batches of 4 that are accumulated make the step of one batch of 8."""
    weights = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        torch.manual_seed(0)
        transformer = huggingface_trainer.tiny_transformer(torch.Size((1, 8, 8)), 3)
        model = wrap(transformer, 3, head="linear")
        samples = [
            {"pixel_values": torch.randn(1, 8, 8), "labels": i % 3, "index": i} for i in range(8)
        ]
        trainer = huggingface_trainer.BalancedTrainer(
            RefurbishedTargets(8, 3),
            model=model,
            args=huggingface_trainer.TrainingArguments(
                str(tmp_path),
                max_steps=1,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulate,
                max_grad_norm=0.0,
                optim="sgd",
                learning_rate=0.1,
                remove_unused_columns=False,
                label_names=["labels"],
                report_to=[],
                save_strategy="no",
            ),
            train_dataset=samples,
        )
        trainer.train()
        weights.append(model.balancer.anchors.detach().clone())
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-5)


def test_timm(run, tmp_path):
    run(timm_training.main, "--out", tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=True)


def test_tabular(capsys):
    tabular.main("wine", rate=0.3, seed=0)
    found = re.search(r"124 rows, 37 labels wrong\n.*AUROC ([.\d]+)\n", capsys.readouterr().out)
    assert float(found[1]) > 0.8


def test_hugging_face_refuses_a_training_within_the_warm_up(tmp_path):
    def trainer(**options):
        model = wrap(huggingface_trainer.tiny_transformer(torch.Size((1, 8, 8)), 3), 3)
        args = huggingface_trainer.TrainingArguments(str(tmp_path), report_to=[], **options)
        targets = RefurbishedTargets.for_long_training(8, 3)
        return huggingface_trainer.BalancedTrainer(targets, model=model, args=args)

    with pytest.raises(ValueError, match=r"`epochs` must exceed .* of 10 updates; got 6"):
        trainer(num_train_epochs=6)
    trainer(num_train_epochs=11)
    trainer(num_train_epochs=6, max_steps=5)
