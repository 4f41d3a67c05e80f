"""Calibration, abstention and familiarity: fitted on a trained model, and saved with it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_type_hints

import torch
from torch import Tensor, nn
from typing_extensions import Self

from reliability_balance import BalancerOutput
from reliability_balance.calibration import (
    Abstention,
    Calibrator,
    Familiarity,
)

MAX_RISK = 0.1  # error rate of the predictions that are sure
MOST_REFERENCES = 1000


@dataclass(frozen=True)
class PostHoc:
    """Judge the outputs of one model."""

    calibrator: Calibrator
    abstention: Abstention
    familiarity: Familiarity
    num_fitted: int  # validation faces that calibration was fitted on

    @classmethod
    def fit(
        cls,
        validation: BalancerOutput,
        labels: Tensor,
        training: BalancerOutput,
        correction_weight: float,
    ) -> Self:
        """Fit all of them.

        Calibration is fitted on every other validation face, and abstention on the rest, since its
        bound holds only for faces that nothing else was fitted on.

        Args:
            validation: outputs for the validation faces.
            labels: of the validation faces.
            training: outputs for training faces, without augmentation.
            correction_weight: of the model's balancer.

        Shape:
            - labels: (N,) int64.

        Raises:
            ValueError: on too few faces, or embeddings that do not vary.
        """
        count, width = training.embedding.shape
        first, second = (_rows(validation, slice(start, None, 2)) for start in (0, 1))
        with warnings.catch_warnings():
            # The results name the calibration, an abstention that accepts nothing, and classes
            # without faces.
            warnings.simplefilter("ignore", UserWarning)
            calibrator = Calibrator(first.log_probs.shape[-1], correction_weight)
            post_hoc = cls(
                calibrator.fit(first, labels[::2]),
                Abstention(MAX_RISK),
                Familiarity(width, num_references=min(MOST_REFERENCES, count)),
                len(labels[::2]),
            )
            right = second.corrected.argmax(-1) == labels[1::2]
            post_hoc.abstention.fit(post_hoc.probability(second), right)
        post_hoc.familiarity.fit(training, held_out=validation)
        return post_hoc

    @classmethod
    def of(cls, modules: Mapping[str, nn.Module], num_fitted: int) -> Self | None:
        """Return those of a loaded checkpoint, or None if it has no extras.

        Raises:
            ValueError: if it has others than :meth:`modules` returns.
        """
        if not modules:
            return None
        kinds = {name: kind for name, kind in get_type_hints(cls).items() if kind is not int}
        if {name: type(module) for name, module in modules.items()} != kinds:
            raise ValueError(
                f"extras must be {', '.join(kinds)}, each of its class; got {', '.join(modules)}"
            )
        return cls(**modules, num_fitted=num_fitted)  # type: ignore[arg-type]  # checked above

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules by name."""
        return {name: each for name, each in vars(self).items() if isinstance(each, nn.Module)}

    @torch.inference_mode()
    def calibrated(self, output: BalancerOutput) -> Tensor:
        """Return calibrated log-probabilities (B, C)."""
        log_probs: Tensor = self.calibrator(output)
        return log_probs

    def probability(self, output: BalancerOutput) -> Tensor:
        """Return the calibrated probability that the predicted class is right (B,)."""
        predicted = output.corrected.argmax(-1, keepdim=True)
        return self.calibrated(output).gather(-1, predicted).squeeze(-1).exp()

    @torch.inference_mode()
    def is_sure(self, output: BalancerOutput) -> Tensor:
        """Return which predictions are sure (B,): at most `MAX_RISK` of these are wrong."""
        accepted: Tensor = self.abstention(self.probability(output))
        return accepted

    @property
    def caution(self) -> str:
        """Return why no prediction is ever sure; empty if some can be."""
        if float(self.abstention.threshold) < float("inf"):
            return ""
        return (
            "every face is “not sure”: on the validation faces, no threshold is certain to keep "
            f"the error rate below {100 * self.abstention.max_risk:.0f} %"
        )

    @torch.inference_mode()
    def is_familiar(self, output: BalancerOutput) -> Tensor:
        """Return where a face resembles the training faces (B,)."""
        return self.familiarity.is_familiar(output)


def _rows(output: BalancerOutput, rows: slice) -> BalancerOutput:
    """Return some samples of an output; anchors are of no sample."""
    columns = {
        name: value[rows]
        for name, value in output._asdict().items()
        if value is not None and name != "anchors"
    }
    return output._replace(**columns)
