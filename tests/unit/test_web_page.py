"""The local web page: what it shows of a face, and that it asks nothing of another machine."""

import re
import shutil
import socket
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import torch
from configuration import parse_recipe
from face_detection import Box, whole_picture
from face_model import build_model
from media import Frame
from model_bundle import ModelBundle
from PIL import Image
from prediction import predict_frame
from web_page.face_cards import face_cards

CLASS_NAMES = ("happy", "sad", "<angry>")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    recipe = parse_recipe(
        {
            "data": {"image_size": 32, "rendered": {"difficulty": "easy", "image_size": 32}},
            "encoder": {"name": "small_cnn", "options": {"width": 4}},
            "balancer": {"num_anchors": 4, "head": "linear"},
        },
        where="test",
    )
    return ModelBundle(build_model(recipe, 3).eval(), recipe, CLASS_NAMES, {})


@pytest.fixture
def picture():
    return torch.randint(256, (3, 40, 60), dtype=torch.uint8)


def predictions(bundle, picture, detect=whole_picture):
    return predict_frame(bundle, Frame("picture", picture), detect)


def test_a_card_shows_bars_anchors_and_confidences(bundle, picture):
    (face,) = predictions(bundle, picture)
    html = face_cards(picture, [face])
    assert html.count('class="card"') == 1
    assert 'class="picture"' not in html, "one face that is the whole picture is not boxed"
    widths = [float(each) for each in re.findall(r'bar corrected" style="width: ([\d.]+)%', html)]
    assert widths == pytest.approx([100 * p for p in face.corrected.values()], abs=0.06)
    assert html.count("<i title=") == 3 * 4
    nearest = min(min(row) for row in face.anchor_distances.values())
    (shown,) = re.findall(r'title="distance ([\d.-]+)" class="nearest"', html)
    assert float(shown) == pytest.approx(nearest, abs=6e-4)
    for sure in (face.confidence, face.primary_confidence, face.attentive_confidence):
        assert f"confidence {sure:.2f}" in html
    assert "&lt;angry&gt;" in html
    assert "<angry>" not in html


def test_each_found_face_has_a_box_and_a_card(bundle, picture):
    boxes = [Box(0, 0, 20, 20), Box(30, 10, 60, 40)]
    html = face_cards(picture, predictions(bundle, picture, lambda _: boxes))
    assert html.count('class="card"') == html.count('class="box"') == 2
    assert re.findall(r"<h3>(\d) ", html) == re.findall(r"<span>(\d)</span>", html) == ["1", "2"]
    assert "left: 50.00%; top: 25.00%; width: 50.00%; height: 75.00%" in html


def test_no_face_and_no_anchors_are_told_and_left_out(bundle, picture):
    html = face_cards(picture, predictions(bundle, picture, lambda _: []))
    assert "no face was found" in html
    (face,) = predictions(bundle, picture)
    plain = replace(
        face, anchor=None, anchor_confidence=None, attentive=None, anchor_distances=None
    )
    html = face_cards(picture, [plain])
    assert 'class="anchors"></div>' in html
    assert "outlined" not in html
    assert "attention" not in html


def host_of(url):
    """The host; an empty one for data that is in the address itself."""
    return urlsplit(url).hostname or ""


@pytest.fixture
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1200, 400])
def test_in_a_browser(bundle, tmp_path, monkeypatch, browser, width):
    """Upload a picture, read the answer; neither page nor server looks for another machine."""
    asked = []
    resolve = socket.getaddrinfo

    def recording(host, *args, **kwargs):
        asked.append(host if isinstance(host, str) else host.decode())
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", recording)
    pytest.importorskip("gradio")
    from web_page.server import build_page, serve

    file = tmp_path / "face.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(file)
    page = build_page(bundle, whole_picture)
    address = serve(page, port=None, block=False)
    try:
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.on("request", lambda request: asked.append(host_of(request.url)))
        faults = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(address)
        assert tab.locator(".card").count() == 0
        tab.set_input_files("input[type=file]", file)
        tab.locator(".card").wait_for(timeout=60_000)
        assert tab.locator(".card header img").evaluate("each => each.naturalWidth") > 0
        assert tab.locator(".bar.corrected").count() == 3
        assert tab.locator(".anchors i").count() == 12
        assert tab.locator(".branches").inner_text().count("confidence") == 4
        overflow = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0
        first = tab.locator(".card header img").get_attribute("src")
        tab.locator("button.gallery-item").first.click()
        tab.wait_for_function(
            "before => document.querySelector('.card header img').src != before", arg=first
        )
        assert not faults
    finally:
        page.close()
    assert set(asked) <= {"127.0.0.1", "localhost", ""}
