"""Primary heads, from embeddings to logits (Eq. 9)."""

import torch
from torch import Tensor, nn

from reliability_balance import checks


class MLPHead(nn.Module):
    """The MLP head of the paper: hidden layers with ReLU, dropout and batch norm (section 4.3).

    Args:
        embedding_dim: D.
        num_classes: C.
        hidden_dims: widths of the hidden layers; two of 64 in the paper.
        dropout: dropout probability, in [0, 1); 0.5 in the paper.

    Shape:
        - embedding: (B, D) floating; returns (B, C) logits.

    Raises:
        ValueError: on sizes below 1, or on a batch of one in training (batch norm needs two).

    Example:
        >>> import torch
        >>> MLPHead(16, num_classes=3)(torch.randn(2, 16)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        hidden_dims: tuple[int, ...] = (64, 64),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        checks.at_least("embedding_dim", embedding_dim, 1)
        checks.at_least("num_classes", num_classes, 2)
        layers: list[nn.Module] = []
        width = embedding_dim
        for hidden_dim in hidden_dims:
            layers += [
                nn.Linear(width, hidden_dim),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.BatchNorm1d(hidden_dim),
            ]
            width = hidden_dim
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits of Eq. 9, before the softmax."""
        if self.training and embedding.shape[0] == 1:
            raise ValueError(
                "`embedding` must have a batch of at least 2 in training, since the head has "
                "batch norm; got a batch of 1. Set drop_last=True in the loader, or use another "
                "head"
            )
        logits: Tensor = self.layers(embedding)
        return logits


@torch.no_grad()
def add_outputs(layer: nn.Linear, count: int) -> None:
    """Append outputs to a linear layer, initialized as in a new one.

    The parameters stay the same objects, so that an optimizer goes on updating them.
    """
    new = dict(nn.Linear(layer.in_features, count).named_parameters())
    for name, parameter in layer.named_parameters():
        append_rows(parameter, new[name])
    layer.out_features += count


@torch.no_grad()
def append_rows(parameter: nn.Parameter, rows: Tensor) -> None:
    """Append rows to a parameter, in place."""
    grown = torch.cat([parameter, rows.to(parameter)])
    # While a loss of before is alive, autograd keeps expecting gradients of the old shape; it lets
    # go when the dtype changes.
    parameter.data = grown.to(torch.float32 if grown.dtype == torch.float16 else torch.float16)
    parameter.data = grown
    parameter.grad = None
