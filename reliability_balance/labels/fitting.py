"""Train a balancer on stored embeddings of a frozen encoder."""

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
    """Train only the balancer, on stored embeddings.

    Samples are shuffled by torch's global generator: ``torch.manual_seed`` makes runs reproducible.
    Features are moved to the balancer's device batch by batch, and get no gradient.

    Args:
        balancer: module to train, in place; left in eval mode. Of a wrapped model pass
            `model.balancer`.
        features: embeddings.
        labels: class indices or class probabilities.
        primary_logits: logits of an existing head, required if the balancer has no head.
        token_mask: False for padding; None: no padding.
        criterion: loss. None: a :class:`RobustLoss` for these labels and epochs, with the
            balancer's recipe. Pass your own to read what it estimated about the labels; it must be
            new and created with this balancer and these epochs. A :class:`ReliabilityLoss` trains
            on the labels as given, without logit adjustment: predictions then assume the class
            frequencies of the labels, and `balancer.class_prior` is set to uniform.
        epochs: passes over the features, >= 1.
        batch_size: samples per step, >= 2. A last batch of one sample joins the one before it.
        learning_rate: initial learning rate of AdamW, > 0, with cosine decay to 0.
        weight_decay: weight decay of AdamW, >= 0.
        initialize: initialize the anchors from the embeddings of their classes; a soft label counts
            as its likeliest class.

    Shape:
        - features: (N, D) or (N, T, D) floating; labels: (N,) int64 or (N, C) floating;
          primary_logits: (N, C); token_mask: (N, T) bool.

    Returns:
        The mean total loss of each epoch.

    Raises:
        TypeError: on wrong dtypes, and on a `balancer` or `criterion` of another class.
        ValueError: on wrong shapes or values, and on a :class:`RobustLoss` for another balancer,
            other labels or epochs, or that was used already; the balancer is then unchanged.

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
    _check_classes(balancer, criterion)
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
        targets = labels[batch].to(parameter.device)
        mask = None if token_mask is None else token_mask[batch].to(parameter.device)
        output = balancer(embedding, logits, token_mask=mask)
        loss: Tensor
        if isinstance(criterion, RobustLoss):
            loss = criterion(output, targets, batch.to(parameter.device))
        else:
            loss = criterion(output, targets).total
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
    """Train by AdamW with cosine decay to 0; return the mean loss of each epoch.

    Args:
        module: module to train.
        loss_of: returns the loss of a batch, given the indices (B,) of its samples on the CPU.
        count: number of samples.
        epochs: passes over them.
        batch_size: samples per step.
        learning_rate: initial learning rate.
        weight_decay: weight decay.
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


def _check_classes(balancer: object, criterion: object) -> None:
    if not isinstance(balancer, ReliabilityBalancer):
        raise TypeError(
            "`balancer` must be a ReliabilityBalancer, such as `model.balancer` of a wrapped "
            f"model; got {type(balancer).__name__}"
        )
    if not isinstance(criterion, ReliabilityLoss | RobustLoss | None):
        raise TypeError(
            "`criterion` must be a ReliabilityLoss, a RobustLoss or None; got "
            f"{type(criterion).__name__}"
        )


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
    """Require a criterion that was not used yet."""
    if criterion.progress > 0:
        raise ValueError(
            "`criterion` must be new, since it holds the state of one training; got "
            f"one that has run for {criterion.progress:.4g} epochs"
        )


def check_epochs(criterion: RobustLoss, epochs: float) -> None:
    """Require a criterion that was planned for this number of epochs, within 1 %."""
    if abs(criterion.epochs - epochs) > EPOCHS_TOLERANCE * epochs:
        raise ValueError(
            f"`criterion` must be made with epochs={epochs:.4g}, the planned passes over the "
            f"samples; got epochs={criterion.epochs:.4g}"
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
    """Shuffle the indices 0 to `count` - 1 and split them; no batch has only one sample."""
    batches = list(torch.randperm(count, device="cpu").split(batch_size))
    if len(batches[-1]) == 1 and len(batches) > 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
