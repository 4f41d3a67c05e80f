"""What the ranks of a distributed run tell each other, and samples that several of them name."""

import torch
from torch import Tensor, distributed, nn


def gather_ranks(
    index: Tensor, labels: Tensor, probs: Tensor
) -> tuple[Tensor, Tensor, Tensor, slice]:
    """Join the batches of all ranks, which may differ in size, in the order of the ranks.

    Args:
        index: this rank's samples.
        labels: their labels as probabilities.
        probs: their predictions.

    Shape:
        - index: (B,); labels, probs: (B, C); returns the three joined, and where this rank's rows
          lie in them. Without a process group, the arguments themselves.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return index, labels, probs, slice(len(index))
    world_size, rank = distributed.get_world_size(), distributed.get_rank()
    sizes = [torch.zeros(1, dtype=torch.int64, device=index.device) for _ in range(world_size)]
    distributed.all_gather(sizes, torch.tensor([len(index)], device=index.device))
    counts = [int(size) for size in sizes]
    start = sum(counts[:rank])
    joined = (_join(index, counts), _join(labels, counts), _join(probs, counts))
    return (*joined, slice(start, start + counts[rank]))


def first_place(index: Tensor) -> Tensor:
    """Where each sample (B,) comes first among the sorted ones: one place for one sample."""
    return torch.searchsorted(index.sort().values, index)


def mean_of_repeated(place: Tensor, rows: Tensor) -> Tensor:
    """Give rows of one place their mean, alike to the bit: it is left open which is stored."""
    counted = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    sums = torch.zeros_like(counted).index_put_((place,), counted, accumulate=True)[place]
    return sums[:, :-1] / sums[:, -1:]


def _join(rows: Tensor, counts: list[int]) -> Tensor:
    """All ranks' rows, padded to one size on the way, since all_gather wants equal shapes."""
    padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
    padded = nn.functional.pad(rows, padding).contiguous()
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded)
    return torch.cat([each[:count] for each, count in zip(gathered, counts, strict=True)])
