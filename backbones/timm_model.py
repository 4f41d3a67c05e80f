"""Any timm model as a backbone."""

import difflib
from pathlib import Path

from torch import Tensor, nn

from reliability_balance.backbones.extras import require
from reliability_balance.backbones.weights import LoadReport, load_weights, read_weights


class TimmBackbone(nn.Module):
    """A timm model without its classifier.

    Args:
        name: a name in ``timm.list_models()``.
        weights: a local file with the model's weights, as timm saves them, for `image_channels`
            channels; see :func:`read_weights`. None: random initialisation. Nothing is downloaded.
        tokens: False: timm's pooled embedding. True: the tokens before pooling, those of a
            transformer with its prefix tokens, or the H*W positions of a feature map.
        image_channels: channels of the image.

    Shape:
        - images: (B, image_channels, H, W) floating, of a size that the model accepts; returns
          (B, D), or tokens (B, T, D).

    State:
        ``load_report`` lists which weights of the file were loaded; None without a file.

    Raises:
        ImportError: without timm.
        FileNotFoundError: if there is no such weight file.
        ValueError: if timm has no such model, or the weights do not match.

    Example:
        >>> import torch
        >>> backbone = TimmBackbone("test_vit")
        >>> backbone.embedding_dim, backbone(torch.randn(2, 3, 160, 160)).shape
        (64, torch.Size([2, 64]))
    """

    load_report: LoadReport | None = None

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        tokens: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        timm = require("timm", extra="timm")
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models()) or ["see timm.list_models()"]
            raise ValueError(
                f"`name` must be a model of timm; got {name!r}. Close: {', '.join(near)}"
            )
        self.model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=0, in_chans=image_channels
        )
        if weights is not None:
            self.load_report = load_weights(self.model, read_weights(weights), source=weights)
        self.tokens = tokens
        # Some models have one more layer after pooling, which changes the width.
        self.embedding_dim = int(self.model.num_features if tokens else self.model.head_hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding or the tokens."""
        features: Tensor = self.model.forward_features(images)  # type: ignore[operator]
        if self.tokens:
            return self._as_tokens(features)
        embedding: Tensor = self.model.forward_head(features)  # type: ignore[operator]
        return embedding

    def _as_tokens(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            return features
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)
