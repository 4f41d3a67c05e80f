"""The report page: verdicts in words, what is shown of which run, and the browser's view of it."""

import base64
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from browsers import open_browser
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe

from examples.arbex.face_model import build_model
from examples.arbex.faces.face_table import TEST, TRAIN
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.report import judgement
from examples.arbex.report import page as page_module
from examples.arbex.report.evaluation import evaluate, predict_table
from examples.arbex.report.measuring import paired_lead
from examples.arbex.report.page import write_page
from examples.arbex.report.results import (
    Baseline,
    CalibrationResult,
    DoubtfulFace,
    DoubtfulLabels,
    FoundLabels,
    Rate,
    ReliabilityBin,
    RiskPoint,
    RunResults,
    SelectiveResult,
)
from examples.arbex.report.text import describe_calibration, format_results
from reliability_balance.diagnosis import Finding

NAMES = ("angry", "happy", "a class with a long name")
HISTORY = (
    "epoch,validation_accuracy,train_accuracy,train_loss,train_classification,train_branches,"
    "train_center,train_anchor\n1,.3,.4,3,2,1,0,0\n2,.5,.6,2,1,1,0,0\n"
)


@pytest.fixture(scope="module")
def run():
    """A model, its faces and results; every part of the results is there."""
    config = tiny_recipe()
    torch.manual_seed(0)
    bundle = ModelBundle(build_model(config, 3).eval(), config, NAMES, {"torch": "2"})
    table = synthetic_table(300, NAMES)
    test, train = table.subset(TEST), table.subset(TRAIN)
    output = predict_table(bundle.model, test, image_size=16)
    evaluation = evaluate(output, test)
    scores = replace(evaluation.corrected, accuracy=70.0, ece=15.0)
    bins = [ReliabilityBin(90.0, 70.0, 30), ReliabilityBin(50.0, 45.0, 20)]
    first = [
        DoubtfulFace(row, train.names[row], "angry", "happy", 0.97, 0.03, "mislabelled", truth)
        for row, truth in enumerate(("happy", "angry", NAMES[2]))
    ]
    results = RunResults(
        replace(evaluation, corrected=scores),
        Baseline(
            replace(scores, accuracy=40.0, kl=2 * scores.kl),
            Rate(30.0, 25.0, 35.0),
            "trained in the same job",
        ),
        DoubtfulLabels(
            *(200, 60, 5, Rate(28.0, 25.0, 31.0), "", first),
            FoundLabels(62, 55, 92.0, 97.0, 0.98, 0.95),
        ),
        CalibrationResult("temperature", 50, scores, replace(scores, ece=2.0), bins, bins),
        SelectiveResult(
            9.0, [RiskPoint(float(i), 0.3 * i) for i in range(1, 101)], 10.0, 0.8, 60.0, 9.0
        ),
        (Finding("2 of 6 anchors have collapsed onto another one", "raise `anchor_weight`"),),
    )
    return {"results": results, "bundle": bundle, "test": test, "train": train, "output": output}


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "history.csv").write_text(HISTORY)
    write_page(folder / "report.html", **run, history=folder / "history.csv")
    return folder / "report.html"


@pytest.fixture
def no_figures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr(page_module, "draw_figures", lambda *_: {})


def titles(text):
    return re.findall(r"<summary><h2>([^<]*)</h2>", text)


def test_the_first_screen_says_what_the_numbers_mean(page):
    text = page.read_text(encoding="utf-8")
    first_screen = re.sub(r"<[^>]+>|\s+", " ", text.split("<body>")[1].split("<details")[0])
    for expected in (
        "Better than cross-entropy. 70.0 % of the test faces are right, 40.0 % with plain",
        "31 % of them with wrong labels",
        "30.0 points better than cross-entropy",
        "50 % closer than cross-entropy",
        "after calibration well calibrated",
        "most were found, with few false alarms",
        "nearly all are wrong: the ranking can be trusted",
        "Review the 60 labels that are called wrong",
        f"python -m examples.arbex review {page.parent}",
        "2 of 6 anchors have collapsed onto another one: raise  anchor_weight .",
    ):
        assert re.sub(r"\s+", " ", expected) in re.sub(r"\s+", " ", first_screen)


def test_the_page_has_all_sections_and_prints_each_index_once(page):
    text = page.read_text(encoding="utf-8")
    assert titles(text) == [
        *("Doubtful labels", "Calibration", "Risk and coverage", "Classes", "All scores"),
        *("Example predictions", "Training", "Embedding", "Configuration"),
    ]
    assert len(re.findall("Davies-Bouldin", text)) == 1
    for name in ("labels", "calibration", "risk", "classes"):
        assert text.count(f'href="#{name}"') <= text.count(f'id="{name}"') == 1
    assert "default-src 'none'" in text
    for image in re.findall("<img [^>]*>", text):
        assert re.search('alt="[^"]+"', image)


def test_a_part_that_the_run_lacks_has_no_section(run, tmp_path):
    bare = RunResults(run["results"].evaluation)
    write_page(tmp_path / "report.html", **{**run, "results": bare, "train": None})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert titles(text) == [
        *("Classes", "All scores", "Example predictions", "Embedding", "Configuration")
    ]
    assert "cross-entropy" not in text.split("<details")[0]
    assert "always guessing the most frequent class gives" in text


def test_labels_whose_truth_is_unknown_are_not_judged(run, tmp_path, no_figures):
    doubtful = replace(run["results"].doubtful, found=None, noise_rate=None)
    doubtful = replace(doubtful, first=[replace(each, truth=None) for each in doubtful.first])
    results = replace(run["results"], doubtful=doubtful)
    write_page(tmp_path / "report.html", **{**run, "results": results})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Labels called wrong" in text
    assert "Wrong labels found" not in text
    assert "suggestion right" not in text


def test_without_verdicts_no_label_is_shown_as_wrong(run, tmp_path, no_figures):
    doubtful = replace(run["results"].doubtful, caution="see `held_back`")
    results = replace(run["results"], doubtful=doubtful)
    write_page(tmp_path / "report.html", **{**run, "results": results})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "labels cannot be judged yet" in text
    assert "No verdicts: see <code>held_back</code>." in text
    assert "<s>" not in text


def steps(results):
    return [each.text for each in judgement.next_steps(results, "review")]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            (10.3, 1.809),
            (17.5, 2.240),
            "Do not use the calibrated probabilities: ECE 10.3 %",
        ),
        ((10.3, 1.809), (2.5, 2.240), "Do not use"),
        ((10.3, 1.809), (4.0, 1.500), "Use the calibrated probabilities, which are off by 4.0"),
        ((2.0, 1.500), (2.5, 1.510), None),  # good either way
    ],
)
def test_a_calibration_is_recommended_only_if_it_helped(run, before, after, expected):
    calibration = run["results"].calibration
    first, second = (replace(calibration.before, ece=ece, nll=nll) for ece, nll in (before, after))
    calibration = replace(calibration, before=first, after=second)
    results = replace(run["results"], calibration=calibration)
    advice = [each for each in steps(results) if "calibrated probabilities" in each]
    assert len(advice) == (expected is not None)
    assert all(each.startswith(expected) for each in advice)
    harmed = expected is not None and expected.startswith("Do not")
    assert ("did not help" in judgement.calibrated(calibration).text) == harmed
    assert ("it did not help" in describe_calibration(calibration)) == harmed


def test_a_calibration_that_fitted_nothing_is_neither_advised_nor_shown(run, tmp_path, no_figures):
    calibration = run["results"].calibration
    calibration = replace(calibration, method="the identity", after=calibration.before)
    results = replace(run["results"], calibration=calibration)
    assert not any("calibrated probabilities" in each for each in steps(results))
    text = format_results(results)
    assert "nothing was fitted, since 50 validation faces are too few" in text
    assert "not help" not in text
    assert "calibrated" not in text
    write_page(tmp_path / "report.html", **{**run, "results": results})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing was fitted: 50 validation faces are too few" in page
    assert "after calibration" not in page
    assert "the identity" not in page


def test_findings_say_on_which_faces(run):
    assert steps(run["results"])[-1].startswith("On the validation faces, 2 of 6 anchors")
    assert "on the validation faces: 2 of 6" in format_results(run["results"])


@pytest.mark.parametrize(("attainable", "said"), [(100.0, False), (91.2, True), (None, False)])
def test_only_ambiguous_faces_are_called_ambiguous(run, tmp_path, no_figures, attainable, said):
    evaluation = replace(run["results"].evaluation, attainable_accuracy=attainable)
    results = replace(run["results"], evaluation=evaluation)
    write_page(tmp_path / "report.html", **{**run, "results": results})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("The faces are ambiguous" in text) == said
    assert "those of the corrected predictions as trained" in text


def test_figures_follow_the_colour_scheme(page):
    figures = sorted((page.parent / "figures").iterdir())
    assert [each.stem for each in figures] == [
        *("accuracy", "anchors", "embedding", "loss", "reliability", "risk")
    ]
    for figure in figures:
        svg = figure.read_text(encoding="utf-8")
        ElementTree.fromstring(svg)
        assert "prefers-color-scheme: dark" in svg
        assert "var(--muted)" in svg or "var(--ink)" in svg
        source = base64.b64encode(svg.encode()).decode()
        assert f"data:image/svg+xml;base64,{source}" in page.read_text(encoding="utf-8")


def test_equal_runs_have_equal_pages(run, page, tmp_path):
    write_page(tmp_path / "report.html", **run, history=page.parent / "history.csv")
    first, second = (
        each.read_text(encoding="utf-8").replace(str(each.parent), "")
        for each in (page, tmp_path / "report.html")
    )
    assert first == second


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_overflows_the_window(page, width, scheme):
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        requests = []
        tab.on("request", lambda each: requests.append(each.url))
        tab.goto(page.as_uri())
        tab.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        outside = tab.evaluate(
            "[...document.querySelectorAll('main *')].filter(each => !each.closest('.wide, pre') "
            f"&& each.getBoundingClientRect().right > {width}).map(each => each.outerHTML)"
        )
        assert outside == []
        assert [each for each in requests if not each.startswith("data:")] == [page.as_uri()]
        colors = tab.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).background]"
        )
        assert ("rgb(20, 24, 29)" in colors[1]) == (scheme == "dark")


def test_tips_and_links_work_by_keyboard(page):
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": 400, "height": 800})
        tab.goto(page.as_uri())
        tab.keyboard.press("Tab")
        tip = "getComputedStyle(document.activeElement, '::after').content"
        assert "most probable class is the label" in tab.evaluate(tip)
        assert not tab.evaluate("document.querySelector('#risk').checkVisibility()")
        tab.focus('a[href="#risk"]')
        tab.keyboard.press("Enter")
        tab.wait_for_function("document.querySelector('#risk').checkVisibility()")


counts = st.integers(0, 60)


def lead_of(gained, lost, count):
    """The lead of a model that is right on `gained` faces more and on `lost` faces less."""
    first, second = torch.ones(2, count, dtype=torch.bool)
    second[:gained] = False
    first[gained : gained + lost] = False
    return paired_lead(first, second)


@given(counts, counts, st.integers(120, 3000))
def test_a_model_is_ahead_only_where_mcnemar_says_so(gained, lost, count):
    judged = judgement.lead_over(lead_of(gained, lost, count))
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    # The interval is approximate, so that only clear cases are decided.
    if p < 0.02:
        assert judged.tone == ("good" if gained > lost else "bad")
        assert ("better" in judged.text) == (gained > lost)
    if p > 0.08:
        assert judged.tone == ""


def test_faces_that_both_get_right_narrow_the_interval_of_a_lead():
    """Unpaired, the same accuracies would not differ: 1.5 points, within 2.8 either way."""
    lead = lead_of(gained=30, lost=5, count=1700)
    assert lead.value == pytest.approx(100 * 25 / 1700)
    assert judgement.differs(lead)


def test_the_interval_of_a_lead_holds_the_true_one_in_95_percent():
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.7, 0.12, 0.06, 0.12])  # both right, ours only, theirs only, neither
    drawn = chances.multinomial(400 * 300, replacement=True, generator=generator).view(400, 300)
    leads = [paired_lead(each < 2, (each == 0) | (each == 2)) for each in drawn]
    covered = sum(lead.low <= 6.0 <= lead.high for lead in leads)
    assert 0.92 * 400 <= covered <= 0.98 * 400


@given(counts, counts)
def test_the_two_models_swapped_swap_the_verdict(run, gained, lost):
    def word(*faces):
        evaluation = run["results"].evaluation
        baseline = Baseline(evaluation.corrected, lead_of(*faces, 500), "")
        return judgement.overall(RunResults(evaluation, baseline)).word

    opposite = {"Better": "Worse", "Worse": "Better", "Level": "Level"}
    assert opposite[word(gained, lost).split()[0]] == word(lost, gained).split()[0]


@pytest.mark.parametrize(
    ("ece", "confidence", "accuracy", "expected", "tone"),
    [
        (2.0, 80.0, 79.0, "well calibrated", "good"),
        (5.0, 80.0, 75.0, "overconfident: 80 % sure on average, right for 75 %", "warn"),
        (12.0, 60.0, 72.0, "underconfident: 60 % sure on average, right for 72 %", "bad"),
        (12.0, 71.0, 72.0, "overconfident for some faces, underconfident for others", "bad"),
    ],
)
def test_a_calibration_error_has_a_direction(ece, confidence, accuracy, expected, tone):
    bins = [
        ReliabilityBin(confidence - 10, accuracy, 10),
        ReliabilityBin(confidence + 10, accuracy, 10),
    ]
    assert judgement.calibration_of(ece, bins) == (expected, tone)


def test_the_weakest_class_is_named_with_what_it_is_taken_for(run):
    evaluation = replace(
        run["results"].evaluation, confusion=[[90, 9, 1], [0, 100, 0], [5, 45, 50]]
    )
    results = RunResults(evaluation)
    assert judgement.most_confused(results, NAMES[2]) == ("happy", 45.0)
    assert judgement.most_confused(results, NAMES[0]) == ("happy", 9.0)
