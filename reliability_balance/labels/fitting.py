"""Train a balancer on stored embeddings: the frozen-feature mode."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reliability_balance import checks
from reliability_balance.core.balancer import ReliabilityBalancer
from reliability_balance.core.losses import ReliabilityLoss
from reliability_balance.labels.robust_loss import RobustLoss

EPOCHS_TOLERANCE = 0.01
WEIGHT_DECAY = 1e-4


def fit_head(
    balancer: ReliabilityBalancer,
    features: Tensor,
    labels: Tensor,
    *,
    primary_logits: Tensor | None = None,
    token_mask: Tensor | None = None,
    criterion: ReliabilityLoss | RobustLoss | None = None,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = WEIGHT_DECAY,
    initialize: bool = True,
) -> list[float]:
    """Train the balancer, and nothing else, on embeddings that are stored.

    The order of the samples comes from torch's generator: ``torch.manual_seed`` repeats a run.
    The features stay where they are and travel to the balancer's device batch by batch; no
    gradient goes back to what made them.

    Args:
        balancer: the module to train, in place; left in eval mode.
        features: embeddings.
        labels: class indices or class probabilities.
        primary_logits: an existing head's answers, where the balancer has no head of its own.
        token_mask: which tokens are no padding; None for all.
        criterion: the loss; None for a :class:`RobustLoss` of these labels and epochs, after the
            balancer's recipe. Give your own to read what it learned of the labels, or a
            :class:`ReliabilityLoss` to train on them as they are: predictions are then for classes
            as frequent as in the labels, and `balancer.class_prior` becomes even. A
            :class:`RobustLoss` must be new, and made with this balancer and these epochs.
        epochs: passes over the features, >= 1.
        batch_size: samples a step, >= 2. A last batch of one joins the one before it.
        learning_rate: of AdamW, > 0, with a cosine decay to zero.
        weight_decay: of AdamW, >= 0.
        initialize: whether anchors start from the classes' own embeddings, those of soft labels
            from the embeddings of the likeliest class.

    Shape:
        - features: (N, D) or (N, T, D) floating; labels: (N,) int64 or (N, C) floating;
          primary_logits: (N, C); token_mask: (N, T) bool.

    Returns:
        The mean total loss of each epoch.

    Raises:
        TypeError: on wrong dtypes.
        ValueError: on wrong shapes or values, and on a :class:`RobustLoss` of another balancer, of
            other labels or epochs, or that has run already; the balancer is then unchanged.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> features = torch.randn(64, 8)
        >>> labels = (features[:, 0] > 0).long()
        >>> balancer = ReliabilityBalancer(8, 2)
        >>> len(fit_head(balancer, features, labels, epochs=5, learning_rate=0.03))
        5
        >>> bool((balancer(features).corrected.argmax(-1) == labels).float().mean() > 0.8)
        True
    """
    checks.floating("features", features)
    checks.rank("features", features, "(N, D) or (N, T, D)", 2, 3)
    checks.width("features", features, balancer.embedding_dim)
    if token_mask is not None:
        checks.token_mask(token_mask, features)
    checks.finite("features", features, token_mask)
    checks.labels(labels, features.shape[:1], balancer.num_classes)
    checks.at_least("epochs", epochs, 1)
    checks.at_least("batch_size", batch_size, 2)
    checks.positive("learning_rate", learning_rate)
    checks.non_negative("weight_decay", weight_decay)
    parameter = next(balancer.parameters(), None)
    if parameter is None:
        raise ValueError("`balancer` must have something to train; got no parameters")
    if len(features) < 2:
        raise ValueError(f"`features` must hold at least 2 samples; got {len(features)}")
    ignored = criterion.ignore_index if isinstance(criterion, ReliabilityLoss) else None
    checks.label_values(labels, balancer.num_classes, ignored)
    if isinstance(criterion, RobustLoss):
        _check_criterion(criterion, balancer, labels, epochs)
    _check_logits(balancer, primary_logits, len(features))
    if criterion is None:
        criterion = RobustLoss(balancer, labels, epochs=epochs)
    elif isinstance(criterion, ReliabilityLoss):
        balancer.class_prior.fill_(1.0 / balancer.num_classes)
    features = features.detach()
    if initialize and balancer.anchors is not None:
        hard = labels.argmax(-1) if labels.is_floating_point() else labels
        used = hard != ignored if ignored is not None else torch.ones_like(hard, dtype=torch.bool)
        known = None if token_mask is None else token_mask[used]
        balancer.initialize_anchors(features[used], hard[used], token_mask=known)

    criterion = criterion.to(parameter.device)

    def loss_of(batch: Tensor) -> Tensor:
        embedding = features[batch].to(parameter.device, parameter.dtype)
        logits = None
        if primary_logits is not None:
            logits = primary_logits[batch].detach().to(parameter.device)
        wanted = labels[batch].to(parameter.device)
        mask = None if token_mask is None else token_mask[batch].to(parameter.device)
        output = balancer(embedding, logits, token_mask=mask)
        loss: Tensor
        if isinstance(criterion, RobustLoss):
            loss = criterion(output, wanted, batch.to(parameter.device))
        else:
            loss = criterion(output, wanted).total
        return loss

    was_training = criterion.training
    criterion.train()
    balancer.train()
    try:
        return descend(
            balancer,
            loss_of,
            len(features),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
        )
    finally:
        balancer.eval()
        criterion.train(was_training)


def descend(
    module: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    count: int,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = WEIGHT_DECAY,
) -> list[float]:
    """Train by AdamW with a cosine decay to zero; the mean loss of each epoch.

    Args:
        module: whose parameters are trained.
        loss_of: takes the places (B,) of a batch's samples, on the CPU, and gives their loss.
        count: samples.
        epochs: passes over them.
        batch_size: samples a step.
        learning_rate: at the start.
        weight_decay: of AdamW.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    device = next(module.parameters()).device
    history = []
    for _ in range(epochs):
        total = torch.zeros((), device=device)
        for batch in _batches(count, batch_size):
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        scheduler.step()
        history.append(float(total) / count)
    return history


def _check_criterion(
    criterion: RobustLoss, balancer: ReliabilityBalancer, labels: Tensor, epochs: int
) -> None:
    if criterion.balancer is not balancer:
        raise ValueError(
            "`criterion` must be made with the balancer that is trained; got that of another one"
        )
    criterion.check_labels(labels)
    check_is_new(criterion)
    check_epochs(criterion, epochs)


def check_is_new(criterion: RobustLoss) -> None:
    """Require a criterion that has not run yet."""
    if criterion.progress > 0:
        raise ValueError(
            "`criterion` must be new, since it keeps what one training learned of the labels; got "
            f"one that has run for {criterion.progress:.4g} epochs"
        )


def check_epochs(criterion: RobustLoss, epochs: float) -> None:
    """Require a criterion that was planned for as many epochs as are trained, within 1 %."""
    if abs(criterion.epochs - epochs) > EPOCHS_TOLERANCE * epochs:
        raise ValueError(
            f"`criterion` must be made with epochs={epochs:.4g}, the passes over the samples that "
            f"are trained; got epochs={criterion.epochs:.4g}"
        )


def _check_logits(balancer: ReliabilityBalancer, primary_logits: Tensor | None, count: int) -> None:
    if (balancer.head is None) != (primary_logits is not None):
        raise ValueError(
            "`primary_logits` must be given if the balancer has no head, and only then; "
            f"got {'None' if primary_logits is None else 'logits'}"
        )
    if primary_logits is not None:
        checks.primary_logits(primary_logits, count, balancer.num_classes, "N")
        checks.scores("primary_logits", primary_logits)


def _batches(count: int, batch_size: int) -> list[Tensor]:
    """Indices 0 to count in random order, cut so that no batch has a single sample."""
    batches = list(torch.randperm(count, device="cpu").split(batch_size))
    if len(batches[-1]) == 1 and len(batches) > 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
