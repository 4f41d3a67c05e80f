"""Sizes of the encoder."""

from dataclasses import dataclass

from reliability_balance import checks

NUM_SCALES = 3


@dataclass(frozen=True)
class PosterV2Config:
    """Sizes of a window cross-attention encoder, from which the sizes at its scales follow.

    The defaults are those of the published model.

    Args:
        image_size: S, pixels per side of the input of both branches; other images are resampled.
        image_channels: channels of the image.
        widths: channels of the image maps at the three scales, and of their fusion.
        heads: attention heads at the three scales.
        windows_per_side: windows along each side of each map; a map has the square of it. 1 in the
            published model.
        image_units: residual units of the image branch before each of its three maps.
        input_stride: stride of the image branch's first convolution: 1, or 2 to save time.
        landmark_width: channels of the landmark branch's first map.
        landmark_units: residual units of the landmark branch at the three scales.
        token_width: width of the tokens over all scales.
        depth: blocks of self-attention over the tokens.
        token_heads: heads of that self-attention.
        mlp_ratio: hidden width of every MLP, as a multiple of its input's.
        layer_scale: initial value of the layer scale in the fusions, > 0.
        drop_path: drop probability of the fusion's residual branches at the last scale, in [0, 1);
            it grows linearly from 0 at the first.
        reduction_dim: width of the linear reduction after the encoder, 128 in ARBEx. None: no
            reduction.

    Raises:
        TypeError: if a size is not an int.
        ValueError: on sizes below 1, an `image_size` that the windows do not tile, or a width
            that its heads do not divide.

    Example:
        >>> config = PosterV2Config(image_size=64)
        >>> config.map_sizes, config.window_sizes, config.num_tokens
        ((16, 8, 4), (16, 8, 4), 48)
    """

    image_size: int = 112
    image_channels: int = 3
    widths: tuple[int, int, int] = (64, 128, 256)
    heads: tuple[int, int, int] = (2, 4, 8)
    windows_per_side: int = 1
    image_units: tuple[int, int, int] = (3, 4, 14)
    input_stride: int = 1
    landmark_width: int = 64
    landmark_units: tuple[int, int, int] = (4, 6, 2)
    token_width: int = 768
    depth: int = 2
    token_heads: int = 8
    mlp_ratio: float = 4.0
    layer_scale: float = 1e-5
    drop_path: float = 0.25
    reduction_dim: int | None = None

    def __post_init__(self) -> None:
        """Check that the sizes are valid and fit each other."""
        for name in ("image_size", "image_channels", "windows_per_side", "landmark_width"):
            checks.at_least(name, getattr(self, name), 1)
        for name in ("token_width", "depth", "token_heads"):
            checks.at_least(name, getattr(self, name), 1)
        for name in ("widths", "heads", "image_units", "landmark_units"):
            values = getattr(self, name)
            if len(values) != NUM_SCALES:
                raise ValueError(f"`{name}` must have {NUM_SCALES} entries; got {values}")
            for value in values:
                checks.at_least(name, value, 1)
        if self.reduction_dim is not None:
            checks.at_least("reduction_dim", self.reduction_dim, 1)
        if self.input_stride not in (1, 2):
            raise ValueError(f"`input_stride` must be 1 or 2; got {self.input_stride}")
        checks.positive("mlp_ratio", self.mlp_ratio)
        checks.positive("layer_scale", self.layer_scale)
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"`drop_path` must lie in [0, 1); got {self.drop_path}")
        tile = 16 * self.windows_per_side
        if self.image_size % tile:
            raise ValueError(
                f"`image_size` must be a multiple of {tile}, so that the smallest map, a "
                f"sixteenth, has {self.windows_per_side} whole windows per side; "
                f"got {self.image_size}"
            )
        for width, heads in (*zip(self.widths, self.heads, strict=True), self._token_pair):
            if width % heads:
                raise ValueError(
                    f"`heads` must divide the width they share; got {heads} for {width}"
                )

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Return pixels per side of the three maps that are fused."""
        return tuple(self.image_size // stride for stride in (4, 8, 16))

    @property
    def window_sizes(self) -> tuple[int, ...]:
        """Return pixels per side of a window at the three scales."""
        return tuple(size // self.windows_per_side for size in self.map_sizes)

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of all scales; each map is reduced to the smallest size."""
        return NUM_SCALES * self.map_sizes[-1] ** 2

    @property
    def drop_paths(self) -> tuple[float, ...]:
        """Return the drop probabilities of the fusion at the three scales."""
        return tuple(self.drop_path * scale / (NUM_SCALES - 1) for scale in range(NUM_SCALES))

    @property
    def _token_pair(self) -> tuple[int, int]:
        return self.token_width, self.token_heads
