"""The benchmarks' data, methods and book-keeping, on tasks of a few samples."""

import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
pytest.importorskip("pytorch_metric_learning", reason="the benchmarks compare with its losses")

from small_task import make_task
from typer.testing import CliRunner

from benchmarks.__main__ import app, questions
from benchmarks.data import tasks
from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.package_texts import SECTIONS, load_package_texts, parse_descriptions
from benchmarks.data.tasks import FIRST_SEED
from benchmarks.measures import prediction_measures
from benchmarks.methods.base import predict
from benchmarks.methods.compared import ON_PIXELS
from benchmarks.methods.grids import GRIDS
from benchmarks.questions import tuning
from benchmarks.questions.paper_tables import Setup
from benchmarks.reports import paper_tables, robustness
from benchmarks.runs import Plan, ResultsError, answer, read_runs, run_all
from benchmarks.tables import interval, paired
from benchmarks.training import train
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
    method = ON_PIXELS["ours, robust"](make_task(), 30)
    assert (method.head.num_anchors, method.head.delta) == (3, 0.7)
    assert method.criterion.recipe == changed
    assert method.criterion.loss.center_weight == 0.9
    assert method.targets.temperature == 0.4


@pytest.mark.parametrize("name", ON_PIXELS)
def test_each_method_trains_and_predicts(name):
    task = make_task()
    torch.manual_seed(0)
    method = ON_PIXELS[name](task, 2)
    train(method, task)
    log_probs = predict(method, task.inputs)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(300))


def test_a_task_smaller_than_a_batch_is_trained_on():
    task = make_task(50)
    torch.manual_seed(0)
    method = ON_PIXELS["cross-entropy"](task, 20)
    train(method, task)
    assert (predict(method, task.inputs).argmax(1) == task.labels).float().mean() > 0.9


def test_the_libraries_area_under_risk_coverage_is_reported():
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    measures = prediction_measures(probs.log(), torch.tensor([0, 0, 0]))
    assert measures["aurc"] == pytest.approx(100 * (0 + 1 / 2 + 1 / 3) / 3)


def test_interval_by_hand():
    found = interval([1.0, 2.0, 3.0, float("nan")])
    assert found == (2.0, pytest.approx(4.3027 / 3**0.5, abs=1e-3))
    assert f"{found:+.1f}" == "+2.0 ± 2.5"
    assert found.mark() == ""


def test_a_difference_is_paired_by_seed():
    ours = pd.DataFrame({"seed": [1, 2, 3, 9], "nll": [1.0, 2.0, 4.0, 0.0]})
    theirs = pd.DataFrame({"seed": [3, 1, 2], "nll": [5.0, 2.0, 3.0]})
    found = paired(ours, theirs, "nll")
    assert found == (-1.0, 0.0)
    assert found.marked("+.1f") == "*-1.0 ± 0.0*"
    assert found.marked("+.1f", is_gain=False) == "**-1.0 ± 0.0**"
    assert paired(ours, theirs[:1], "nll").mark() == ""  # one seed: no verdict


class Square(NamedTuple):
    number: int


def square(run):
    return {**run._asdict(), "squared": run.number**2}


def test_runs_resume_after_a_crash(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"number": 2, "squared": -1}\n{"number": 3, "squ')
    assert read_runs(path, Square)["number"].tolist() == [2]
    run_all(square, [Square(2), Square(3), Square(3)], path, workers=1)
    assert path.read_text() == '{"number": 2, "squared": -1}\n{"number": 3, "squared": 9}\n'
    assert dict(read_runs(path, Square).to_numpy()) == {2: -1, 3: 9}


def wait_for(run):
    """Fail at once for 0; else end when the test lets it."""
    if run.number == 0:
        raise ZeroDivisionError
    marks = Path(os.environ["MARKS"])
    (marks / f"started-{run.number}").touch()
    while not (marks / "go").exists():
        time.sleep(0.01)
    return {"number": run.number, "value": 1}


def test_runs_that_end_are_kept_where_one_fails_and_no_other_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKS", str(tmp_path))
    (tmp_path / "go").touch()
    path = tmp_path / "runs.jsonl"
    with pytest.raises(ZeroDivisionError):
        run_all(wait_for, [Square(4), Square(0), Square(2), Square(3)], path, workers=1)
    assert read_runs(path, Square)["number"].tolist() == [4]
    assert [mark.name for mark in tmp_path.glob("started-*")] == ["started-4"]


def test_a_second_process_is_refused_while_one_adds_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKS", str(tmp_path))
    path = tmp_path / "runs.jsonl"
    first = Thread(target=run_all, args=(wait_for, [Square(1)], path, 1))
    first.start()
    try:
        while not (tmp_path / "started-1").exists():
            time.sleep(0.01)
        with pytest.raises(ResultsError, match=r"runs\.jsonl must have one writer; another proc"):
            run_all(square, [Square(1), Square(2)], path, workers=1)
    finally:
        (tmp_path / "go").touch()
        first.join()
    path.write_bytes(path.read_bytes().rstrip())  # a last line without its end is a run, too
    run_all(wait_for, [Square(1), Square(2)], path, workers=1)
    assert read_runs(path, Square)["number"].tolist() == [1, 2]


GOOD = b'{"number": 2, "squared": 4}\n'


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"null\n", "a run in each line; got None in line 2"),
        (b"12\n", "a run in each line; got 12 in line 2"),
        (b"[1]\n", r"a run in each line; got \[1\] in line 2"),
        (b"\0\0\n", "a run in each line; got .* in line 2"),
        (b"\n", "a run in each line; got b'' in line 2"),
        (b'{"number": 3, "squ\n', "a run in each line; got .* in line 2"),
        (b"[" * 100_000 + b"\n", "a run in each line; got .* in line 2"),
        (b"\xef\xbb\xbf" + GOOD, "a run in each line; got .* in line 2"),
        (b"\xff\xfe\n", "UTF-8; got .* in line 2"),
        (b'{"squared": 9}\n', "runs of runs; got none with number in line 2"),
        (b'{"number": [3], "squared": 9}\n', "runs of runs; got none with number in line 2"),
        (b'{"number": 3}\n', "values of each run; got none in line 2"),
        (GOOD, r"each run once; got \(2,\) in lines 1 and 2"),
        (b'{"number": 2, "squared": 5}', r"each run once; got \(2,\) in lines 1 and 2"),
    ],
)
def test_damaged_lines_are_refused_by_file_and_line(tmp_path, damaged, message):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(GOOD + damaged)
    for read in (
        lambda: read_runs(path, Square),
        lambda: run_all(square, [Square(7)], path, workers=1),
    ):
        with pytest.raises(ResultsError, match=rf"runs\.jsonl must (hold|be) {message}"):
            read()
    assert path.read_bytes() == GOOD + damaged


def test_line_separators_within_a_string_end_no_line(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"number": 2, "name": "a\u2028b\u0085c"}\n', encoding="utf-8")
    assert read_runs(path, Square)["name"].tolist() == ["a\u2028b\u0085c"]


def shown(runs):
    return f"{len(runs)} runs, squares {runs['squared'].sum()}"


def more(runs):
    return [Square(int(runs["squared"].max()))]


def test_a_plan_is_answered_and_rendered_again(tmp_path):
    plan = Plan(Square, square, [Square(2), Square(3)], shown, then=more)
    with pytest.raises(ResultsError, match=r"squares\.jsonl must hold runs"):
        answer("squares", plan, tmp_path, 1, render_only=True)
    with pytest.raises(ResultsError, match="name a folder of data"):
        answer("squares", plan._replace(runs=[]), tmp_path, 1, render_only=False)
    lines = '{"number": 2, "squared": 4}\n{"number": 3, "squared": 9}\n'
    (tmp_path / "squares.jsonl").write_text(lines)
    assert answer("squares", plan, tmp_path, 1, render_only=False) == "3 runs, squares 94"
    assert answer("squares", plan, tmp_path, 1, render_only=True) == "3 runs, squares 94"
    assert (tmp_path / "squares.md").read_text() == "3 runs, squares 94"


def test_every_question_has_a_command():
    shown = CliRunner().invoke(app, ["--help"])
    assert set(questions()) <= set(shown.output.split())
    for name in ("robustness", "backbones"):
        shown = CliRunner().invoke(app, [name, "--help"])
        assert shown.exit_code == 0
        assert "--render-only" in shown.output
    shown = CliRunner().invoke(app, ["robustness", "--help"], env={"COLUMNS": "200"})
    assert "`data/tasks.py` with each corruption" in shown.output  # no break but the terminal's
    shown = CliRunner().invoke(app, ["robustness", "--data", "none"])
    assert shown.exit_code == 2
    assert "got none" in shown.output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("robustness", None, "robustness.jsonl must hold runs; run without --render-only first"),
        ("robustness", b"torn", "robustness.jsonl must hold runs; run without"),
        ("robustness", b"3\n", "must hold a run in each line; got 3 in line 1"),
        ("robustness", b'{"a": 1}\n', "must hold runs of robustness; got none with data, corr"),
        ("robustness", b"\xff\n", "robustness.jsonl must be UTF-8; got"),
        ("backbones", None, "backbones.json must hold results; run without --render-only first"),
        ("backbones", b"{", "backbones.json must be JSON; got"),
    ],
)
def test_missing_and_damaged_results_are_an_error_of_one_line(tmp_path, name, content, message):
    if content is not None:
        ending = "jsonl" if name == "robustness" else "json"
        (tmp_path / f"{name}.{ending}").write_bytes(content)
    shown = CliRunner().invoke(app, [name, "--render-only", "--results", str(tmp_path)])
    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: ")
    assert message in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_reports_render_what_there_is():
    base = {"data": "faces-7k", "corruption": "imbalance-17+symmetric-40", "epochs": 1, "ece": 4.0}
    lines = [
        {**base, "method": method, "seed": seed, "accuracy": accuracy + seed}
        for method, accuracy in (("cross-entropy", 80.0), ("ours, robust", 82.0))
        for seed in range(2)
    ]
    text = robustness.report(pd.DataFrame(lines))
    assert "| ours, robust | 2 | 82.50 ± 6.35 |" in text
    assert (
        "| rendered faces, 7,000, 1 to 17, 40 % symmetric | 80.5 ± 6.4, 4.0 | 82.5 ± 6.4, 4.0 "
        "| cross-entropy, 80.5 ± 6.4 | **+2.0 ± 0.0** | |" in text
    )
    assert text.rstrip().endswith("| 2.00 ± 0.00 |")
    assert len(robustness.draw(pd.DataFrame(lines)).axes) == 1
    longer = pd.DataFrame([*lines, *({**line, "epochs": 2} for line in lines)])
    for epochs in (1, 2):
        assert f"| rendered faces, 7,000, 1 to 17, 40 % symmetric, {epochs} epochs | 80.5" in (
            robustness.report(longer)
        )
    titles = {axis.get_title().rpartition(", ")[2] for axis in robustness.draw(longer).axes}
    assert titles == {"1 epochs", "2 epochs"}
    cells = [
        {**Setup(k, noise, seed=seed)._asdict(), "accuracy": accuracy + seed - noise}
        for noise in paper_tables.PAPER_BY_NOISE
        for k, accuracy in ((0, 70.0), (8, 73.0 if noise else 71.0))
        for seed in range(3)
    ]
    text = paper_tables.report(pd.DataFrame(cells))
    assert "K = 8 against K = 0, clean labels: helps." in text
    assert "| 40 | 34.12 | +2.31 | 31.00 ± 2.48 | +3.00 ± 0.00 | helps |" in text
    assert "(mean of 5 to 50 %) by +0.50 points in the paper; here: +2.00 ± 0.00." in text
    assert "Not run yet." in text


def test_tuning_picks_by_seeds_that_no_table_uses():
    def line(setting, seed, accuracy):
        return {"method": "GCE", "setting": setting, "seed": seed, "accuracy": accuracy} | case

    case = {"data": "fashion-10k", "corruption": "clean"}
    lines = [line("q 0.7", 0, 85.0), line("q 0.3", 0, 84.0), line("q 0.3", 1, 87.0)]
    lines += [line("q 0.7", FIRST_SEED, 99.0), line("q 0.3", FIRST_SEED, 80.0)]
    runs = pd.DataFrame(lines)
    assert tuning.pick(runs)["GCE"] == "q 0.3"
    ours = [{"method": "ours, robust", "seed": FIRST_SEED, "accuracy": 81.0, **case}]
    text = tuning.report(runs, pd.DataFrame(ours))
    assert "| GCE | q 0.7: 85.00 | **q 0.3: 85.50** |" in text
    assert "| GCE, q 0.3 | 80.0 | +1.0 | not run | |" in text


def test_every_tuned_setting_trains():
    task = make_task(64)
    index = torch.arange(64)
    for grid in GRIDS.values():
        for make in grid.values():
            make(task, 1).loss(index, task.inputs, task.labels, 0).backward()


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
