"""Every page with names that would be HTML, a script or a template if they were not escaped."""

import base64
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from browsers import open_browser
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe

from examples.arbex.audit.audit import audit_faces
from examples.arbex.audit.audit_page import write_html
from examples.arbex.audit.published_counts import PublishedCounts
from examples.arbex.face_model import build_model
from examples.arbex.faces.face_table import Problem
from examples.arbex.model_bundle import load_bundle, save_bundle
from examples.arbex.report.run_report import report_on
from examples.arbex.serving.annotation import draw_annotated
from examples.arbex.serving.face_cards import face_cards
from examples.arbex.serving.face_detection import whole_picture
from examples.arbex.serving.media import Frame
from examples.arbex.serving.prediction import FacePrediction, predict_frame
from reliability_balance.labels import LabelRanking, save_gallery

HARMFUL = (
    "<script>window.hit = 1</script>",
    "\"'><img src=x onerror='window.hit = 1'>",
    "{{ 7 * 7 }}{% raw %}{title}{0}",
    "&lt;b&gt;</title></style><svg/onload=window.hit=1>",
    "caf\udce9",
)
SVG = "data:image/svg+xml;base64,"
CLASSES = tuple(f"{name}{index}" for index, name in enumerate(HARMFUL))


def report(folder):
    recipe = tiny_recipe()
    bundle = folder / "model.safetensors"
    save_bundle(bundle, build_model(recipe, len(CLASSES)), recipe, CLASSES)
    table = replace(synthetic_table(class_names=(*CLASSES, HARMFUL[0])), name="".join(HARMFUL))
    report_on(load_bundle(bundle), table, folder)
    return folder / "report.html"


def audit_page(folder):
    table = synthetic_table(class_names=CLASSES)
    images = table.images
    images.images[1] = images.images[0]
    table = replace(table, name=HARMFUL[0], names=[f"{HARMFUL[i % 5]}{i}" for i in range(96)])
    problem = Problem(HARMFUL[0], HARMFUL[1], "".join(HARMFUL[3:]), 2)
    counts = PublishedCounts({"train": 1}, HARMFUL[1], {"train": dict.fromkeys(CLASSES, 1)})
    write_html(audit_faces(replace(table, problems=(problem,)), counts), folder / "audit.html")
    return folder / "audit.html"


def gallery(folder):
    index = torch.arange(5)
    label = index % len(CLASSES)
    columns = (index, label, label.flip(0), *torch.full((2, 5), 0.5), index % 3)
    ranking = LabelRanking(*columns, class_names=CLASSES, sample_names=HARMFUL)
    save_gallery(
        ranking,
        folder / "gallery.html",
        lambda _: np.zeros((3, 3), np.uint8),
        title="".join(HARMFUL),
    )
    return folder / "gallery.html"


def cards(folder):
    recipe = tiny_recipe()
    bundle_file = folder / "model.safetensors"
    save_bundle(bundle_file, build_model(recipe, len(CLASSES)), recipe, CLASSES)
    picture = torch.randint(256, (3, 20, 20), dtype=torch.uint8)
    found = predict_frame(load_bundle(bundle_file), Frame("x", picture), whole_picture)
    found += [FacePrediction("y", problem=name) for name in HARMFUL]
    draw_annotated(folder / "annotated.png", picture, found)
    (folder / "cards.html").write_text(face_cards(picture, found), encoding="utf-8")
    return folder / "cards.html"


PAGES = (report, audit_page, gallery, cards)


class Elements(HTMLParser):
    """All elements and all text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("page", PAGES)
def test_names_are_text(page, tmp_path):
    text = page(tmp_path).read_text(encoding="utf-8")
    found = Elements(text)
    assert not found.tags & {"script", "svg", "b>", "link", "iframe", "object"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    sources = [value for name, value in found.attributes if name in ("src", "href")]
    assert all(each.startswith(("data:image/png;base64,", SVG, "#")) for each in sources)
    for source in sources:
        if source.startswith(SVG):
            drawn = Elements(base64.b64decode(source.removeprefix(SVG)).decode())
            assert not drawn.tags & {"script", "foreignobject", "a", "iframe"}
            assert not [name for name, _ in drawn.attributes if name.startswith("on")]
    assert sources
    for name in HARMFUL[:4]:
        assert name in found.text
    assert "caf\\udce9" in found.text
    assert "{{ 7 * 7 }}" in found.text


def test_no_name_runs_in_a_browser(tmp_path):
    with open_browser() as browser:
        for page in PAGES:
            folder = tmp_path / page.__name__
            folder.mkdir()
            tab = browser.new_page()
            tab.goto(page(folder).as_uri())
            assert tab.evaluate("window.hit") is None, page.__name__
            tab.close()
