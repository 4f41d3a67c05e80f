"""Rendered faces of which some are mislabelled and some ambiguous."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from examples.arbex.faces.face_table import TRAIN
from examples.arbex.rendering.rendered_faces import PRESETS, rendered_faces

# A face is ambiguous if its most probable class has less than this share; a label is wrong if it
# has less than that share.
AMBIGUOUS_BELOW, WRONG_BELOW = 0.6, 0.05
# A harder case: a label drawn from the face's own distribution that is not its most probable class.
MINORITY_BELOW = 0.75


class Kinds(NamedTuple):
    """Which faces (N,) are of each kind.

    Mislabelled: noise replaced the label by one of (almost) no probability. Ambiguous: the label
    was drawn from the face's own distribution, which has no clear maximum. Minority: it was drawn,
    and is not the most probable class of a distribution that is not clear.
    """

    mislabelled: Tensor
    ambiguous: Tensor
    minority: Tensor


class AmbiguousFaces(NamedTuple):
    """Images (N, 3, H, W), labels (N,) as given and before noise, and distributions (N, C)."""

    images: Tensor
    labels: Tensor
    before_noise: Tensor
    distributions: Tensor

    @property
    def replaced(self) -> Tensor:
        """Which labels noise has replaced."""
        return self.labels != self.before_noise

    def kinds(self) -> Kinds:
        """Return the kinds of faces."""
        replaced = self.replaced
        share = self.distributions.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        likeliest = self.distributions.amax(1)
        return Kinds(
            replaced & (share < WRONG_BELOW),
            ~replaced & (likeliest < AMBIGUOUS_BELOW),
            ~replaced & (likeliest < MINORITY_BELOW) & (share < likeliest),
        )


def ambiguous_faces(seed: int) -> AmbiguousFaces:
    """Render 6,000 faces with blended expressions, and 20 % of the labels replaced."""
    settings = replace(
        PRESETS["easy"],
        num_faces=6000,
        image_size=48,
        validation_share=0.02,
        test_share=0.02,
        ambiguity=0.6,
        label_noise=0.2,
        seed=seed,
    )
    table = rendered_faces(settings).subset(TRAIN)
    assert table.distributions is not None and table.true_labels is not None  # noqa: PT018
    images = torch.stack([table.images[row] for row in range(len(table))]).float() / 127.5 - 1
    return AmbiguousFaces(images, table.labels, table.true_labels, table.distributions)
