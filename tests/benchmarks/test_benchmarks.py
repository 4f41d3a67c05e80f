"""The benchmarks' data, methods and book-keeping, on tasks of a few samples."""

import json
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
pytest.importorskip("pytorch_metric_learning", reason="the benchmarks compare with its losses")

import tasks
from measures import mean_and_interval, prediction_measures
from methods import METHODS
from noisy_data import CORRUPTIONS
from package_texts import SECTIONS, load_package_texts, parse_descriptions
from paper_report import PAPER_BY_NOISE
from paper_report import write_report as write_paper_report
from paper_setups import Setup
from resumable import read_lines, run_all
from robustness_report import write_report
from robustness_runs import predict, train
from small_task import make_task
from tasks import FIRST_SEED
from tuning_grids import GRIDS
from tuning_report import pick
from tuning_report import write_report as write_tuning_report

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, RobustLoss
from reliability_balance.core import RECIPES


@pytest.mark.parametrize(
    ("name", "rate"), [("symmetric-40", 0.4), ("pair-30", 0.3), ("instance-20", 0.2)]
)
def test_noise_has_its_rate(name, rate):
    task = make_task()
    noisy = CORRUPTIONS[name](task, 0)
    assert (noisy.labels != task.labels).float().mean() == pytest.approx(rate, abs=0.002)
    assert torch.equal(noisy.truth, task.truth)
    assert torch.equal(noisy.labels, CORRUPTIONS[name](task, 0).labels)


def test_ambiguous_samples_are_labelled_by_draws_from_their_blend():
    task = CORRUPTIONS["ambiguous"](make_task(3000), 0)
    torch.testing.assert_close(task.truth.sum(1), torch.ones(3000))
    drawn = task.truth.gather(1, task.labels.unsqueeze(1)).squeeze(1)
    assert (drawn > 0).all()
    wrong = (task.labels != task.truth.argmax(1)).float().mean()
    assert wrong == pytest.approx(float((1 - task.truth.amax(1)).mean()), abs=0.02)


def test_imbalance_reaches_its_ratio():
    counts = torch.bincount(CORRUPTIONS["imbalance-17"](make_task(9000), 0).labels)
    assert counts[0] == 3000
    assert 3000 / counts[2] == pytest.approx(17, rel=0.2)


def test_the_library_has_all_our_defaults(monkeypatch):
    changed = replace(
        RECIPES["robust"], num_anchors=3, delta=0.7, center_weight=0.9, temperature=0.4, mixing=0.1
    )
    monkeypatch.setitem(RECIPES, "robust", changed)
    balancer, loss = ReliabilityBalancer(4, 3), ReliabilityLoss()
    assert (balancer.num_anchors, balancer.delta, loss.center_weight) == (3, 0.7, 0.9)
    assert RobustLoss(balancer, torch.arange(6) % 3, epochs=30).targets.temperature == 0.4
    method = METHODS["ours, robust"](make_task())
    method.begin(30)
    assert (method.balancer.num_anchors, method.balancer.delta) == (3, 0.7)
    assert method.robust.recipe == changed
    assert method.robust.loss.center_weight == 0.9
    assert method.targets.temperature == 0.4


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_and_predicts(name):
    task = make_task()
    torch.manual_seed(0)
    method = METHODS[name](task)
    train(method, task, epochs=2)
    log_probs = predict(method, task.inputs)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(300))


def test_the_libraries_area_under_risk_coverage_is_reported():
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    measures = prediction_measures(probs.log(), torch.tensor([0, 0, 0]))
    assert measures["aurc"] == pytest.approx(100 * (0 + 1 / 2 + 1 / 3) / 3)


def test_interval_by_hand():
    mean, interval = mean_and_interval([1.0, 2.0, 3.0])
    assert (mean, interval) == (2.0, pytest.approx(4.3027 / 3**0.5, abs=1e-3))


class Square(NamedTuple):
    number: int


def square(run):
    return {**run._asdict(), "squared": run.number**2}


def invert(run):
    return {"number": run.number, "inverse": 1 / run.number}


def test_runs_resume_after_a_crash(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"number": 2, "squared": -1}\n{"number": 3, "squ')
    lines = read_lines(path)
    assert [line["number"] for line in lines] == [2]
    run_all(square, [Square(2), Square(3)], path, workers=1)
    assert {line["number"]: line["squared"] for line in read_lines(path)} == {2: -1, 3: 9}


def test_runs_that_end_are_kept_where_one_fails(tmp_path):
    path = tmp_path / "runs.jsonl"
    with pytest.raises(ZeroDivisionError):
        run_all(invert, [Square(4), Square(0), Square(2)], path, workers=1)
    assert read_lines(path)[0]["number"] == 4
    run_all(invert, [Square(4), Square(2)], path, workers=1)
    assert [line["inverse"] for line in read_lines(path)] == [0.25, 0.5]


def test_reports_render_what_there_is(tmp_path):
    base = {"data": "faces-7k", "corruption": "imbalance-17+symmetric-40", "epochs": 1, "ece": 4.0}
    lines = [
        {**base, "method": method, "seed": seed, "accuracy": accuracy + seed}
        for method, accuracy in (("cross-entropy", 80.0), ("ours, robust", 82.0))
        for seed in range(2)
    ]
    text = write_report(lines, tmp_path)
    assert "| ours, robust | 2 | 82.50 ± 6.35 |" in text
    assert (
        "| rendered faces, 7,000, 1 to 17, 40 % symmetric | 80.5 ± 6.4, 4.0 | 82.5 ± 6.4, 4.0 "
        "| cross-entropy, 80.5 ± 6.4 | **+2.0 ± 0.0** |  |" in text
    )
    assert text.rstrip().endswith("| 2.00 ± 0.00 |")
    assert (tmp_path / "robustness.png").stat().st_size > 0
    cells = [
        {**Setup(k, noise, seed=seed)._asdict(), "accuracy": accuracy + seed - noise}
        for noise in PAPER_BY_NOISE
        for k, accuracy in ((0, 70.0), (8, 73.0 if noise else 71.0))
        for seed in range(3)
    ]
    text = write_paper_report(json.loads(json.dumps(cells)), tmp_path)
    assert "K = 8 against K = 0, clean labels: helps." in text
    assert "| 40 | 34.12 | +2.31 | 31.00 ± 2.48 | +3.00 ± 0.00 | helps |" in text
    assert "(mean of 5 to 50 %) by +0.50 points in the paper; here: +2.00 ± 0.00." in text
    assert "Not run yet." in text


def test_tuning_picks_by_seeds_that_no_table_uses(tmp_path):
    def line(setting, seed, accuracy):
        return {"method": "GCE", "setting": setting, "seed": seed, "accuracy": accuracy} | case

    case = {"data": "fashion-10k", "corruption": "clean"}
    lines = [line("q 0.7", 0, 85.0), line("q 0.3", 0, 84.0), line("q 0.3", 1, 87.0)]
    lines += [line("q 0.7", FIRST_SEED, 99.0), line("q 0.3", FIRST_SEED, 80.0)]
    assert pick(lines)["GCE"] == "q 0.3"
    ours = [{"method": "ours, robust", "seed": FIRST_SEED, "accuracy": 81.0, **case}]
    text = write_tuning_report(lines, ours, tmp_path)
    assert "| GCE | q 0.7: 85.00 | **q 0.3: 85.50** |" in text
    assert "| GCE, q 0.3 | 80.0 | +1.0 | not run |" in text


def test_every_tuned_setting_trains():
    task = make_task(64)
    index = torch.arange(64)
    for grid in GRIDS.values():
        for make in grid.values():
            make(task).loss(index, task.inputs, task.labels, 0).backward()


def test_fashion_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        tasks.fashion(10, 0)


def test_rendered_faces_have_soft_truths_and_other_people_to_test_on():
    task = tasks.faces(200, seed=0)
    assert task.inputs.shape == (200, 32 * 32)
    assert len(task.test_labels) > 1000
    torch.testing.assert_close(task.truth.sum(1), torch.ones(200))
    assert (task.truth.amax(1) < 0.999).any()
    assert not torch.equal(task.inputs, tasks.faces(200, seed=1).inputs)


INDEX = """Package: chess
Description: play chess
Section: games

Package: abacus
Description-en: count with beads: old
 and a long text
Section: math

Package: chess-dbg
Description: play chess
Section: games

Package: libchess
Description: a library
Section: libs"""


def test_descriptions_of_packages_are_distinct_and_of_known_sections():
    texts, labels = parse_descriptions(INDEX)
    assert texts == ["count with beads: old", "play chess"]
    assert [SECTIONS[label] for label in labels] == ["math", "games"]


def test_texts_are_read_from_their_cache(tmp_path):
    content = {"embeddings": torch.eye(3), "labels": torch.tensor([0, 1, 2])}
    torch.save(content, tmp_path / "cache.pt")
    embeddings, labels = load_package_texts(tmp_path / "cache.pt")
    assert torch.equal(embeddings, torch.eye(3))
    assert labels.tolist() == [0, 1, 2]
