"""The review of doubtful labels: decisions, their file, the page, and other tools."""

import csv
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import yaml
from browsers import open_browser
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from synthetic_faces import synthetic_table
from typer.testing import CliRunner

from examples.arbex import run_data
from examples.arbex.__main__ import app
from examples.arbex.faces.face_table import Correction
from examples.arbex.readers.corrections import (
    VERDICTS,
    describe_corrections,
    read_corrections,
    save_corrections,
    with_corrections,
)
from examples.arbex.readers.rows import ReadingError
from examples.arbex.review import exchange, fiftyone_app, queue
from examples.arbex.review.queue import DoubtfulFace, Review, open_review, read_doubtful
from examples.arbex.review.server import KEYS, build_review
from examples.arbex.serving import local

CLASSES = ("angry", "happy", "sad")
HARMFUL = ("<script>window.hit = 1</script>", "\"'><img src=x onerror='window.hit = 1'>")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)


def review_of(table, file, rows=(0, 4, 8), **options):
    """The given label is right for all faces; the next class is suggested."""
    names = table.class_names
    faces = [
        DoubtfulFace(
            table.names[row],
            row,
            names[int(table.labels[row])],
            names[(int(table.labels[row]) + 1) % len(names)],
            0.9 - 0.1 * place,
        )
        for place, row in enumerate(rows)
    ]
    return Review(table, faces, file, **options)


@pytest.fixture
def review(tmp_path):
    return review_of(synthetic_table(), tmp_path / "corrections.csv")


@pytest.fixture
def run(tmp_path):
    """A folder with files of a run: faces in folders, and a ranking of their labels."""
    for label, name in enumerate(CLASSES):
        for index in range(12):
            path = tmp_path / "faces" / name / f"={label}{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (80 * label, 20 * index, 0)).save(path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE.format(root=tmp_path / "faces"))
    (folder / "doubtful_labels.csv").write_text(
        "sample,given,suggested,verdict,doubt,plausibility\n"
        "angry/=03.png,angry,sad,mislabelled,0.98,0.01\n"
        "happy/=12.png,happy,happy,undoubted,0.95,0.01\n"  # nothing to correct
        "happy/=17.png,happy,angry,mislabelled,0.90,0.02\n"
        "sad/=21.png,sad,happy,ambiguous,0.60,0.40\n"
        "sad/=25.png,sad,happy,undoubted,0.10,0.90\n"
    )
    return folder


RECIPE = """
data: {{dataset: folders, root: {root}, image_size: 16, per_class: 8, max_missing: 1.0}}
encoder: {{name: small_cnn, options: {{width: 4}}}}
recipe: {{num_anchors: 2, logit_adjustment: false}}
optimization: {{epochs: 1, batch_size: 4}}
"""


def invoke(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_without_verdicts_the_order_of_doubt_is_reviewed(run):
    assert open_review(run, 5).caution == ""
    file = run / "doubtful_labels.csv"
    text = file.read_text()
    for verdict in ("mislabelled", "ambiguous", "undoubted"):
        text = text.replace(verdict, "unknown")
    file.write_text(text)
    review = open_review(run, 2)
    assert [face.name for face in review.faces] == ["angry/=03.png", "happy/=12.png"]
    assert review.faces[1].suggested == review.faces[1].given
    assert review.caution.startswith("No verdicts: the model has learned too little.")
    review.decide(1, "happy")
    assert review.decision(1).verdict == "kept"


# The file of corrections


@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT, st.sampled_from(VERDICTS)), unique_by=lambda row: row[0])
)
@example([("a\rb.png", "angry\r", "\nsad", "changed")])
def test_corrections_are_read_as_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("corrections") / "corrections.csv"
    corrections = [
        Correction(name, before, before if verdict == "kept" else label, verdict)
        for name, before, label, verdict in rows
        if verdict == "kept" or label != before
    ]
    save_corrections(path, corrections)
    assert read_corrections(path) == corrections
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,given\n", ":1: expected a header"),
        ("path,given,corrected,verdict\na,b,c\n", ":2: expected 4 columns"),
        ("path,given,corrected,verdict\na,b,c,perhaps\n", ":2: expected a verdict"),
        ("path,given,corrected,verdict\na,b,b,kept\na,b,b,kept\n", ":3: expected each face once"),
        ("path,given,corrected,verdict\na,b,c,kept\n", ":2: expected `kept` .*got b -> c, kept"),
        ("path,given,corrected,verdict\na,b,b,changed\n", ":2: expected `kept` .*b -> b, changed"),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path, content, expected):
    path = tmp_path / "corrections.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=expected):
        read_corrections(path)


def test_corrections_change_these_labels_alone(tmp_path):
    table = synthetic_table()
    path = tmp_path / "corrections.csv"
    save_corrections(
        path,
        [
            Correction(table.names[4], "happy", "sad", "accepted"),
            Correction(table.names[5], "sad", "sad", "kept"),
        ],
    )
    corrected = with_corrections(table, path)
    expected = table.labels.clone()
    expected[4] = 2
    assert torch.equal(corrected.labels, expected)
    assert torch.equal(corrected.distributions, table.distributions)  # the true ones
    voted = replace(table, true_labels=None)
    distributions = with_corrections(voted, path).distributions
    assert distributions[4].tolist() == [0, 0, 1]
    kept = torch.arange(len(table)) != 4
    assert torch.equal(distributions[kept], table.distributions[kept])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            ("elsewhere.png", "happy", "sad", "changed"),
            "faces must be in synthetic; got elsewhere.png: .* another recipe or seed",
        ),
        (("0004.png", "happy", "bored", "changed"), "must be classes of .*; got bored"),
        (("0004.png", "sad", "happy", "changed"), r"0004.png \(given sad, is happy\)"),
    ],
)
def test_corrections_of_other_data_are_refused(tmp_path, row, expected):
    save_corrections(tmp_path / "corrections.csv", [Correction(*row)])
    with pytest.raises(ValueError, match=expected):
        with_corrections(synthetic_table(), tmp_path / "corrections.csv")


def test_a_name_of_two_faces_is_refused(tmp_path):
    table = synthetic_table()
    table = replace(table, names=["same.png"] * len(table))
    save_corrections(tmp_path / "c.csv", [Correction("same.png", "angry", "sad", "changed")])
    with pytest.raises(ValueError, match=r"of one face each; got same\.png"):
        with_corrections(table, tmp_path / "c.csv")


def test_a_training_says_how_many_labels_were_changed(tmp_path):
    path = tmp_path / "c.csv"
    rows = [("0000.png", "angry", "sad", "changed"), ("0001.png", "happy", "happy", "kept")]
    save_corrections(path, [Correction(*row) for row in rows])
    printed = describe_corrections(path, read_corrections(path))
    assert printed == f"1 labels changed by {path}, of 2 reviewed"


# Decisions


def test_each_decision_is_on_disk_at_once(review):
    review.decide(0, review.faces[0].suggested)
    review.decide(1, review.faces[1].given)
    review.decide(2, "angry" if review.faces[2].given == "happy" else "happy")
    assert [each.verdict for each in read_corrections(review.file)] == [
        *("accepted", "kept", "changed" if review.faces[2].suggested != "happy" else "accepted")
    ]
    review.decide(1, None)
    assert [each.path for each in read_corrections(review.file)] == [
        review.faces[place].name for place in (0, 2)
    ]


def test_a_review_goes_on_where_it_stopped(review):
    review.decide(1, "sad")
    again = review_of(review.table, review.file)
    assert again.decision(0) is None
    assert again.decision(1).corrected == "sad"


def test_two_reviews_of_one_run_add_up(review):
    other = review_of(review.table, review.file)
    review.decide(0, "sad")
    other.decide(1, "sad")
    found = {each.path: each.corrected for each in read_corrections(review.file)}
    assert found == {review.faces[0].name: "sad", review.faces[1].name: "sad"}


def test_a_decision_of_another_review_is_not_overruled_unseen(review):
    other = review_of(review.table, review.file)
    review.decide(0, "sad")
    with pytest.raises(ValueError, match=rf"another review has decided on {review.faces[0].name}"):
        other.decide(0, "happy")
    assert other.decision(0).corrected == "sad" == read_corrections(review.file)[0].corrected
    other.decide(0, "happy")
    assert read_corrections(review.file)[0].corrected == "happy"


def test_reviews_wait_for_each_other(tmp_path):
    table = synthetic_table()
    rows = range(0, 32, 2)
    reviews = [review_of(table, tmp_path / "corrections.csv", rows) for _ in rows]
    with ThreadPoolExecutor(len(rows)) as pool:
        list(pool.map(lambda number: reviews[number].decide(number, "sad"), range(len(rows))))
    assert len(read_corrections(tmp_path / "corrections.csv")) == len(rows)


@pytest.mark.parametrize(("number", "label"), [(3, "sad"), (-1, "sad"), (0, "bored")])
def test_an_unknown_face_or_class_changes_nothing(review, number, label):
    with pytest.raises(ValueError, match="must"):
        review.decide(number, label)
    assert not review.file.exists()


def test_the_file_repeats_the_corrections_of_the_training(tmp_path):
    """So that it fits the data as given, and the next training needs one file alone."""
    table = synthetic_table()
    earlier = Correction(table.names[0], "angry", "happy", "accepted")
    save_corrections(tmp_path / "earlier.csv", [earlier])
    trained = with_corrections(table, tmp_path / "earlier.csv")
    review = review_of(trained, tmp_path / "new.csv", earlier={earlier.path: earlier})
    assert review.decision(0) is None
    review.decide(1, "sad")
    assert with_corrections(table, review.file).labels[[0, 4]].tolist() == [1, 2]
    review.decide(0, "sad")  # given angry, trained as happy
    assert with_corrections(table, review.file).labels[0] == 2
    review.decide(0, None)
    assert with_corrections(table, review.file).labels[0] == 1


@pytest.mark.parametrize("corrected", ["angry", "happy"])
def test_a_label_that_an_earlier_review_chose_can_be_kept(tmp_path, corrected):
    table = synthetic_table()
    verdict = "kept" if corrected == "angry" else "changed"
    earlier = Correction(table.names[0], "angry", corrected, verdict)
    save_corrections(tmp_path / "earlier.csv", [earlier])
    trained = with_corrections(table, tmp_path / "earlier.csv")
    options = {"earlier": {earlier.path: earlier}}
    review = review_of(trained, tmp_path / "new.csv", **options)
    review.decide(1, "sad")
    assert review_of(trained, review.file, **options).decision(0) is None
    review.decide(0, corrected)
    assert review_of(trained, review.file, **options).decision(0) == earlier
    review.decide(0, None)
    assert review_of(trained, review.file, **options).decision(0) is None
    assert with_corrections(table, review.file).labels[0] == trained.labels[0]


HEADER = "sample,given,suggested,doubt"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("sample,given\n", r":1: expected columns sample, given, suggested, doubt"),
        (f"{HEADER}\n0000.png,angry\n", r":2: expected 4 columns; got 2"),
        (f"{HEADER}\n0000.png,bored,sad,0.9\n", r":2: expected a class of .* `given`; got 'bored'"),
        (
            f"{HEADER}\n0000.png,sad,bored,0.9\n",
            r":2: expected a class .* `suggested`; got 'bored'",
        ),
        *(
            (f"{HEADER}\n0000.png,angry,sad,{doubt}\n", rf":2: .* in `doubt`; got '{doubt}'")
            for doubt in ("much", "nan", "inf", "-0.1", "1.1", "")
        ),
        (f"{HEADER}\n0.png,angry,sad,1\n0.png,angry,sad,1\n", r":3: .* once in `sample`"),
        (f"{HEADER}\n\xff", r"expected UTF-8 text"),
    ],
)
def test_a_damaged_list_of_doubtful_labels_is_refused_by_line_and_column(
    tmp_path, content, expected
):
    path = tmp_path / "doubtful_labels.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ReadingError, match=expected):
        read_doubtful(path, synthetic_table(), 9)


# The page


def send(address, path="decide", body=b'{"face": 0, "label": "sad"}', **headers):
    request = urllib.request.Request(address + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def address(review):
    with local.running(build_review(review), None) as address:
        yield address


def test_the_server_saves_a_decision(review, address):
    status, body = send(address)
    assert status == 200
    assert json.loads(body)["corrected"] == "sad"
    assert read_corrections(review.file)[0].corrected == "sad"
    status, body = send(address, "faces", None)
    assert [each["verdict"] is None for each in json.loads(body)] == [False, True, True]
    status, body = send(address, "faces/1.png", None)
    assert body.startswith(b"\x89PNG")
    assert send(address, "faces/9.png", None)[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b"\xff", b'{"face": 0}', b'{"face": 0, "label": 3}'),
        *(b'{"face": true, "label": "sad"}', b'{"face": 9, "label": "sad"}', b"[" * 30000),
        *(b'{"face": 0, "label": "bored"}', b'{"face": 1e999, "label": "sad"}'),
    ],
)
def test_a_bad_decision_is_refused(review, address, body):
    assert send(address, body=body)[0] == 400
    assert not review.file.exists()


def test_other_sites_and_large_bodies_are_refused(review, address):
    assert send(address, origin="http://evil.example")[0] == 403
    assert send(address, **{"sec-fetch-site": "cross-site"})[0] == 403
    assert send(address, host="evil.example")[0] == 400
    assert send(address, body=b" " * 10**5)[0] == 413
    assert not review.file.exists()


def test_a_full_disk_is_reported_and_the_decision_is_open(review, address, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(queue, "save_corrections", full)
    status, body = send(address)
    assert (status, b"was not saved" in body) == (507, True)
    assert json.loads(send(address, "faces", None)[1])[0]["verdict"] is None


def test_the_keys_of_the_page(review, address):
    expect = pytest.importorskip("playwright.sync_api").expect
    with open_browser() as browser:
        tab = browser.new_page()
        tab.goto(address)
        tab.wait_for_selector("#face:not([hidden])")

        def press(key, expected):
            tab.keyboard.press(key)
            expect(tab.locator("#place")).to_have_text(expected)

        press("Enter", "2 of 3")
        press("k", "3 of 3")
        tab.keyboard.press("1")
        tab.wait_for_selector("#done:not([hidden])")
        assert [each.verdict for each in read_corrections(review.file)][:2] == ["accepted", "kept"]
        assert read_corrections(review.file)[2].corrected == "angry"
        tab.keyboard.press("u")
        tab.wait_for_selector("#done", state="hidden")
        assert len(read_corrections(review.file)) == 2
        press("ArrowLeft", "2 of 3")
        tab.focus("#keep")
        tab.keyboard.press("Enter")  # a click on this button, and nothing else
        expect(tab.locator("#place")).to_have_text("3 of 3")
        assert read_corrections(review.file)[1].verdict == "kept"


def test_a_suggestion_that_is_the_label_is_hidden(review, address):
    expect = pytest.importorskip("playwright.sync_api").expect
    review.faces[1] = review.faces[1]._replace(suggested=review.faces[1].given)
    with open_browser() as browser:
        tab = browser.new_page()
        tab.goto(address)
        expect(tab.locator("#accept")).to_be_visible()
        tab.keyboard.press("ArrowRight")
        expect(tab.locator("#place")).to_have_text("2 of 3")
        expect(tab.locator("#suggestion")).to_be_hidden()
        expect(tab.locator("#accept")).to_be_hidden()
        tab.keyboard.press("Enter")
        expect(tab.locator("#place")).to_have_text("3 of 3")
        assert [each.verdict for each in read_corrections(review.file)] == ["kept"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_whole_page(address, scheme):
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
        requests = []
        tab.on("request", lambda each: requests.append(each.url))
        tab.goto(address)
        tab.wait_for_selector("#face:not([hidden])")
        assert tab.evaluate("document.documentElement.scrollWidth") == 400
        assert all(each.startswith((address, "data:")) for each in requests)


def test_names_are_text_on_the_page(tmp_path):
    table = replace(
        synthetic_table(class_names=(*HARMFUL, "sad")),
        names=[f"{HARMFUL[1]}{i}" for i in range(96)],
    )
    review = review_of(table, tmp_path / "corrections.csv")
    expect = pytest.importorskip("playwright.sync_api").expect
    with local.running(build_review(review), None) as address, open_browser() as browser:
        tab = browser.new_page()
        tab.goto(address)
        tab.wait_for_selector("#face:not([hidden])")
        tab.keyboard.press("Enter")
        expect(tab.locator("#place")).to_have_text("2 of 3")
        assert tab.evaluate("window.hit") is None
        assert HARMFUL[0] in tab.inner_text("main")
    assert read_corrections(review.file)[0].path == review.faces[0].name


def test_each_class_has_a_key_of_its_own():
    assert len(set(KEYS)) == len(KEYS) >= 34
    assert not set("ku") & set(KEYS)


# Other tools

KEY = "0000000-d16394e2"  # of 0000.png, in row 0


def test_a_round_trip_through_label_studio(run, tmp_path, monkeypatch):
    invoke("review-export", run, "--out", tmp_path / "out", "--limit", 3)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [each["predictions"][0]["result"][0]["value"]["choices"] for each in tasks] == [
        *(["sad"], ["angry"], ["happy"])
    ]
    config = (tmp_path / "out" / "config.xml").read_text()
    control = tasks[0]["predictions"][0]["result"][0]
    assert f'<Choices name="{control["from_name"]}" toName="{control["to_name"]}"' in config
    # As a reviewer: accept the first, keep the second after a change of mind, skip the third.
    for task, choices in zip(tasks, (["sad"], ["sad", "happy"], []), strict=True):
        task["annotations"] = [
            {"was_cancelled": False, "result": [{**control, "value": {"choices": [choice]}}]}
            for choice in choices
        ]
    tasks[2]["annotations"] = [{"was_cancelled": True, "result": []}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert "2 labels reviewed" in invoke("review-import", tmp_path / "export.json", run)
    assert read_corrections(run / "corrections.csv") == [
        ("angry/=03.png", "angry", "sad", "accepted"),
        ("happy/=17.png", "happy", "happy", "kept"),
    ]
    train_reads(run, tmp_path, monkeypatch)


def test_a_round_trip_through_fiftyone(run, tmp_path, monkeypatch):
    monkeypatch.setattr(fiftyone_app, "is_installed", lambda: False)
    out = tmp_path / "out"
    invoke("review-export", run, "--tool", "fiftyone", "--out", out, "--limit", 3)
    content = json.loads((out / "labels.json").read_text())
    keys = list(content["labels"])
    assert {path.stem for path in (out / "data").iterdir()} == set(keys)
    assert [content["labels"][key]["label"] for key in keys] == ["angry", "happy", "sad"]
    # FiftyOne exports indices of classes, unless asked for more.
    exported = {"classes": ["sad", "happy"], "labels": dict(zip(keys, (0, 1, 0), strict=True))}
    (tmp_path / "labels.json").write_text(json.dumps(exported))
    output = invoke(
        "review-import", tmp_path / "labels.json", run, "--tool", "fiftyone", "--limit", 3
    )
    assert "1 labels reviewed" in output  # of the others it is unknown whether they were looked at
    assert read_corrections(run / "corrections.csv") == [
        ("angry/=03.png", "angry", "sad", "accepted")
    ]
    train_reads(run, tmp_path, monkeypatch)


def train_reads(run, tmp_path, monkeypatch):
    """The next training applies the corrections, and a review of it starts from them."""
    recipe, out = run / "recipe.yaml", tmp_path / "next"
    file = run / "corrections.csv"
    options = ("--out", out, "--corrections", file, "--accelerator", "cpu")
    read = file.read_bytes()
    load_faces = run_data.load_faces

    def load_and_decide(data):
        """A decision in the first run, while the second one loads its data."""
        faces = load_faces(data)
        open_review(run, 5).decide(2, "angry")
        return faces

    with monkeypatch.context() as patch:
        patch.setattr(run_data, "load_faces", load_and_decide)
        printed = invoke("train", "--recipe", recipe, *options)
    assert f"1 labels changed by {file}" in printed
    assert yaml.safe_load((out / "recipe.yaml").read_text())["data"]["corrections"] == str(file)
    assert (out / "trained_corrections.csv").read_bytes() == read != file.read_bytes()
    invoke("train", "--resume", "--out", out, "--accelerator", "cpu")
    invoke("doubtful", out)
    (out / "doubtful_labels.csv").write_text(
        "sample,given,suggested,doubt\nangry/=03.png,sad,happy,0.9\n"
    )
    following = open_review(out, 5)
    row = following.faces[0].row
    assert following.table.class_names[following.table.labels[row]] == "sad"
    following.decide(0, "happy")
    assert read_corrections(out / "corrections.csv")[0][:3] == ("angry/=03.png", "angry", "happy")


def task_of(path, *choices):
    """A task of Label Studio whose annotation has these choices."""
    results = [{"from_name": exchange.CONTROL, "value": {"choices": each}} for each in choices]
    return {"data": {"path": path}, "annotations": [{"result": results}]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("{}", "expected a JSON list; got dict"),
        ("[3]", "task 1: expected a task of an export as JSON"),
        ('[{"image": "x"}]', "task 1: expected a task of an export as JSON"),
        ('[{"data": {"path": ["a"]}, "annotations": []}]', "task 1: .* text at data.path"),
        ('[{"data": {"path": 3}, "annotations": []}]', "task 1: .* text at data.path"),
        ('[{"data": {"path": "a"}, "annotations": {}}]', "task 1: .* a list of annotations"),
        ('[{"data": {"path": "a"}, "annotations": [null]}]', "task 1, a: expected annotations"),
        ('[{"data": {"path": "a"}, "annotations": [{"result": {}}]}]', "task 1, a: .* a list"),
        *(
            (json.dumps([task_of("a", *choices)]), "task 1, a: expected one choice")
            for choices in ([["a", "b"]], ["x"], [[]], [[3]], [None], [["a"], ["b"]])
        ),
        (
            json.dumps([task_of("a", ["sad"]), task_of("b", ["sad"]), task_of("a", ["happy"])]),
            "task 3, a: expected one label per face, 'sad' as before; got 'happy'",
        ),
    ],
)
def test_other_files_are_no_export_of_label_studio(tmp_path, content, expected):
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(ReadingError, match=expected):
        exchange.read_label_studio(tmp_path / "export.json")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", "expected a JSON dict; got list"),
        ("{}", "expected labels of a FiftyOneImageClassificationDataset"),
        ('{"labels": {"x": 1}}', "x: expected one of the doubtful faces"),
        (
            '{"labels": {"0000000-00000000": {"label": "sad", "attributes": {"path": "b.png"}}}}',
            r"0000000-00000000: expected one of the doubtful faces; got b\.png",
        ),
        *(
            (f'{{"labels": {{"{KEY}": {label}}}, "classes": ["a"]}}', f"{KEY}: expected a class")
            for label in ("7", "-1", "true", "[]", "1.0", '{"label": -1}')
        ),
        (
            '{"labels": {"KEY": {"label": "sad", "attributes": {"path": "other.png"}}}}'.replace(
                "KEY", KEY
            ),
            rf"{KEY}: expected the face 0000\.png; got other\.png, of other data",
        ),
    ],
)
def test_other_files_are_no_labels_of_fiftyone(review, tmp_path, content, expected):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ReadingError, match=expected):
        exchange.read_fiftyone(tmp_path / "labels.json", review)


def test_imported_faces_and_classes_must_be_known(review):
    with pytest.raises(ValueError, match=r"among the doubtful ones; got other\.png"):
        review.take_over({"other.png": "sad"})
    with pytest.raises(ValueError, match="`label` must be one of angry, happy, sad; got 'bored'"):
        review.take_over({review.faces[0].name: "bored"})
    assert not review.file.exists()


def test_fiftyone_reads_the_export_and_its_own_is_read(review, tmp_path):
    """By its importer and exporter, which need no database."""
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    exporters = pytest.importorskip("fiftyone.utils.data.exporters")
    exchange.export_fiftyone(review, tmp_path)
    with importers.FiftyOneImageClassificationDatasetImporter(str(tmp_path)) as importer:
        samples = [(path, label) for path, _, label in importer]
        classes = importer.get_dataset_info()["classes"]
    assert [label.label for _, label in samples] == [each.given for each in review.faces]
    assert [label.suggested for _, label in samples] == [each.suggested for each in review.faces]
    samples[0][1].label = review.faces[0].suggested
    back = tmp_path / "back"
    with exporters.FiftyOneImageClassificationDatasetExporter(
        str(back), export_media=False, classes=classes
    ) as exporter:
        for sample in samples:
            exporter.export_sample(*sample)
    labels = exchange.read_fiftyone(back / "labels.json", review)
    assert labels == {review.faces[0].name: review.faces[0].suggested}
