"""What people get to see of doubtful labels: a table file, a page, and pictures within it."""

import base64
import csv
import dataclasses
import io
import os
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from reliability_balance.data import SampleIds
from reliability_balance.labels import (
    LabelRanking,
    Verdict,
    gallery,
    save_csv,
    save_gallery,
    save_parquet,
)
from reliability_balance.labels.gallery import COLUMNS, encode_png

CLASS_NAMES = ["cat", 'dog, "old"', "<b>&owl</b>"]
SAMPLE_NAMES = ["a.png", "b.png", "<script>alert(1)</script>", 'd" onerror="x', "ü\n=1"]


def make_ranking(**names):
    return LabelRanking(
        sample=torch.tensor([2, 4, 0, 3]),
        given=torch.tensor([0, 2, 1, 1]),
        suggested=torch.tensor([2, 1, 0, 1]),
        doubt=torch.tensor([0.99, 0.8, 0.6, 0.1]),
        plausibility=torch.tensor([0.01, 0.1, 0.7, 1.0]),
        verdict=torch.tensor([2, 2, 1, 0]),
        **names,
    )


def picture_of(sample):
    return np.full((4, 6, 3), 40 * sample, np.uint8)


class Page(HTMLParser):
    """Tags with their attributes, and all text, as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read_page(tmp_path, title="Doubtful labels", count=60, **names):
    path = tmp_path / "page.html"
    save_gallery(make_ranking(**names), path, picture_of, title=title, count=count)
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def test_csv_comes_back_as_it_was(tmp_path):
    path = tmp_path / "labels.csv"
    save_csv(make_ranking(class_names=CLASS_NAMES, sample_names=SAMPLE_NAMES), path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row, expected in zip(rows, make_ranking(), strict=True):
        assert row["sample"] == SAMPLE_NAMES[expected.sample]
        assert row["given"] == CLASS_NAMES[expected.given]
        assert row["suggested"] == CLASS_NAMES[expected.suggested]
        assert Verdict[row["verdict"].upper()] == expected.verdict
        assert float(row["doubt"]) == pytest.approx(expected.doubt, abs=1e-6)
        assert float(row["plausibility"]) == pytest.approx(expected.plausibility, abs=1e-6)


def test_names_run_no_formula_and_come_back(tmp_path):
    names = ["=1+1", "@x\r\n", "-1", "'b", os.fsdecode(b"caf\xe9")]
    ranking = make_ranking(class_names=names[:3], sample_names=names)
    save_csv(ranking, tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == ["'-1", r"caf\udce9", "'=1+1", "''b"]
    assert [row["given"] for row in rows] == ["'=1+1", "'-1", "'@x\r\n", "'@x\r\n"]
    page, _ = read_page(tmp_path, class_names=names[:3], sample_names=names)
    assert r"caf\udce9" in "".join(page.text)


def test_without_names_there_are_indices(tmp_path):
    save_csv(make_ranking(), tmp_path / "labels.csv")
    text = (tmp_path / "labels.csv").read_text(encoding="utf-8")
    assert text.splitlines()[1] == "2,0,2,mislabelled,0.990000,0.010000"
    page, _ = read_page(tmp_path)
    assert page.all("img")[0]["alt"] == "2: labelled 0, mislabelled, suggested 2"


def test_a_table_written_in_parts_is_the_same(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = []
    for part in (gallery.PART, 3, 1):
        monkeypatch.setattr(gallery, "PART", part)
        for save in (save_csv, save_parquet):
            save(make_ranking(sample_names=SAMPLE_NAMES), tmp_path / save.__name__)
        made.append(
            ((tmp_path / "save_csv").read_bytes(), parquet.read_table(tmp_path / "save_parquet"))
        )
    assert made[0] == made[1] == made[2]
    save_csv(make_ranking().first(0), tmp_path / "save_csv")
    assert (tmp_path / "save_csv").read_text(encoding="utf-8").split() == [",".join(COLUMNS)]


@pytest.mark.parametrize("named", [True, False])
def test_parquet_comes_back_as_it_was(tmp_path, named):
    parquet = pytest.importorskip("pyarrow.parquet")
    names = [*SAMPLE_NAMES[:4], os.fsdecode(b"caf\xe9")]
    options = {"class_names": CLASS_NAMES, "sample_names": names} if named else {}
    save_parquet(make_ranking(**options), tmp_path / "labels.parquet")
    rows = parquet.read_table(tmp_path / "labels.parquet").to_pylist()
    assert tuple(rows[0]) == COLUMNS
    for row, expected in zip(rows, make_ranking(), strict=True):
        sample = names[expected.sample].replace("\udce9", r"\udce9")
        assert row["sample"] == (sample if named else expected.sample)
        for each in ("given", "suggested"):
            place = getattr(expected, each)
            assert row[each] == (CLASS_NAMES[place] if named else place)
        assert row["verdict"] == expected.verdict.name.lower()
        assert (row["doubt"], row["plausibility"]) == (expected.doubt, expected.plausibility)


def test_without_pyarrow_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="a Parquet file needs pyarrow"):
        save_parquet(make_ranking(), tmp_path / "labels.parquet")
    assert not list(tmp_path.iterdir())


def test_sample_ids_are_names(tmp_path):
    save_csv(make_ranking(sample_names=SampleIds(SAMPLE_NAMES)), tmp_path / "ids.csv")
    save_csv(make_ranking(sample_names=SAMPLE_NAMES), tmp_path / "names.csv")
    assert (tmp_path / "ids.csv").read_bytes() == (tmp_path / "names.csv").read_bytes()
    unnamed = make_ranking(sample_names=list("abcde"))
    assert [line.split()[:2] for line in str(unnamed).splitlines()[1:]] == [
        ["c", "0"],
        ["e", "2"],
        ["a", "1"],
        ["d", "1"],
    ]


@pytest.mark.parametrize("save", [save_csv, save_parquet])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, save):
    if save is save_parquet:
        pytest.importorskip("pyarrow")
    path = tmp_path / "labels.csv"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save(make_ranking(), path)
    assert [each.name for each in tmp_path.iterdir()] == ["labels.csv"]
    assert path.read_text(encoding="utf-8") == "old"


def test_page_is_whole_and_asks_nobody(tmp_path):
    page, text = read_page(tmp_path, class_names=CLASS_NAMES, sample_names=SAMPLE_NAMES)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "b"})
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert "http" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert page.all("meta")[1]["content"] == "width=device-width, initial-scale=1"
    assert page.all("html")[0]["lang"] == "en"


def test_page_escapes_names_and_describes_each_picture(tmp_path):
    page, _ = read_page(
        tmp_path, title="<i>Mine</i>", class_names=CLASS_NAMES, sample_names=SAMPLE_NAMES
    )
    expected = [
        f"{SAMPLE_NAMES[row.sample]}: labelled {CLASS_NAMES[row.given]}, "
        f"{row.verdict.name.lower()}, suggested {CLASS_NAMES[row.suggested]}"
        for row in make_ranking()
    ]
    assert [image["alt"] for image in page.all("img")] == expected
    assert all(set(image) == {"class", "src", "alt"} for image in page.all("img"))
    text = "".join(page.text)
    assert "<script>alert(1)</script>" in text
    assert text.count("<i>Mine</i>") == 2
    assert "Of 4 labels: 2 mislabelled, 1 ambiguous, 1 undoubted." in text


def test_page_shows_the_pictures_of_the_worst(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="decodes the pictures")
    page, _ = read_page(tmp_path, count=2)
    images = page.all("img")
    assert len(images) == 2
    for attributes, sample in zip(images, (2, 4), strict=True):
        data = base64.b64decode(attributes["src"].partition(",")[2])
        decoded = np.asarray(image_module.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decoded, picture_of(sample))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1, 1, 3), (4, 7, 3)])
def test_png_comes_back_as_it_was(shape):
    image_module = pytest.importorskip("PIL.Image", reason="decodes the pictures")
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    decoded = image_module.open(io.BytesIO(encode_png(pixels)))
    decoded.verify()
    reopened = image_module.open(io.BytesIO(encode_png(pixels)))
    np.testing.assert_array_equal(np.asarray(reopened), pixels)


@pytest.mark.parametrize("pixels", [np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_pictures_of_another_shape_are_refused(pixels):
    with pytest.raises(ValueError, match=r"`pixels` must have shape \(H, W\)"):
        encode_png(pixels)


def test_wrong_input_is_named(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(TypeError, match="`pixels` must be a uint8 array; got float64"):
        save_gallery(make_ranking(), path, lambda _: np.zeros((2, 2)))
    with pytest.raises(ValueError, match="`class_names` must hold at least 3 names; got 2"):
        make_ranking(class_names=CLASS_NAMES[:2])
    with pytest.raises(ValueError, match="`sample_names` must hold at least 5 names; got 4"):
        make_ranking(sample_names=SAMPLE_NAMES[:4])
    with pytest.raises(ValueError, match="`count` must be at least 1; got 0"):
        save_gallery(make_ranking(), path, picture_of, count=0)
    assert not path.exists()


def test_an_empty_ranking_has_an_empty_page(tmp_path):
    path = tmp_path / "page.html"
    nothing = make_ranking().first(0)
    save_gallery(nothing, path, picture_of)
    assert Page(path.read_text(encoding="utf-8")).all("img") == []


def names_in(tmp_path, **names):
    path = tmp_path / "names.csv"
    save_csv(make_ranking(**names), path)
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["sample"], row["given"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "made", [list, tuple, np.array, lambda names: (each for each in names)], ids=str
)
def test_names_are_looked_up_by_position(tmp_path, made):
    expected = [(f"{row.sample}.png", f"class {row.given}") for row in make_ranking()]
    samples, classes = ([pattern % i for i in range(5)] for pattern in ("%d.png", "class %d"))
    assert names_in(tmp_path, sample_names=made(samples), class_names=made(classes)) == expected


@pytest.mark.parametrize("order", [[3, 1, 4, 0, 2], [10, 20, 30, 40, 50], list("abcde")], ids=str)
def test_a_column_in_another_order_is_looked_up_by_position(tmp_path, order):
    pandas = pytest.importorskip("pandas", reason="names may be a column of it")
    column = pandas.Series([f"{i}.png" for i in range(5)], index=order)
    expected = [f"{row.sample}.png" for row in make_ranking()]
    assert [name for name, _ in names_in(tmp_path, sample_names=column)] == expected
    printed = str(make_ranking(sample_names=column)).splitlines()[1:]
    assert [line.split()[0] for line in printed] == expected
    page, _ = read_page(tmp_path, sample_names=column)
    shown = [image["alt"].split(":")[0] for image in page.all("img")]
    assert shown == expected
    assert [name for name, _ in names_in(tmp_path, sample_names=column.index)] == [
        str(order[row.sample]) for row in make_ranking()
    ]


@pytest.mark.parametrize(
    "names", [dict(enumerate(SAMPLE_NAMES)), set(SAMPLE_NAMES), "abcde", b"abcde", 5], ids=str
)
def test_names_without_positions_are_refused(names):
    kind = type(names).__name__
    for argument in ("sample_names", "class_names"):
        message = f"`{argument}` must be a sequence of names; got {kind}"
        with pytest.raises(TypeError, match=message):
            make_ranking(**{argument: names})


def test_a_table_of_names_is_refused():
    pandas = pytest.importorskip("pandas", reason="names may be a column of it")
    table = pandas.DataFrame({"name": SAMPLE_NAMES, "split": SAMPLE_NAMES})
    for names in (table, np.array([SAMPLE_NAMES])):
        with pytest.raises(TypeError, match="`sample_names` must be a sequence of names; got"):
            make_ranking(sample_names=names)


def test_a_page_without_verdicts_says_why(tmp_path):
    ranking = dataclasses.replace(
        make_ranking(), verdict=torch.full((4,), -1), caution="a <model> at chance"
    )
    save_gallery(ranking, tmp_path / "page.html", picture_of)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    text = "".join(page.text)
    assert "Of 4 labels: 4 unknown." in text
    assert "No verdicts: a <model> at chance." in text
    assert "mislabelled" not in {
        cls for tag in page.all("dt") for cls in tag.get("class", "").split()
    }
    assert ranking.first(2).caution == ranking.only(Verdict.UNKNOWN).caution == ranking.caution
    save_csv(ranking, tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text().splitlines()[1].split(",")[3] == "unknown"
