"""Checkpoints: what is saved comes back, bit for bit, and nothing else is taken for one."""

import pytest
import torch
from torch import nn

from reliability_balance import ReliabilityBalancer, wrap
from reliability_balance.checkpoint import load, save


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def classifier():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_a_balancer_is_rebuilt(path):
    balancer = ReliabilityBalancer(8, 3, metric="euclidean", delta=0.7, head="linear").eval()
    save(path, balancer, class_names=["a", "b", "c"], preprocessing={"mean": [0.5]})
    found = load(path)
    embedding = torch.randn(5, 8)
    assert torch.equal(found.model(embedding).log_probs, balancer(embedding).log_probs)
    assert found.class_names == ("a", "b", "c")
    assert found.preprocessing == {"mean": [0.5]}


def test_a_wrapped_model_is_filled(path):
    saved, other = wrap(classifier()).eval(), wrap(classifier()).eval()
    save(path, saved)
    load(path, other)
    inputs = torch.randn(5, 6)
    assert torch.equal(other(inputs).log_probs, saved(inputs).log_probs)
