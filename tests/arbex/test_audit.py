"""Inspecting a data set finds what was put wrong, and says it in text and on a page."""

from html.parser import HTMLParser

import face_trees
import pytest
from synthetic_faces import synthetic_table

from examples.arbex.audit.audit import audit_faces, format_text
from examples.arbex.audit.audit_page import write_html
from examples.arbex.audit.published_counts import PUBLISHED, PublishedCounts
from examples.arbex.readers.reading import read_faces


@pytest.fixture
def raf(tmp_path):
    face_trees.raf_db(tmp_path)
    folder = tmp_path / face_trees.RAF_ALIGNED
    same = (folder / "train_00001_aligned.jpg").read_bytes()
    (folder / "test_0002_aligned.jpg").write_bytes(same)  # a leak, with another label
    (folder / "train_00005_aligned.jpg").write_bytes(b"<html>")
    (folder / "train_00009_aligned.jpg").unlink()
    face_trees.write_text(folder / "a<b>.txt", "x")
    return read_faces("raf-db", tmp_path)


def test_leaks_damage_and_missing_images_are_found(raf):
    report = audit_faces(raf, PUBLISHED["raf-db"])
    (twins,) = report.duplicates
    assert twins.across_splits
    assert twins.labels_differ
    assert {name[-23:] for name in twins.names} == {
        "train_00001_aligned.jpg",
        "d/test_0002_aligned.jpg",
    }
    assert report.problem_counts() == {"missing image": 1, "corrupt image": 1, "stray file": 1}
    assert report.num_checked == 20
    assert report.sizes[0] == ((8, 8), 19)


def test_counts_are_compared_with_the_validation_set_put_back(raf):
    report = audit_faces(raf, PUBLISHED["raf-db"], check_images=False)
    whole = [each for each in report.comparisons if not each.class_name]
    assert [(each.part, each.found, each.published) for each in whole] == [
        ("train", 13, 12271),
        ("test", 7, 3068),
    ]
    surprise = next(e for e in report.comparisons if e.class_name == "surprise")
    assert (surprise.found, surprise.published) == (2, 1290)


def test_published_classes_add_up():
    for published in PUBLISHED.values():
        for part, classes in published.by_class.items():
            assert sum(classes.values()) == published.totals[part]


def test_the_text_names_every_finding(raf):
    text = format_text(audit_faces(raf, PUBLISHED["raf-db"]))
    for expected in (
        "RAF-DB: 20 faces",
        "train in all: 13, published 12271",
        "sets of equal images: 1; across splits: 1",
        "across splits, with different labels",
        "faces left out, or of a class that only one split has: 2 of 21",
        "corrupt image: 1",
        "train_00005_aligned.jpg must be an image",
    ):
        assert expected in text


def test_nothing_wrong_is_said_so(tmp_path):
    table = read_faces("csv", face_trees.csv_table(tmp_path))
    report = audit_faces(table, PublishedCounts({"all": 10}, "here"))
    text = format_text(report)
    assert "problems: none" in text
    assert "0 differ" in text
    assert report.shared_groups == 0
    assert report.duplicates == ()


def test_a_class_without_images_is_shown_as_such():
    table = synthetic_table()
    report = audit_faces(table.select((table.labels != 1).nonzero().squeeze(-1)), None)
    shown = {name: len(images) for name, images in report.examples}
    assert shown["happy"] == 0
    assert shown["sad"] > 0


def test_the_page_stands_alone_and_escapes_names(raf, tmp_path):
    class Reader(HTMLParser):
        sources, links, tags = [], [], []

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            self.sources += [value for name, value in attributes if name == "src"]
            self.links += [value for name, value in attributes if name == "href"]

    write_html(audit_faces(raf, PUBLISHED["raf-db"]), tmp_path / "out/page.html")
    page = (tmp_path / "out/page.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.sources
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert not reader.links
    assert "Look before you train." in page
    assert "a&lt;b&gt;.txt" in page
    assert "published" in page
    assert reader.tags.count("table") >= 5
