"""What a finished run says: calibration, doubtful labels, risk against coverage."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe, train_tiny

from examples.arbex import baseline
from examples.arbex.baseline import comparable, recorded_baseline
from examples.arbex.configuration import as_plain, load_config, override_config
from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION
from examples.arbex.model_bundle import load_bundle
from examples.arbex.post_hoc import MAX_RISK, PostHoc
from examples.arbex.report import measuring
from examples.arbex.report.evaluation import predict_table
from examples.arbex.report.measuring import (
    found_labels,
    judge_selection,
    reliability_bins,
)
from examples.arbex.report.run_report import list_doubtful, report_on_run
from examples.arbex.training.fitting import fit, trained_criterion
from examples.arbex.training.run_folder import RunFolder
from examples.arbex.training.run_keeping import MONITORED, RunKeeper
from reliability_balance.diagnosis import Finding, rules
from reliability_balance.labels import LabelRanking, Verdict


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is reported on, with its results and its loss."""
    folder, faces = RunFolder(tmp_path_factory.mktemp("run")), synthetic_table(240)
    torch.manual_seed(0)
    config = tiny_recipe(epochs=3)
    criterion = fit(config, faces, folder, accelerator="cpu", show_progress=False)
    return folder, faces, config, criterion, report_on_run(folder, faces, criterion)


def test_what_was_fitted_is_saved_with_the_model(finished):
    folder, faces, _, _, results = finished
    post_hoc = load_bundle(folder.model).post_hoc
    validation = faces.subset(VALIDATION)
    assert post_hoc.num_fitted == -(-len(validation) // 2)
    assert results.calibration.num_fitted == post_hoc.num_fitted
    output = predict_table(load_bundle(folder.model).model, validation, image_size=16)
    calibrated = post_hoc.calibrated(output).exp()
    predicted = output.corrected.argmax(-1)
    for row in range(len(validation)):
        naive = float(calibrated[row, predicted[row]])
        assert float(post_hoc.probability(output)[row]) == pytest.approx(naive)
    torch.testing.assert_close(calibrated.sum(-1), torch.ones(len(validation)))
    assert post_hoc.abstention.max_risk == MAX_RISK


def test_only_what_is_left_to_do_is_advised(finished, monkeypatch):
    folder, faces, *_ = finished
    bundle, validation = load_bundle(folder.model), faces.subset(VALIDATION)
    asked = {}

    def diagnosis(*_, class_names):
        asked["names"] = class_names
        found = rules.miscalibration(0.9, 0.5), Finding("another", "one")
        return SimpleNamespace(findings=found)

    monkeypatch.setattr(measuring, "diagnose", diagnosis)
    assert [each.what for each in measuring.find_problems(bundle, validation)] == ["another"]
    assert asked["names"] == bundle.class_names
    without = replace(bundle, post_hoc=None)
    assert len(measuring.find_problems(without, validation)) == 2


def test_extras_of_other_kinds_are_refused(finished):
    modules = load_bundle(finished[0].model).post_hoc.modules()
    assert PostHoc.of({}, 0) is None
    with pytest.raises(ValueError, match="extras must be calibrator, abstention"):
        PostHoc.of({**modules, "abstention": modules["calibrator"]}, 3)


def test_the_results_are_in_the_folder(finished):
    folder, faces, _, _, results = finished
    metrics = json.loads((folder.root / "metrics.json").read_text())
    assert metrics["corrected"]["accuracy"] == results.evaluation.corrected.accuracy
    assert metrics["calibration"]["after"]["ece"] == results.calibration.after.ece
    assert metrics["selective"]["max_risk"] == 100 * MAX_RISK
    with (folder.root / "doubtful_labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["doubtful"]["num_labels"] <= len(faces.subset(TRAIN))
    doubts = [float(row["doubt"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    text = (folder.root / "metrics.txt").read_text()
    assert f"ECE {results.calibration.before.ece:.1f} % before" in text


def test_the_loss_of_a_finished_run_lists_the_same_labels(finished, tmp_path):
    folder, faces, config, _, results = finished
    again = trained_criterion(config, faces, folder)
    train = faces.subset(TRAIN)
    assert list_doubtful(again, train, tmp_path) == results.doubtful
    written = (tmp_path / "doubtful_labels.csv").read_bytes()
    assert written == (folder.root / "doubtful_labels.csv").read_bytes()
    with pytest.raises(FileNotFoundError, match="folder of a run that trained"):
        trained_criterion(config, faces, RunFolder(tmp_path))


def test_too_few_validation_faces_leave_the_calibration_out(tmp_path, capsys):
    run = train_tiny(tmp_path, tiny_recipe(epochs=1))
    faces, config = synthetic_table(), tiny_recipe(epochs=1)
    results = report_on_run(run, faces, trained_criterion(config, faces, run))
    assert "without calibration: `held_out` must hold at least 20" in capsys.readouterr().out
    assert results.calibration is results.selective is None
    assert load_bundle(run.model).post_hoc is None


def test_found_labels_against_a_naive_loop():
    draws = torch.Generator().manual_seed(0)
    truth, given = (torch.randint(0, 3, (300,), generator=draws) for _ in range(2))
    doubt = torch.rand(300, generator=draws)
    order = doubt.argsort(descending=True)
    verdict = torch.where(doubt > 0.5, Verdict.MISLABELLED, Verdict.UNDOUBTED)
    columns = (given, given, doubt, doubt, verdict)
    found = found_labels(LabelRanking(order, *(each[order] for each in columns)), truth)
    rows = order.tolist()
    wrong = [bool(given[row] != truth[row]) for row in rows]
    called = [float(doubt[row]) > 0.5 for row in rows]
    both = sum(a and b for a, b in zip(wrong, called, strict=True))
    assert (found.num_wrong, found.num_found) == (sum(wrong), both)
    assert found.precision == pytest.approx(100 * both / sum(called))
    assert found.precision_of_first == pytest.approx(sum(wrong[:100]))
    ranked = list(zip(rows, wrong, strict=True))
    bad_rows = [row for row, bad in ranked if bad]
    good_rows = [row for row, bad in ranked if not bad]
    pairs = [(first, second) for first in bad_rows for second in good_rows]
    auroc = sum(bool(doubt[a] > doubt[b]) for a, b in pairs) / len(pairs)
    assert found.auroc == pytest.approx(auroc)
    hits, precisions = 0, []
    for rank, bad in enumerate(wrong, 1):
        hits += bad
        precisions += [hits / rank] * bad
    assert found.average_precision == pytest.approx(sum(precisions) / len(precisions))


def test_reliability_bins_against_a_naive_loop():
    probs = torch.rand(200, 4).softmax(-1)
    labels = torch.randint(0, 4, (200,))
    bins = reliability_bins(probs, labels)
    assert sum(each.count for each in bins) == 200
    naive = {}
    for row, label in zip(probs, labels, strict=True):
        top = float(row.max())
        naive.setdefault(min(int(top * 15), 14), []).append((top, bool(row.argmax() == label)))
    assert [each.count for each in bins] == [len(naive[place]) for place in sorted(naive)]
    for each, place in zip(bins, sorted(naive), strict=True):
        tops, rights = zip(*naive[place], strict=True)
        assert each.confidence == pytest.approx(100 * sum(tops) / len(tops), rel=1e-4)
        assert each.accuracy == pytest.approx(100 * sum(rights) / len(rights), rel=1e-4)


def test_the_risk_curve_against_a_naive_loop(finished):
    folder, faces, *_ = finished
    bundle, validation = load_bundle(folder.model), faces.subset(VALIDATION)
    output = predict_table(bundle.model, validation, image_size=16)
    found = judge_selection(bundle.post_hoc, output, validation.labels)
    scores = bundle.post_hoc.probability(output)
    wrong = output.corrected.argmax(-1) != validation.labels
    for point in found.curve:
        count = round(point.coverage * len(wrong) / 100)
        surest = sorted(range(len(wrong)), key=lambda row: -float(scores[row]))[:count]
        assert point.risk == pytest.approx(100 * sum(bool(wrong[row]) for row in surest) / count)
    assert found.curve[-1].coverage == 100


def test_a_recorded_baseline_is_of_its_own_recipe_only(tmp_path, monkeypatch):
    config, faces = load_config("quick"), synthetic_table(240)
    moved = override_config(config, ["data.root=elsewhere", "data.workers=2"])
    assert comparable(as_plain(moved)) == comparable(as_plain(config))
    labels = faces.subset(TEST).labels.tolist()
    right = [row % 3 > 0 for row in range(len(labels))]
    recorded = json.loads(baseline.RECORDED.read_text())
    recorded["labels"] = "".join(map(str, labels))
    recorded["right"] = "".join("01"[each] for each in right)
    monkeypatch.setattr(baseline, "RECORDED", tmp_path / "baseline.json")
    baseline.RECORDED.write_text(json.dumps(recorded))
    found = recorded_baseline(moved, faces)
    assert "baseline" in found.origin
    assert found.right.tolist() == right
    others = recorded_baseline(moved, faces.select(torch.arange(239)))
    assert others.right is None
    assert others.origin.endswith("on other test faces")
    for change in ("seed=1", "optimization.epochs=3", "encoder.name=small_cnn"):
        assert comparable(as_plain(override_config(config, [change]))) != comparable(
            as_plain(config)
        )
        assert recorded_baseline(override_config(config, [change]), faces) is None


def test_the_best_epoch_is_kept(tmp_path):
    found = []
    keeper = RunKeeper(
        *(tmp_path / "checkpoint.ckpt", tmp_path / "history.csv", lambda: found.append(epoch)),
        every=100,
    )
    for epoch, accuracy in enumerate((0.3, 0.5, 0.4), start=1):
        trainer = SimpleNamespace(
            callback_metrics={MONITORED: torch.tensor(accuracy)},
            current_epoch=epoch - 1,
            should_stop=False,
            is_global_zero=True,
            global_step=epoch,
            save_checkpoint=lambda path: None,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda asked, all: asked),
        )
        keeper.on_train_epoch_end(trainer, None)
    assert found == [1, 2]
    assert keeper.best == pytest.approx(0.5)
