"""Fill an output from the branches' log-probabilities, for classes of any frequency."""

import torch
from torch import Tensor

from reliability_balance import functional as RF
from reliability_balance.output import BalancerOutput


def complete_output(
    logits: Tensor,
    log_probs: Tensor | None,
    *,
    anchor_log_probs: Tensor | None,
    attentive_log_probs: Tensor | None,
    correction_log_probs: Tensor | None,
    embedding: Tensor,
    distances: Tensor | None,
    anchors: Tensor | None,
    class_prior: Tensor | None = None,
) -> BalancerOutput:
    """Add what follows from the branches' log-probabilities: probabilities and confidences.

    Where `log_probs` is None nothing corrects the primary branch. A `class_prior`, frequencies of
    shape (C,), turns what is for even classes into answers for classes as frequent as that.
    """
    if class_prior is not None:
        prior = class_prior.to(RF.widen(logits))
        log_prior = (prior / prior.sum()).log()

        def weigh(scores: Tensor | None) -> Tensor | None:
            return None if scores is None else (scores + log_prior).log_softmax(-1)

        logits, log_probs = logits + log_prior, weigh(log_probs)
        anchor_log_probs, attentive_log_probs = weigh(anchor_log_probs), weigh(attentive_log_probs)
        correction_log_probs = weigh(correction_log_probs)
    wide_logits = RF.widen(logits)
    primary = wide_logits.softmax(-1)
    if log_probs is None:
        log_probs, corrected = wide_logits.log_softmax(-1), primary
    else:
        corrected = log_probs.exp()
    anchor, attentive, correction = (
        None if branch is None else branch.exp()
        for branch in (anchor_log_probs, attentive_log_probs, correction_log_probs)
    )
    branches = {
        "corrected": corrected,
        "primary": primary,
        "anchor": anchor,
        "attentive": attentive,
        "correction": correction,
    }
    there = {name: branch for name, branch in branches.items() if branch is not None}
    # All at once: small operations cost by their number.
    confidences = dict(zip(there, RF.confidence(torch.stack(list(there.values()))), strict=True))
    return BalancerOutput(
        corrected=corrected,
        log_probs=log_probs,
        primary=primary,
        logits=logits,
        confidence=confidences["corrected"],
        primary_confidence=confidences["primary"],
        changed=corrected.argmax(-1) != primary.argmax(-1),
        embedding=embedding,
        anchor=anchor,
        anchor_log_probs=anchor_log_probs,
        anchor_confidence=confidences.get("anchor"),
        attentive=attentive,
        attentive_log_probs=attentive_log_probs,
        attentive_confidence=confidences.get("attentive"),
        correction=correction,
        correction_confidence=confidences.get("correction"),
        distances=distances,
        anchors=anchors,
    )
