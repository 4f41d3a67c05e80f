"""Classification, anchor and centre loss, and their weighted sum (Eq. 20-23)."""

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance import checks, numerics
from reliability_balance import functional as RF
from reliability_balance.core.class_prior import log_frequencies
from reliability_balance.core.output import BalancerOutput, check_output
from reliability_balance.core.recipes import Recipe, RecipeName, get_recipe
from reliability_balance.core.settings import Configured


class AnchorLoss(nn.Module):
    """Loss that pushes the anchors apart (Eq. 21); see :func:`functional.anchor_loss`.

    Args:
        margin: None: no margin, as in the paper; otherwise the distance, > 0, above which the loss
            is 0.
        same_class: include pairs of the same class; True in the paper.
        reduction: "sum" as printed, or "mean" over the pairs.

    Shape:
        - anchors: (C, K, D) floating; returns ().

    Raises:
        TypeError: if `anchors` is not a floating tensor.
        ValueError: on a wrong shape, margin <= 0, or an unknown reduction.

    Differs from paper: not with reduction="sum".

    Example:
        >>> AnchorLoss()(torch.tensor([[[0.0]], [[2.0]]]))
        tensor(-2.)
    """

    def __init__(
        self,
        *,
        margin: float | None = None,
        same_class: bool = True,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if margin is not None:
            checks.positive("margin", margin)
        checks.one_of("reduction", reduction, ("mean", "sum"))
        self.margin = margin
        self.same_class = same_class
        self.reduction = reduction

    def forward(self, anchors: Tensor) -> Tensor:
        """Return the loss of these anchors."""
        return RF.anchor_loss(
            anchors, margin=self.margin, same_class=self.same_class, reduction=self.reduction
        )


class CenterLoss(nn.Module):
    """Loss that pulls embeddings to the nearest anchor of their class (Eq. 22).

    See :func:`functional.center_loss`.

    Args:
        metric: "euclidean" (paper) or "cosine".
        softmin_temperature: None: the minimum, as in the paper; > 0: a soft minimum.
        ignore_index: samples with this index label are ignored.
        reduction: "mean", "sum" or "none".
        validate_args: check values, which synchronizes with the device.

    Shape:
        - embedding: (B, D); anchors: (C, K, D); labels: (B,) int64 or (B, C) floating; returns ()
          or (B,).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Example:
        >>> anchors = torch.tensor([[[0.0]], [[5.0]]])
        >>> CenterLoss()(torch.tensor([[3.0]]), anchors, torch.tensor([1])).round(decimals=4)
        tensor(4.)
    """

    def __init__(
        self,
        *,
        metric: RF.Metric = "euclidean",
        softmin_temperature: float | None = None,
        ignore_index: int = -100,
        reduction: RF.Reduction = "mean",
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        checks.one_of("metric", metric, RF.METRICS)
        if softmin_temperature is not None:
            checks.positive("softmin_temperature", softmin_temperature)
        checks.one_of("reduction", reduction, ("mean", "sum", "none"))
        self.metric = metric
        self.softmin_temperature = softmin_temperature
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.validate_args = validate_args

    def forward(self, embedding: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of this batch."""
        return RF.center_loss(
            embedding,
            anchors,
            labels,
            metric=self.metric,
            softmin_temperature=self.softmin_temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            validate_args=self.validate_args,
        )


class LossTerms(NamedTuple):
    """The total of Eq. 23 and its unweighted terms, each of shape ()."""

    total: Tensor
    classification: Tensor
    anchor: Tensor
    center: Tensor
    branches: Tensor


class ReliabilityLoss(Configured):
    r"""The training loss of a balancer: weighted sum of Eq. 20, 21 and 22 (Eq. 23).

    .. math:: L = \lambda_{cls} L_{cls} + \lambda_a L_a + \lambda_c L_c + \lambda_b L_b

    where L_cls is the negative log-likelihood of the corrected distribution, L_a the anchor loss,
    L_c the centre loss and L_b the sum of the negative log-likelihoods of the single branches.
    Arguments that are None default to the recipe's value.

    With `class_prior`, every branch is trained with logit adjustment (Menon et al., 2021,
    https://arxiv.org/abs/2007.07314): the loss is that of :func:`core.with_class_prior`, so
    that the output itself learns to assume a uniform class prior.

    Args:
        recipe: "robust", "paper", or a :class:`core.Recipe`; should be that of the balancer.
        classification_weight: weight of L_cls, >= 0.
        anchor_weight: weight of L_a, >= 0.
        center_weight: weight of L_c, >= 0.
        branch_weight: weight of L_b, >= 0; 0 in the paper. It trains each branch on its own, so
            that none relies on another.
        label_smoothing: label smoothing, in [0, 1).
        class_weights: weight of each class in L_cls and L_b, of shape (C,), >= 0, as in
            ``torch.nn.CrossEntropyLoss``.
        ignore_index: samples with this index label are ignored.
        anchor_margin: see :func:`functional.anchor_loss`; None: as in the paper.
        softmin_temperature: see :func:`functional.center_loss`; None: as in the paper.
        validate_args: check the values of the labels, which synchronizes with the device.

    Shape:
        - output: a :class:`BalancerOutput`; labels: (B,) int64 in [0, C), or (B, C) probabilities;
          class_prior: (C,), class frequencies in training, or None: no logit adjustment; returns
          :class:`LossTerms`.

    State:
        ``class_weights`` (C,), a constant buffer.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes, labels out of range, or weights out of range.

    Differs from paper: L_b, which recipe="paper" leaves out. An empty or fully ignored batch has
    loss 0.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> balancer, criterion = ReliabilityBalancer(16, 3), ReliabilityLoss()
        >>> terms = criterion(balancer(torch.randn(4, 16)), torch.tensor([0, 1, 2, 0]))
        >>> terms.total.backward()
        >>> terms._fields
        ('total', 'classification', 'anchor', 'center', 'branches')
    """

    class_weights: Tensor | None

    SETTINGS: ClassVar = {
        "classification_weight": float,
        "anchor_weight": float,
        "center_weight": float,
        "branch_weight": float,
        "label_smoothing": float,
        "class_weights": Tensor | None,
        "ignore_index": int,
        "anchor_margin": float | None,
        "softmin_temperature": float | None,
    }

    def __init__(
        self,
        *,
        recipe: RecipeName | Recipe = "robust",
        classification_weight: float = 1.0,
        anchor_weight: float | None = None,
        center_weight: float | None = None,
        branch_weight: float | None = None,
        label_smoothing: float | None = None,
        class_weights: Tensor | None = None,
        ignore_index: int = -100,
        anchor_margin: float | None = None,
        softmin_temperature: float | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        defaults = get_recipe(recipe)
        self.classification_weight = classification_weight
        self.anchor_weight = defaults.anchor_weight if anchor_weight is None else anchor_weight
        self.center_weight = defaults.center_weight if center_weight is None else center_weight
        self.branch_weight = defaults.branch_weight if branch_weight is None else branch_weight
        for name in ("classification_weight", "anchor_weight", "center_weight", "branch_weight"):
            checks.non_negative(name, getattr(self, name))
        self.label_smoothing = (
            defaults.label_smoothing if label_smoothing is None else label_smoothing
        )
        checks.fraction("label_smoothing", self.label_smoothing)
        if softmin_temperature is not None:
            checks.positive("softmin_temperature", softmin_temperature)
        if class_weights is not None:
            checks.floating("class_weights", class_weights)
            checks.rank("class_weights", class_weights, "(C,)", 1)
            checks.finite("class_weights", class_weights)
            checks.non_negative("class_weights", float(class_weights.min()))
        self.register_buffer("class_weights", class_weights)
        self.ignore_index = ignore_index
        self.anchor_loss = AnchorLoss(margin=anchor_margin)
        self.softmin_temperature = softmin_temperature
        self.validate_args = validate_args

    @property
    def anchor_margin(self) -> float | None:
        """Margin of the anchor loss; None: no margin."""
        return self.anchor_loss.margin

    def forward(
        self, output: BalancerOutput, labels: Tensor, *, class_prior: Tensor | None = None
    ) -> LossTerms:
        """Return the total loss of this batch and its terms."""
        self._check(output, labels, class_prior)
        log_prior = None if class_prior is None else log_frequencies(class_prior)
        return self.compute(output, labels, log_prior)

    def compute(
        self, output: BalancerOutput, labels: Tensor, log_prior: Tensor | None
    ) -> LossTerms:
        """Compute Eq. 23 for a checked batch, given the logarithm of the class prior."""
        scores = [output.log_probs]
        if self.branch_weight > 0:
            own = (output.logits, output.anchor_log_probs, output.attentive_log_probs)
            scores += [each for each in own if each is not None]
        classification, *branch_losses = self._negative_log_likelihoods(scores, labels, log_prior)
        zero = torch.zeros_like(classification)
        branches = sum(branch_losses[1:], branch_losses[0]) if branch_losses else zero
        anchor = center = zero
        if output.anchors is not None and output.distances is not None:
            anchor = self.anchor_loss(output.anchors)
            center = RF.nearest_anchor_loss(
                output.distances,
                labels,
                softmin_temperature=self.softmin_temperature,
                ignore_index=self.ignore_index,
                validate_args=False,
            )
        total = self.classification_weight * classification
        total = total.add(anchor, alpha=self.anchor_weight)
        total = total.add(center, alpha=self.center_weight)
        total = total.add(branches, alpha=self.branch_weight)
        return LossTerms(total, classification, anchor, center, branches)

    def _negative_log_likelihoods(
        self, scores: list[Tensor], labels: Tensor, log_prior: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Compute Eq. 20 for each of R logits or log-probabilities, which softmax leaves as is."""
        # Stacked to (R, C, B): fewer small operations, and torch does not vectorize rows of few
        # classes.
        stacked = torch.stack([numerics.widen(each).T for each in scores])
        if log_prior is not None:
            stacked = stacked + log_prior.to(stacked).unsqueeze(-1)
        # Finite, so that a soft label of 0 contributes 0 at a class with logit minus infinity.
        stacked = stacked.clamp_min(torch.finfo(stacked.dtype).min)
        weights = None if self.class_weights is None else self.class_weights.to(stacked.dtype)
        counted: Tensor | int
        if labels.is_floating_point():
            counted = max(1, len(labels))
            labels = labels.to(stacked.dtype).T
        elif weights is None:
            counted = (labels != self.ignore_index).sum().clamp_min(1)
        else:
            used = labels != self.ignore_index
            counted = (weights[labels.where(used, 0)] * used).sum()
            # torch's own mean is 0/0 if all weights are 0.
            counted = counted.clamp_min(torch.finfo(counted.dtype).tiny)
        losses = F.cross_entropy(
            stacked,
            labels.expand(len(scores), *labels.shape),
            weight=weights,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return (losses.sum(1) / counted).unbind()

    def _check(self, output: BalancerOutput, labels: Tensor, class_prior: Tensor | None) -> None:
        check_output("output", output)
        batch_size, num_classes = output.log_probs.shape
        checks.labels(labels, torch.Size([batch_size]), num_classes)
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(
                f"`class_weights` must have shape ({num_classes},); "
                f"got {tuple(self.class_weights.shape)}"
            )
        if class_prior is not None:
            checks.class_prior(class_prior, num_classes)
        if self.validate_args:
            checks.label_values(labels, num_classes, self.ignore_index)
            if class_prior is not None:
                checks.class_prior_values(class_prior)
