"""Any classification model of torchvision as a backbone."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reliability_balance.backbones.extras import require
from reliability_balance.backbones.weights import LoadReport, load_weights, read_weights


class TorchvisionBackbone(nn.Module):
    """A torchvision classifier without its last linear layer.

    Args:
        name: a name that ``torchvision.models.list_models()`` has, of a model that ends in a
            linear layer and gives one output.
        weights: a local file with the model's weights, as torchvision saves them; see
            :func:`weights.read_weights`. None starts at random. Nothing is ever downloaded.
        tokens: None gives the embedding, what enters the last linear layer; otherwise the layer,
            or node of the traced graph, that gives (B, D, H, W) or (B, T, D): ``"layer4"`` of a
            ResNet, ``"features"`` of a ConvNeXt, ``"encoder.ln"`` of a ViT.

    Shape:
        - images: (B, 3, H, W) floating, of a size that the model takes; returns (B, D), or tokens
          (B, T, D), where a feature map becomes its H*W positions.

    State:
        ``load_report`` tells what became of the weight file; None without one.

    Raises:
        ImportError: without torchvision.
        FileNotFoundError: if there is no such weight file.
        ValueError: if torchvision has no such model, it ends in no linear layer or gives more
            than one output, no such layer gives tokens, or the weights do not fit.

    Example:
        >>> import torch
        >>> backbone = TorchvisionBackbone("resnet18")
        >>> backbone.embedding_dim, backbone(torch.randn(2, 3, 64, 64)).shape
        (512, torch.Size([2, 512]))
    """

    load_report: LoadReport | None = None

    def __init__(
        self, name: str, *, weights: str | Path | None = None, tokens: str | None = None
    ) -> None:
        super().__init__()
        models = require("torchvision.models", extra="torchvision")
        if name not in models.list_models(module=models):
            raise ValueError(
                f"`name` must be a classification model of torchvision, see "
                f"torchvision.models.list_models(); got {name!r}"
            )
        model: nn.Module = models.get_model(name, weights=None)
        layers = [
            (path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)
        ]
        if not layers:
            raise ValueError(f"`name` must be a model that ends in a linear layer; got {name!r}")
        if getattr(model, "aux_logits", False):
            raise ValueError(f"`name` must be a model with one output; got {name!r}")
        path, classifier = layers[-1]
        model.set_submodule(path, nn.Identity())
        if weights is not None:
            self.load_report = load_weights(model, read_weights(weights), source=weights)
        self.embedding_dim = classifier.in_features
        self.tokens = tokens
        self.model = model
        if tokens is not None:
            self.model = _cut_at(model, tokens)
            self.embedding_dim = _token_width(self, tokens)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding or the tokens."""
        output = self.model(images)
        features: Tensor = output if self.tokens is None else output[self.tokens]
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features


def _cut_at(model: nn.Module, layer: str) -> nn.Module:
    """Trace the model up to a layer."""
    tracing = require("torchvision.models.feature_extraction", extra="torchvision")
    try:
        cut: nn.Module = tracing.create_feature_extractor(model, [layer])
    except ValueError as error:
        raise ValueError(f"`tokens` must name a layer of the model; got {layer!r}") from error
    return cut


@torch.no_grad()
def _token_width(backbone: nn.Module, layer: str) -> int:
    """Run the model once, on an image of the usual size."""
    output = backbone.eval()(torch.zeros(1, 3, 224, 224))
    backbone.train()
    if output.ndim != 3:
        raise ValueError(
            f"`tokens` must name a layer that gives (B, D, H, W) or (B, T, D); got {layer!r}, "
            f"which gives {tuple(output.shape)}"
        )
    return int(output.shape[-1])
