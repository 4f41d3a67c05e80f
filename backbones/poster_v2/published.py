"""Parts that the published model stores besides the encoder, so that its weights load by name."""

from torch import nn

from reliability_balance.backbones.poster_v2.encoder import PosterV2
from reliability_balance.backbones.poster_v2.layers import named
from reliability_balance.backbones.poster_v2.mobilefacenet import MobileFaceNet, conv_norm

NUM_LANDMARK_COORDINATES = 136  # 68 points
PUBLISHED_MAP = 7  # pixels per side of the smallest map, at any image size here
# Prefixes of weights that the encoder does not use, so that a file may lack them.
PUBLISHED_REST = (
    "VIT.head.",
    "VIT.patch_embed.",
    "VIT.CON1.",
    "VIT.IRLinear1.",
    "VIT.IRLinear2.",
    "VIT.eca_block.",
    "VIT.blocks.0.conv.",
    "VIT.blocks.1.conv.",
    "ir_back.output_layer.",
    "face_landback.output_layer.",
)


def add_published_rest(encoder: PosterV2, num_classes: int) -> None:
    """Register the published head and the unused parts under their published names.

    All are frozen: an optimiser would keep state for them, and distributed training would wait
    for their gradients. To train the head, call ``VIT.head.requires_grad_()``.

    Args:
        encoder: the encoder to add them to; its forward is unchanged.
        num_classes: outputs of the head.
    """
    config, vit = encoder.config, encoder.VIT
    width, wide = config.token_width, config.widths[-1]

    vit.add_module("head", _frozen(named(linear=nn.Linear(width, num_classes))))
    vit.add_module("patch_embed", _frozen(named(proj=nn.Conv2d(wide, width, 1))))
    vit.add_module("CON1", _frozen(nn.Conv2d(wide, width, 1, bias=False)))
    vit.add_module("IRLinear1", _frozen(nn.Linear(1024, width)))
    vit.add_module("IRLinear2", _frozen(nn.Linear(width, 512)))
    vit.add_module("eca_block", _frozen(named(conv=nn.Conv1d(1, 1, 5, bias=False))))
    for block in vit.blocks:
        num_tokens = 1 + config.num_tokens
        block.add_module("conv", _frozen(nn.Conv1d(num_tokens, num_tokens, 1)))

    face_features = 512
    encoder.ir_back.add_module(
        "output_layer",
        _frozen(
            nn.Sequential(
                nn.BatchNorm2d(face_features),
                nn.Identity(),
                nn.Identity(),
                nn.Linear(face_features * PUBLISHED_MAP**2, face_features),
                nn.BatchNorm1d(face_features),
            )
        ),
    )
    landmarks = encoder.face_landback
    if isinstance(landmarks, MobileFaceNet):
        channels = landmarks.widths[-1]
        landmarks.add_module(
            "output_layer",
            _frozen(
                named(
                    conv_6_dw=conv_norm(channels, channels, PUBLISHED_MAP, 1, groups=channels),
                    linear=nn.Linear(channels, NUM_LANDMARK_COORDINATES, bias=False),
                    bn=nn.BatchNorm1d(NUM_LANDMARK_COORDINATES),
                )
            ),
        )


def _frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)
