"""k-means, to initialize the anchors."""

import torch
from torch import Tensor

ITERATIONS = 20


def k_means(points: Tensor, num_clusters: int) -> Tensor:
    """Compute cluster centres by Lloyd's algorithm, starting at random points.

    Randomness comes from torch's global generator.

    Args:
        points: the points of one class.
        num_clusters: K. With fewer points than clusters, some centres start at the same point, and
            all centres get a small jitter so that they can diverge in training.

    Shape:
        - points: (N, D) floating, N >= 1; returns (K, D).

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> k_means(points, 2).sort(0).values.flatten()
        tensor([ 0.5000, 10.5000])
    """
    if num_clusters == 1:
        return points.mean(0, keepdim=True)
    rounds = -(-num_clusters // len(points))
    orders = [torch.randperm(len(points), device="cpu") for _ in range(rounds)]
    centers = points[torch.cat(orders)[:num_clusters].to(points.device)]
    if rounds > 1:
        spread = points.std(0, correction=0).mean() + points.abs().mean()
        centers = centers + 1e-2 * spread * torch.randn_like(centers)
    for _ in range(ITERATIONS):
        nearest = torch.cdist(points, centers).argmin(-1)
        members = torch.nn.functional.one_hot(nearest, num_clusters).to(points.dtype)
        counts = members.sum(0).unsqueeze(-1)
        means = (members.T @ points) / counts.clamp_min(1)
        centers = means.where(counts > 0, centers)
    return centers
