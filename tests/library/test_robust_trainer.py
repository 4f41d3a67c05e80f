"""RobustTrainer: the whole recipe in the Trainer of Hugging Face, and its checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from equal_states import assert_equal_states
from tiny_transformers import sentences, tiny_bert
from transformers import Trainer, TrainerCallback, TrainingArguments

from reliability_balance import RobustLoss, wrap
from reliability_balance.core import get_recipe
from reliability_balance.data import IndexedDataset
from reliability_balance.integrations.transformers import FILE_NAME, RobustTrainer

COUNT = 96


def arguments(folder, **options):
    defaults = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **{**defaults, **options})


def trainer(folder, *, callbacks=None, **options):
    return RobustTrainer(
        tiny_bert(), arguments(folder, **options), train_dataset=sentences(), callbacks=callbacks
    )


def test_it_trains_evaluates_and_predicts(tmp_path):
    judge = trainer(tmp_path, num_train_epochs=6)
    judge.eval_dataset = sentences(10)
    judge.compute_metrics = lambda found: {
        "accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()
    }
    judge.train()
    targets = judge.criterion.targets
    assert torch.equal(targets.updates, torch.full((COUNT,), 6, dtype=torch.int32))
    metrics = judge.evaluate()
    assert metrics["eval_accuracy"] > 0.8
    assert np.isfinite(metrics["eval_loss"])
    assert int(targets.updates.sum()) == 6 * COUNT, "evaluation must not count"
    predicted = judge.predict(sentences(10)).predictions
    np.testing.assert_allclose(np.exp(predicted).sum(-1), 1.0, atol=1e-5)
    unlabelled = [{k: v for k, v in row.items() if k != "label"} for row in sentences(10)]
    np.testing.assert_array_equal(judge.predict(unlabelled).predictions, predicted)
    padded = [
        {
            **row,
            "input_ids": torch.nn.functional.pad(row["input_ids"], (0, 3), value=7),
            "attention_mask": torch.nn.functional.pad(row["attention_mask"], (0, 3)),
        }
        for row in sentences(10)
    ]
    np.testing.assert_allclose(judge.predict(padded).predictions, predicted, atol=1e-5)


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 33:
            raise KeyboardInterrupt


@pytest.mark.parametrize("save_steps", [16, 24])  # within an epoch of 12 steps, and at its end
def test_an_interrupted_training_resumes_bit_equal(tmp_path, save_steps):
    saving = {"save_strategy": "steps", "save_steps": save_steps}
    whole = trainer(tmp_path / "whole", **saving)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "half", callbacks=[Interrupt()], **saving).train()
    resumed = trainer(tmp_path / "half", **saving)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.criterion.progress == 4.0
    assert not resumed.criterion.caution, "labels are doubted"
    assert_equal_states(whole.criterion.state_dict(), resumed.criterion.state_dict())
    assert_equal_states(whole.model.state_dict(), resumed.model.state_dict())


def test_a_checkpoint_without_a_criterion_is_refused(tmp_path):
    saved = trainer(tmp_path, save_strategy="steps", save_steps=48)
    saved.train()
    (path,) = tmp_path.glob(f"checkpoint-48/{FILE_NAME}")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold robust_loss.pt, as RobustTrainer"):
        trainer(tmp_path).train(resume_from_checkpoint=True)
    saved.save_model(tmp_path / "final")
    assert torch.load(tmp_path / "final" / FILE_NAME, weights_only=True)


def test_accumulated_batches_make_the_step_of_one(tmp_path):
    weights = []
    plain = replace(get_recipe("robust"), mixing=None)
    for batch_size, accumulate in ((8, 1), (4, 2)):
        model = tiny_bert(dropout=0.0)
        labels = torch.arange(COUNT) % 3
        options = {
            "max_steps": 1,
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulate,
            "max_grad_norm": 0.0,
            "optim": "sgd",
            "learning_rate": 0.1,
        }
        RobustTrainer(
            model,
            arguments(tmp_path, **options),
            train_dataset=sentences(),
            criterion=RobustLoss(model, labels, epochs=8 / COUNT, recipe=plain),
        ).train()
        weights.append(model.balancer.anchors.detach().clone())
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-6)


def test_epochs_and_labels_come_from_the_training(tmp_path):
    made = trainer(tmp_path, max_steps=40, num_train_epochs=1, gradient_accumulation_steps=2)
    assert made.criterion.epochs == 40 * 16 / COUNT
    made.criterion.check_labels(torch.arange(COUNT) % 3)
    assert trainer(tmp_path, num_train_epochs=7).criterion.epochs == 7
    soft = [{**row, "label": torch.eye(3)[row["label"]].tolist()} for row in sentences()]
    learned = RobustTrainer(tiny_bert(), arguments(tmp_path), train_dataset=soft)
    learned.criterion.check_labels(torch.eye(3)[torch.arange(COUNT) % 3])
    learned.train()
    assert learned.criterion.progress == 4


@pytest.mark.parametrize(
    ("count", "batch_size", "options", "epochs"),
    [
        (103, 51, {"max_steps": 20}, (6 * 103 + 2 * 51) / 103),
        (24, 64, {"max_steps": 6}, 6.0),
        (24, 64, {"max_steps": 6, "gradient_accumulation_steps": 4}, 6.0),
        (40, 8, {"max_steps": 5, "gradient_accumulation_steps": 2}, 1 + 32 / 40),
        (48, 20, {"dataloader_drop_last": True, "num_train_epochs": 3}, 2.5),
        (48, 20, {"dataloader_drop_last": True, "max_steps": 3}, 60 / 48),
        (40, 8, {"num_train_epochs": 1.5}, 1 + 24 / 40),
    ],
)
def test_planned_epochs_are_those_that_are_trained(tmp_path, count, batch_size, options, epochs):
    args = arguments(tmp_path, per_device_train_batch_size=batch_size, **options)
    judge = RobustTrainer(tiny_bert(), args, train_dataset=sentences(count))
    made = judge.criterion
    assert made.epochs == pytest.approx(epochs)
    judge.train()
    assert judge.criterion is made
    assert made.progress == pytest.approx(epochs)


def test_a_data_set_without_a_full_batch_is_refused(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=64, dataloader_drop_last=True)
    with pytest.raises(ValueError, match=r"must hold 64 samples for a step .* got 24"):
        RobustTrainer(tiny_bert(), args, train_dataset=sentences(24))


def test_a_criterion_serves_one_training(tmp_path):
    judge = trainer(tmp_path, num_train_epochs=1)
    judge.train()
    with pytest.raises(ValueError, match=r"`criterion` must be new.* run for 1 epochs"):
        judge.train()
    with pytest.raises(ValueError, match=r"`criterion` must be new.* run for 1 epochs"):
        RobustTrainer(
            judge.model,
            arguments(tmp_path, num_train_epochs=1),
            train_dataset=sentences(),
            criterion=judge.criterion,
        ).train()


def test_a_criterion_of_other_epochs_is_refused_before_a_step(tmp_path):
    model = tiny_bert()
    criterion = RobustLoss(model, torch.arange(COUNT) % 3, epochs=3)
    args = arguments(tmp_path, num_train_epochs=4)
    judge = RobustTrainer(model, args, train_dataset=sentences(), criterion=criterion)
    with pytest.raises(ValueError, match=r"made with epochs=4, .* got epochs=3$"):
        judge.train()
    assert criterion.progress == 0
    close = RobustLoss(model, torch.arange(COUNT) % 3, epochs=3.97)
    judge = RobustTrainer(model, args, train_dataset=sentences(), criterion=close)
    judge.train()
    assert close.progress == 4


def test_what_the_trainer_made_follows_its_loader(tmp_path):
    class Halves(RobustTrainer):
        def get_train_dataloader(self):
            rows = torch.utils.data.Subset(self.train_dataset, range(COUNT // 2))
            return torch.utils.data.DataLoader(rows, 8, collate_fn=self.data_collator)

    judge = Halves(tiny_bert(), arguments(tmp_path), train_dataset=sentences())
    judge.train()
    assert judge.criterion.epochs == judge.criterion.progress == 2


class FailingOnce(RobustTrainer):
    """Out of memory in the second step, as with a long sequence."""

    calls = 0

    def training_step(self, *args, **options):
        loss = super().training_step(*args, **options)
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("CUDA out of memory.")
        return loss


def test_a_restart_with_smaller_batches_has_a_new_criterion(tmp_path):
    args = arguments(tmp_path, auto_find_batch_size=True, max_steps=24)
    judge = FailingOnce(tiny_bert(), args, train_dataset=sentences())
    first = judge.criterion
    judge.train()
    assert first.epochs == 2
    assert first.progress == 16 / COUNT
    assert judge.criterion is not first
    assert judge._train_batch_size < 8
    assert judge.criterion.epochs == judge.criterion.progress < 2
    model = tiny_bert()
    given = RobustLoss(model, torch.arange(COUNT) % 3, epochs=2)
    judge = FailingOnce(model, args, train_dataset=sentences(), criterion=given)
    with pytest.raises(ValueError, match="`auto_find_batch_size` must be False where"):
        judge.train()


def test_gradient_checkpointing_is_that_of_the_wrapped_model(tmp_path):
    weights = []
    for checkpointing in (False, True):
        model = tiny_bert(dropout=0.0)
        args = arguments(tmp_path, gradient_checkpointing=checkpointing, max_steps=3)
        RobustTrainer(model, args, train_dataset=sentences()).train()
        assert model.model.is_gradient_checkpointing == checkpointing
        assert "gradient_checkpointing_enable" not in vars(model)
        weights.append(model.balancer.anchors.detach().clone())
    torch.testing.assert_close(*weights)
    plain = wrap(torch.nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"`gradient_checkpointing` must be False.* a Linear"):
        RobustTrainer(plain, args, train_dataset=sentences())


def test_a_saved_model_is_loaded_as_its_docstring_says(tmp_path):
    judge = trainer(tmp_path, num_train_epochs=1)
    judge.train()
    judge.save_model(tmp_path / "final")
    loaded = tiny_bert()
    path = tmp_path / "final" / "model.safetensors"
    loaded.load_state_dict(pytest.importorskip("safetensors.torch").load_file(path))
    assert_equal_states(judge.model.state_dict(), loaded.state_dict())


def test_labels_of_a_table():
    datasets = pytest.importorskip("datasets")
    from reliability_balance.integrations.transformers import _read_labels

    rows = datasets.table.InMemoryTable.from_pydict({"x": [1.0, 2.0], "label": [1, 0]})
    table = datasets.Dataset(rows, fingerprint="test")
    assert _read_labels(IndexedDataset(table)).tolist() == [1, 0]


def test_labels_that_cannot_be_proven_are_refused(tmp_path):
    def build(dataset):
        return RobustTrainer(tiny_bert(), arguments(tmp_path), train_dataset=dataset)

    rows = sentences()
    pairs = torch.utils.data.TensorDataset(torch.zeros(4, 6).long(), torch.arange(4) % 3)
    for dataset, got in (
        (None, "got None: pass `criterion`"),
        (pairs, "got TensorDataset: pass `criterion`"),
        ([{**row, "labels": 0} for row in rows], "got 'labels' and 'label'"),
        ([{"input_ids": row["input_ids"]} for row in rows], "got neither"),
        ([*rows, {"input_ids": rows[0]["input_ids"]}], "must hold class indices or prob"),
        ([{**row, "label": "good"} for row in rows], "must hold class indices or prob"),
        ([{**row, "label": 7} for row in rows], r"`labels` must lie in \[0, 3\)"),
    ):
        with pytest.raises(ValueError, match=got):
            build(dataset)


def test_what_would_replace_model_or_criterion_is_refused(tmp_path):
    model = tiny_bert()
    criterion = RobustLoss(model, torch.arange(COUNT) % 3, epochs=4)

    def build(wrapped=model, data=None, given=criterion, *, changed=None, **options):
        args = arguments(tmp_path, **(changed or {}))
        return RobustTrainer(
            wrapped, args, train_dataset=data or sentences(), criterion=given, **options
        )

    build(data=IndexedDataset(sentences()))
    with pytest.raises(ValueError, match=r"`model` must be given.*`model_init`"):
        build(None, model_init=tiny_bert)
    with pytest.raises(ValueError, match="`model` must hold one ReliabilityBalancer"):
        build(model.model)
    with pytest.raises(ValueError, match="`criterion` must be made with `model`"):
        build(tiny_bert())
    with pytest.raises(TypeError, match="`criterion` must be a RobustLoss; got str"):
        build(given="robust")
    within = torch.utils.data.Subset(IndexedDataset(sentences()), range(COUNT))
    with pytest.raises(ValueError, match=r"must not hold an IndexedDataset .* got a Subset of one"):
        build(data=within)
    with pytest.raises(ValueError, match=r"must hold the 96 samples .* got 5"):
        build(data=sentences(5))
    with pytest.raises(ValueError, match="`compute_loss_func` must be None"):
        build(compute_loss_func=lambda *_: 0)
    with pytest.raises(ValueError, match="`label_names` must be None or"):
        build(changed={"label_names": ["class"]})
    with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0"):
        build(changed={"label_smoothing_factor": 0.1})


def test_batches_without_index_or_labels_are_refused(tmp_path):
    judge = trainer(tmp_path)
    collate = judge.data_collator
    judge.data_collator = lambda rows: {k: v for k, v in collate(rows).items() if k != "index"}
    with pytest.raises(ValueError, match="must hold 'index' in training; got input_ids"):
        judge.train()
    with pytest.raises(ValueError, match="must hold 'labels'; got input_ids"):
        judge.compute_loss(judge.model, {"input_ids": torch.zeros(1, 3).long()})


def test_it_is_a_trainer():
    assert issubclass(RobustTrainer, Trainer)
