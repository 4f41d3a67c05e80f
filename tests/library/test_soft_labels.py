"""Shares of votes as soft labels: never worse than their majority, in training by targets."""

import pytest
import torch

from reliability_balance import ReliabilityBalancer
from reliability_balance.labels import fit_head

NUM_CLASSES = 10


def voted_digits(seed):
    """Five people of skills .9 to .3 vote, each on half of the digits."""
    datasets = pytest.importorskip("sklearn.datasets", reason="has the digits")
    pixels, true = (torch.tensor(each) for each in datasets.load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(true), generator=generator)
    pixels, true = pixels[order].float() / 16, true[order]
    votes = torch.zeros(len(true), NUM_CLASSES)
    for skill in torch.linspace(0.9, 0.3, 5):
        wrong = (
            true + torch.randint(1, NUM_CLASSES, true.shape, generator=generator)
        ) % NUM_CLASSES
        vote = true.where(torch.rand(len(true), generator=generator) < skill, wrong)
        votes[torch.arange(len(true)), vote] += torch.rand(len(true), generator=generator) < 0.5
    votes[votes.sum(-1) == 0] = 1.0 / NUM_CLASSES
    tied = votes + 1e-3 * torch.rand(votes.shape, generator=generator)
    soft, majority = votes / votes.sum(-1, keepdim=True), tied.argmax(-1)
    return pixels[:1200], true[1200:], soft[:1200], majority[:1200], pixels[1200:]


def test_shares_of_votes_are_not_worse_than_the_majority():
    accuracies = {"soft": [], "majority": []}
    for seed in range(2):
        pixels, true, soft, majority, test = voted_digits(seed)
        for name, labels in (("soft", soft), ("majority", majority)):
            torch.manual_seed(seed)
            balancer = ReliabilityBalancer(64, NUM_CLASSES)
            fit_head(balancer, pixels, labels, learning_rate=1e-2)
            right = (balancer(test).corrected.argmax(-1) == true).float().mean()
            accuracies[name].append(float(right))
    soft, majority = (torch.tensor(each).mean() for each in accuracies.values())
    assert soft > majority - 0.015, accuracies
    assert soft > 0.9, accuracies
