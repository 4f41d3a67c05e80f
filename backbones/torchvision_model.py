"""Any torchvision classification model as a backbone."""

from collections import OrderedDict
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from reliability_balance.backbones.extras import require
from reliability_balance.backbones.weights import LoadReport, load_weights, read_weights

HEAD_NAMES = ("classifier", "fc", "head", "heads")


class TorchvisionBackbone(nn.Module):
    """A torchvision classifier without its last linear layer.

    Args:
        name: a name in ``torchvision.models.list_models()``, of a model with one output, from a
            linear layer.
        weights: a local file with the model's weights, as torchvision saves them; see
            :func:`read_weights`. None: random initialisation. Nothing is downloaded.
        tokens: False: the embedding, which is the input of the last linear layer. True: the
            positions of the last feature map; transformers have none.

    Shape:
        - images: (B, 3, H, W) floating, of a size that the model accepts; returns (B, D), or tokens
          (B, T, D).

    State:
        ``load_report`` lists which weights of the file were loaded; None without a file.

    Raises:
        ImportError: without torchvision.
        FileNotFoundError: if there is no such weight file.
        ValueError: if torchvision has no such model, the model does not end in a linear layer, has
            several outputs or no feature map for tokens, or the weights do not match.

    Example:
        >>> import torch
        >>> backbone = TorchvisionBackbone("resnet18")
        >>> backbone.embedding_dim, backbone(torch.randn(2, 3, 64, 64)).shape
        (512, torch.Size([2, 512]))
    """

    load_report: LoadReport | None = None

    def __init__(
        self, name: str, *, weights: str | Path | None = None, tokens: bool = False
    ) -> None:
        super().__init__()
        models = require("torchvision.models", extra="torchvision")
        if name not in models.list_models(module=models):
            raise ValueError(
                f"`name` must be a classification model of torchvision, see "
                f"torchvision.models.list_models(); got {name!r}"
            )
        model: nn.Module = models.get_model(name, weights=None)
        linear = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
        if not linear or getattr(model, "aux_logits", False):
            raise ValueError(
                f"`name` must be a model with one output, from a linear layer; got {name!r}"
            )
        path, classifier = linear[-1]
        model.set_submodule(path, nn.Identity())
        self.embedding_dim = classifier.in_features
        if weights is not None:
            self.load_report = load_weights(model, read_weights(weights), source=weights)
        self.tokens = tokens
        self.model = model
        if tokens:
            self.model = _without_pooling(model)
            if isinstance(model, models.DenseNet):  # it applies ReLU in its own forward
                self.model.append(nn.ReLU())
            self.embedding_dim = _map_width(self.model, name)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding or the tokens."""
        features: Tensor = self.model(images)
        return features.flatten(2).transpose(1, 2) if self.tokens else features


def _without_pooling(model: nn.Module) -> nn.Sequential:
    """Return the children before pooling and head, which these models run in order."""

    def is_tail(child: tuple[str, nn.Module]) -> bool:
        return child[0] in HEAD_NAMES or isinstance(child[1], nn.AdaptiveAvgPool2d)

    return nn.Sequential(
        OrderedDict(takewhile(lambda child: not is_tail(child), model.named_children()))
    )


def _map_width(features: nn.Module, name: str) -> int:
    """Return the width of the feature map, from one forward pass."""
    try:
        with torch.no_grad():
            feature_map: Tensor = features.eval()(torch.zeros(1, 3, 224, 224))
    except (AssertionError, NotImplementedError) as error:
        raise ValueError(f"`tokens` needs a model with a feature map; got {name!r}") from error
    features.train()
    return feature_map.shape[1]
