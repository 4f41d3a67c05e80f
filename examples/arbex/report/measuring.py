"""Compute the results of a run: calibration, risk against coverage, doubtful labels, findings."""

import warnings

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader

from examples.arbex.faces.augmentation import eval_transform
from examples.arbex.faces.face_dataset import FaceDataset
from examples.arbex.faces.face_table import TRAIN, VALIDATION, FaceTable
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.post_hoc import PostHoc
from examples.arbex.report.evaluation import predict_table
from examples.arbex.report.results import (
    FIRST,
    CalibrationResult,
    DoubtfulFace,
    DoubtfulLabels,
    FoundLabels,
    Rate,
    ReliabilityBin,
    RiskPoint,
    SelectiveResult,
)
from examples.arbex.report.scoring import score_faces
from examples.prediction_report import NUM_BINS
from reliability_balance import BalancerOutput, RobustLoss
from reliability_balance.calibration import area_under_risk_coverage
from reliability_balance.diagnosis import Finding, diagnose
from reliability_balance.diagnosis.rules import CALIBRATE
from reliability_balance.labels import LabelRanking, Verdict

Z = 1.96  # of a 95 % interval
MOST_TRAINING_FACES = 2000  # whose embeddings say what is familiar
CURVE_POINTS = 100


def fit_post_hoc(bundle: ModelBundle, faces: FaceTable) -> PostHoc:
    """Fit calibration and abstention on the validation faces, and familiarity on training faces.

    Raises:
        ValueError: if there are fewer than 20 validation faces, or the embeddings do not vary.
    """
    data = bundle.config.data
    train, validation = faces.subset(TRAIN), faces.subset(VALIDATION)
    rows = torch.linspace(0, len(train) - 1, min(len(train), MOST_TRAINING_FACES)).long()
    seen, held_out = (
        predict_table(bundle.model, table, image_size=data.image_size, workers=data.workers)
        for table in (train.select(rows), validation)
    )
    weight = bundle.model.balancer.correction_weight
    return PostHoc.fit(held_out, validation.labels, seen, weight)


def paired_lead(ours: Tensor, theirs: Tensor) -> Rate:
    """Return how many percent more of the same faces are right, with a 95 % interval.

    The interval of Bonett and Price (2012) for paired shares: as if two more faces were right for
    one model only, one for each.

    Args:
        ours: which predictions are right, (N,) bool.
        theirs: the same of the other model, for the same faces.

    Example:
        >>> ours = torch.tensor([True] * 90 + [False] * 10)
        >>> theirs = torch.tensor([True] * 80 + [False] * 20)
        >>> " ".join(f"{each:.1f}" for each in paired_lead(ours, theirs))
        '10.0 3.4 16.2'
    """
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    count = len(ours) + 2
    center = (gained - lost) / count
    half = Z * (((gained + lost + 2) / count - center**2) / count) ** 0.5
    return Rate(100 * (gained - lost) / len(ours), 100 * (center - half), 100 * (center + half))


def judge_calibration(
    post_hoc: PostHoc, output: BalancerOutput, faces: FaceTable
) -> CalibrationResult:
    """Score the corrected predictions before and after calibration."""
    before, after = output.log_probs, post_hoc.calibrated(output)
    scores = [
        score_faces(each.exp(), each, faces.labels, faces.distributions) for each in (before, after)
    ]
    bins = [reliability_bins(each.exp(), faces.labels) for each in (before, after)]
    return CalibrationResult(
        post_hoc.calibrator.fitted,
        post_hoc.num_fitted,
        before=scores[0],
        after=scores[1],
        bins_before=bins[0],
        bins_after=bins[1],
    )


def reliability_bins(probs: Tensor, labels: Tensor) -> list[ReliabilityBin]:
    """Return the filled ones of 15 bins of the highest probability (N, C)."""
    top, predicted = probs.max(-1)
    right = (predicted == labels).to(top.dtype)
    place = (top * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    return [
        ReliabilityBin(100 * float(top[rows].mean()), 100 * float(right[rows].mean()), len(rows))
        for rows in ((place == each).nonzero().squeeze(-1) for each in range(NUM_BINS))
        if len(rows)
    ]


def judge_selection(post_hoc: PostHoc, output: BalancerOutput, labels: Tensor) -> SelectiveResult:
    """Measure the error rate of the predictions that the model is sure of."""
    surest = post_hoc.probability(output)
    right = output.corrected.argmax(-1) == labels
    sure = post_hoc.is_sure(output)
    order = surest.argsort(descending=True, stable=True)
    errors = (~right[order]).double().cumsum(0)
    counts = torch.linspace(1, len(labels), min(CURVE_POINTS, len(labels))).long()
    threshold = float(post_hoc.abstention.threshold)
    return SelectiveResult(
        aurc=100 * area_under_risk_coverage(surest, right),
        curve=[
            RiskPoint(100 * count / len(labels), 100 * float(errors[count - 1]) / count)
            for count in counts.tolist()
        ],
        max_risk=100 * post_hoc.abstention.max_risk,
        threshold=threshold if threshold < float("inf") else None,
        coverage=100 * float(sure.float().mean()),
        risk=100 * float((~right[sure]).float().mean()) if bool(sure.any()) else None,
    )


def rank_doubtful(criterion: RobustLoss, train: FaceTable) -> LabelRanking:
    """Rank all training labels; the ranking itself says why it has no verdicts.

    Raises:
        ValueError: if the criterion does not doubt labels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return criterion.doubtful_labels(class_names=train.class_names, sample_names=train.names)


def judge_doubts(ranking: LabelRanking, criterion: RobustLoss, train: FaceTable) -> DoubtfulLabels:
    """Summarise a ranking, and compare it with the true labels where they are known."""
    rate = None
    if not ranking.caution:
        rate = Rate(*(100 * float(each) for each in criterion.noise_rate()))
    return DoubtfulLabels(
        num_labels=len(ranking),
        num_mislabelled=len(ranking.only(Verdict.MISLABELLED)),
        num_ambiguous=len(ranking.only(Verdict.AMBIGUOUS)),
        noise_rate=rate,
        caution=ranking.caution,
        first=_first(ranking, train),
        found=None if train.true_labels is None else found_labels(ranking, train.true_labels),
    )


def _first(ranking: LabelRanking, train: FaceTable) -> list[DoubtfulFace]:
    names, truth = train.class_names, train.true_labels
    return [
        DoubtfulFace(
            row=each.sample,
            name=train.names[each.sample],
            given=names[each.given],
            suggested=names[each.suggested],
            doubt=each.doubt,
            plausibility=each.plausibility,
            verdict=each.verdict.name.lower(),
            truth=None if truth is None else names[int(truth[each.sample])],
        )
        for each in ranking.first(FIRST)
    ]


def found_labels(ranking: LabelRanking, true_labels: Tensor) -> FoundLabels:
    """Compare a ranking with the true labels (N,)."""
    wrong = ranking.given != true_labels[ranking.sample]
    called = ranking.verdict == Verdict.MISLABELLED
    found = int((wrong & called).sum())
    both = 0 < int(wrong.sum()) < len(wrong)
    return FoundLabels(
        num_wrong=int(wrong.sum()),
        num_found=found,
        precision=100 * found / int(called.sum()) if bool(called.any()) else None,
        precision_of_first=100 * float(wrong[:FIRST].float().mean()),
        auroc=float(roc_auc_score(wrong, ranking.doubt)) if both else None,
        average_precision=float(average_precision_score(wrong, ranking.doubt)) if both else None,
    )


def find_problems(bundle: ModelBundle, validation: FaceTable) -> tuple[Finding, ...]:
    """Diagnose the model on the validation faces; calibration is not advised where it is done."""
    dataset = FaceDataset(validation, eval_transform(bundle.config.data.image_size))
    loader = DataLoader(dataset, 128, num_workers=bundle.config.data.workers)
    findings = diagnose(bundle.model, loader, class_names=bundle.class_names).findings
    done = bundle.post_hoc is not None
    return tuple(each for each in findings if not (done and each.advice == CALIBRATE))
