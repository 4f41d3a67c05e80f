"""RobustLoss in loops of one's own: Accelerate, autocast, accumulation, gradient checkpointing."""

import accelerate
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from reliability_balance import RobustLoss, wrap
from reliability_balance.data import IndexedDataset

COUNT, EPOCHS = 96, 4
LABELS = torch.arange(COUNT) % 3
FEATURES = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(1))
DATA = IndexedDataset(
    TensorDataset(FEATURES + 3 * nn.functional.one_hot(LABELS, 4), LABELS),
)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, features):
        return self.head(checkpoint(self.encoder, features, use_reentrant=False))


def parts():
    torch.manual_seed(0)
    model = wrap(Checkpointed())
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.03)
    return model, RobustLoss(model, LABELS, epochs=EPOCHS), optimizer


def accelerated(folder, first, last, *, resume):
    model, criterion, optimizer = parts()
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.register_for_checkpointing(criterion)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if resume:
        accelerator.load_state(str(folder))
    for epoch in range(first, last):
        torch.manual_seed(epoch)
        for features, labels, index in DataLoader(DATA, 16, shuffle=True):
            loss = criterion(wrapped(features), labels, index)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
    accelerator.save_state(str(folder))
    return model, criterion


def test_accelerate_saves_and_restores_the_criterion(tmp_path):
    model, criterion = accelerated(tmp_path / "whole", 0, EPOCHS, resume=False)
    accelerated(tmp_path / "half", 0, 2, resume=False)
    resumed, learned = accelerated(tmp_path / "half", 2, EPOCHS, resume=True)
    assert learned.progress == criterion.progress == EPOCHS
    for name, value in criterion.targets.state_dict().items():
        assert torch.equal(value, learned.targets.state_dict()[name]), name
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_accumulation_and_gradient_checkpointing(dtype):
    model, criterion, optimizer = parts()
    for _ in range(EPOCHS):
        for step, (features, labels, index) in enumerate(DataLoader(DATA, 8, shuffle=True)):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = criterion(model(features), labels, index)
            (loss / 2).backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert bool((criterion.targets.updates == EPOCHS).all())
    assert not criterion.caution
    predicted = model.eval()(DATA.dataset.tensors[0]).corrected.argmax(-1)
    assert float((predicted == LABELS).float().mean()) > 0.9
