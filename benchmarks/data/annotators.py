"""Simulated annotators of unequal quality, each with their own confusions; and votes."""

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_ANNOTATORS, MOST_LABELS = 10, 4


def annotator_matrices(num_classes: int, generator: torch.Generator) -> Tensor:
    """Draw noise matrices (A, C, C): 40 to 90 % right, with up to ±10 points per class.

    Most errors go to a few wrong classes, which differ between annotators.
    """
    quality = torch.linspace(0.4, 0.9, NUM_ANNOTATORS).view(-1, 1)
    by_class = torch.rand(NUM_ANNOTATORS, num_classes, generator=generator)
    right = (quality + 0.2 * (by_class - 0.5)).clamp(0.3, 0.98)
    wrong = torch.rand(NUM_ANNOTATORS, num_classes, num_classes, generator=generator) ** 4
    wrong.diagonal(dim1=1, dim2=2).zero_()
    matrices = (1.0 - right).unsqueeze(-1) * wrong / wrong.sum(-1, keepdim=True)
    return matrices + torch.diag_embed(right)


def draw_labels(classes: Tensor, matrices: Tensor, generator: torch.Generator) -> Tensor:
    """Draw labels (N, A), -1 for none: 1 to 4 for each sample, from random annotators."""
    every = torch.stack(
        [torch.multinomial(m[classes], 1, generator=generator).squeeze(1) for m in matrices], 1
    )
    count = torch.randint(1, MOST_LABELS + 1, (len(classes), 1), generator=generator)
    order = torch.rand(every.shape, generator=generator).argsort(1).argsort(1)
    return every.where(order < count, -1)


def vote_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return the votes for each class (N, C)."""
    return F.one_hot(labels + 1, num_classes + 1)[..., 1:].sum(1)


def majority(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Return the most frequent label (N,); ties are broken at random."""
    counts = vote_counts(labels, num_classes).float()
    return (counts + 0.5 * torch.rand(counts.shape, generator=generator)).argmax(1)
