"""The paper's ablations as constructor arguments: number of anchors, noise, smoothing, weight."""

import time
from typing import Any, NamedTuple

import torch
from measures import prediction_measures
from noisy_data import Task, symmetric
from robustness_runs import predict, train
from shared_encoder import EMBEDDING_DIM, make_encoder
from tasks import DATA
from torch import Tensor, nn

from reliability_balance import BalancerOutput, ReliabilityBalancer, ReliabilityLoss
from reliability_balance.core import get_recipe

PAPER = get_recipe("paper")


class Setup(NamedTuple):
    """One cell of a table. Noise and smoothing in percent, as the paper prints them."""

    num_anchors: int = 8
    noise: int = 0
    smoothing: int = 0
    anchor_factor: float = 1.0
    data: str = "fashion-10k"
    seed: int = 100
    epochs: int = 30


# Numbers of anchors that the report compares under noise and smoothing.
COMPARED = (0, 8)
ANCHORS = (0, 1, 2, 3, 4, 5, 6, 8, 10)
TABLES: dict[int, list[Setup]] = {
    1: [Setup(num_anchors=k) for k in (*ANCHORS, 20)],
    2: [Setup(k, noise=n) for n in (0, 5, 10, 15, 20, 25, 30, 35, 40, 50) for k in ANCHORS],
    3: [
        Setup(k, smoothing=s)
        for s in (0, 5, 10, 11, 15, 18, 20, 25, 30, 35, 40, 50)
        for k in ANCHORS
    ],
    4: [Setup(smoothing=11, anchor_factor=f) for f in (1.0, 100.0, 0.01, 0.0)],
}


class PaperModel(nn.Module):
    """The paper's balancer and losses on the shared encoder."""

    def __init__(self, task: Task, setup: Setup) -> None:
        super().__init__()
        self.encoder = make_encoder(task.inputs.shape[1])
        self.balancer = ReliabilityBalancer(
            EMBEDDING_DIM,
            task.num_classes,
            num_anchors=setup.num_anchors,
            recipe="paper",
            # Without anchors the paper has no correction at all: its baseline.
            attention=None if setup.num_anchors else "off",
        )
        self.criterion = ReliabilityLoss(
            recipe="paper",
            label_smoothing=setup.smoothing / 100,
            anchor_weight=setup.anchor_factor * PAPER.anchor_weight,
        )

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        loss: Tensor = self.criterion(self.predict(inputs), labels).total
        return loss

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.predict(inputs).log_probs

    def predict(self, inputs: Tensor) -> BalancerOutput:
        output: BalancerOutput = self.balancer(self.encoder(inputs))
        return output


def do_setup(setup: Setup) -> dict[str, Any]:
    """Train one cell to the last epoch and evaluate it."""
    torch.set_num_threads(1)
    task = symmetric(setup.noise / 100)(DATA[setup.data](setup.seed), setup.seed)
    torch.manual_seed(setup.seed)
    model = PaperModel(task, setup)
    start = time.perf_counter()
    train(model, task, setup.epochs)
    seconds = round(time.perf_counter() - start, 1)
    judged = prediction_measures(predict(model, task.test_inputs), task.test_labels)
    return {**setup._asdict(), "seconds": seconds, **judged}
