"""The local web page: what it shows of a face, and that it asks nothing of another machine."""

import http.client
import io
import json
import re
import socket
import tempfile
import threading
import time
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from browsers import open_browser
from PIL import Image

from examples.arbex.configuration import parse_config
from examples.arbex.face_model import build_model
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.post_hoc import MAX_RISK, PostHoc
from examples.arbex.serving.face_cards import face_cards
from examples.arbex.serving.face_detection import Box, whole_picture
from examples.arbex.serving.media import Frame, read_media
from examples.arbex.serving.prediction import predict_frame
from reliability_balance.calibration import (
    Abstention,
    Calibrator,
    Familiarity,
)

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from examples.arbex.serving import local, server

CLASS_NAMES = ("happy", "sad", "<angry>")


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    recipe = parse_config(
        {
            "data": {"image_size": 32, "rendered": {"difficulty": "easy", "image_size": 32}},
            "encoder": {"name": "small_cnn", "options": {"width": 4}},
            "recipe": {"num_anchors": 4},
        },
        where="test",
    )
    return ModelBundle(build_model(recipe, 3).eval(), recipe, CLASS_NAMES, {})


@pytest.fixture
def picture():
    return torch.randint(256, (3, 40, 60), dtype=torch.uint8)


def predictions(bundle, picture, detect=whole_picture):
    return predict_frame(bundle, Frame("picture", picture), detect)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where the server puts what it decodes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def address(bundle, temporary):
    """The real server, on loopback."""
    with local.running(server.build_app(bundle, whole_picture), None) as address:
        yield address
    assert not list(temporary.iterdir()), "an upload was kept"


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


@pytest.mark.parametrize("sure", [True, False])
@pytest.mark.parametrize("familiar", [True, False])
def test_a_card_says_what_not_to_rely_on(bundle, picture, sure, familiar):
    (face,) = predictions(bundle, picture)
    assert face.sure is face.familiar is face.calibrated is None
    assert "doubt" not in face_cards(picture, [face])
    html = face_cards(picture, [replace(face, sure=sure, familiar=familiar, calibrated=0.625)])
    assert ("not sure" in html) == (not sure)
    assert ("unlike the training faces" in html) == (not familiar)
    assert ("right with a probability of 62 %" in html) == familiar, "else it does not hold"


def test_it_is_said_that_no_face_is_ever_sure(bundle):
    post_hoc = fitted_post_hoc(sure_from=float("inf"))
    assert post_hoc.caution.startswith("every face is “not sure”")
    assert "below 10 %" in post_hoc.caution
    assert post_hoc.caution in first_page(bundle, post_hoc)
    some = fitted_post_hoc(sure_from=0.8)
    assert some.caution == ""
    assert "not sure" not in first_page(bundle, some)


def fitted_post_hoc(sure_from):
    """What a training fits afterwards, with a threshold of one's choice."""
    post_hoc = PostHoc(
        Calibrator(3, correction_weight=0.5),
        Abstention(MAX_RISK),
        Familiarity(8, num_references=10),
        num_fitted=20,
    )
    post_hoc.abstention.threshold.fill_(sure_from)
    return post_hoc


def first_page(bundle, post_hoc):
    whole = replace(bundle, post_hoc=post_hoc)
    with local.running(server.build_app(whole, whole_picture), None) as address:
        _, _, body = ask(address, "/")
    return body if isinstance(body, str) else body.decode()


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


def ask(address, path="/", method="GET", body=None, headers=None, *, host=None):
    """Status, headers and text of an answer; `host` in place of the right one."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", place.netloc if host is None else host)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def post(address, body, headers=None, **options):
    return ask(address, "/predict", "POST", body, headers, **options)


def picture_bytes(form="PNG", mode="RGB", **options):
    rows, columns = np.mgrid[0:60, 0:44]
    pixels = (128 + 100 * np.sin(rows / 5 + columns / 9)).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) << 8)
    else:
        image = Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("PNG", "1", {}),
        ("GIF", "P", {}),
        ("JPEG", "RGB", {"exif": turned()}),
        ("JPEG", "CMYK", {}),
        ("TIFF", "I;16", {}),
        ("WEBP", "RGB", {}),
        ("BMP", "RGB", {}),
        ("PPM", "RGB", {}),
    ],
)
def test_the_page_answers_as_predict_does(bundle, address, tmp_path, form, mode, options):
    content = picture_bytes(form, mode, **options)
    file = tmp_path / f"face.{form.lower().replace('jpeg', 'jpg')}"
    file.write_bytes(content)
    (frame,) = read_media(file)
    expected = face_cards(frame.picture, predict_frame(bundle, frame, whole_picture))
    assert post(address, content)[::2] == (200, expected)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no picture", b"GIF89a", picture_bytes()[:60], picture_bytes()[:-30]),
        *(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg xmlns='x'/>", b"\0" * 99),
    ],
)
def test_what_is_no_picture_is_told_without_a_path(address, temporary, content):
    status, headers, text = post(address, content)
    assert status == 415
    assert headers["content-type"].startswith("text/plain")
    assert text.startswith("the picture must be an image that Pillow can decode; got ")
    assert str(temporary) not in text
    assert "/" not in text


def test_a_picture_of_too_many_pixels_is_not_decoded(address):
    file = io.BytesIO()
    Image.new("1", (13_300, 13_300)).save(file, "PNG")
    begin = time.monotonic()
    status, _, text = post(address, file.getvalue())
    assert status == 415
    assert "13300 x 13300 pixels, more than 64,000,000" in text
    assert time.monotonic() - begin < 5


def test_a_file_that_is_too_large_is_not_read_to_its_end(address, monkeypatch):
    monkeypatch.setattr(server, "MOST_BYTES", 2**20)
    status, _, text = post(address, bytes(2**20 + 1))
    assert (status, text) == (413, "the picture must have at most 1 MiB")
    assert post(address, bytes(2**20))[0] == 415


def test_a_file_without_end_is_not_read_for_ever(address, monkeypatch):
    monkeypatch.setattr(server, "MOST_BYTES", 2**20)
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: {place.netloc}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        sent = 0
        try:
            for _ in range(64):
                connection.sendall(b"40000\r\n" + bytes(0x40000) + b"\r\n")
                sent += 0x40000
        except OSError:
            pass
    assert sent < 16 * 2**20
    assert ask(address)[0] == 200


def test_a_file_that_does_not_arrive_is_given_up(address, monkeypatch):
    monkeypatch.setattr(local, "MOST_SECONDS", 0.2)
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: {place.netloc}\r\n"
            "Content-Length: 9\r\n\r\nab".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_no_more_connections_are_held_than_there_may_be(bundle, temporary, monkeypatch):
    monkeypatch.setattr(local, "MOST_CONNECTIONS", 3)
    with local.running(server.build_app(bundle, whole_picture), None) as address:
        place = urlsplit(address)
        held = [socket.create_connection((place.hostname, place.port)) for _ in range(4)]
        for each in held:
            each.sendall(f"POST /predict HTTP/1.1\r\nHost: {place.netloc}\r\n".encode())
        time.sleep(0.2)
        assert ask(address)[0] == 503
        for each in held:
            each.close()
        time.sleep(0.2)
        assert ask(address)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("", "169.254.169.254", "0.0.0.0", "[::1]", "evil@127.0.0.1", "127.0.0.1@evil", "*"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/predict", "/static/page.js", "/missing"])
def test_a_host_of_another_name_is_refused(address, host, path):
    """A page of somebody else's, whose name he lets lead to this machine."""
    method = "POST" if path == "/predict" else "GET"
    body = picture_bytes() if method == "POST" else None
    origin = {"Origin": f"http://{host}"}
    assert ask(address, path, method, body, origin, host=host)[0] == 400


def test_this_machines_own_names_are_answered(address):
    port = urlsplit(address).port
    for host in ("127.0.0.1", "localhost", f"localhost:{port}", f"127.0.0.1:{port}"):
        assert ask(address, host=host)[0] == 200
        origin = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert post(address, picture_bytes(), origin, host=host)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_picture_of_another_sites_page_is_refused(address, headers):
    status, answered, text = post(address, picture_bytes(), headers)
    assert (status, text) == (403, "the picture must come from this page, not from another site's")
    assert not [name for name in answered if name.lower().startswith("access-control")]


def test_no_other_site_may_read_load_or_frame_an_answer(address):
    for path in ("/", "/static/page.css", "/static/page.js", "/missing"):
        _, headers, _ = ask(address, path, headers={"Origin": "http://evil.example"})
        assert not [name for name in headers if name.lower().startswith("access-control")]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert ask(address, "/predict", "OPTIONS", headers=preflight)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/static/../server.py",
            "/static/%2e%2e/server.py",
            "/static//etc/passwd",
            "/file=/etc/passwd",
        ),
        *(
            "/static/..%2fserver.py",
            "/gradio_api/proxy=http://127.0.0.1/",
            "/proxy",
            "//etc/passwd",
        ),
        "http://169.254.169.254/latest",
    ],
)
def test_no_other_file_or_place_is_to_be_had(address, path):
    status, _, text = ask(address, path)
    assert status == 404
    assert "import" not in text
    assert "root:" not in text


@pytest.fixture
def canary():
    """A server that should not be asked for anything; how often it was."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()

        def accept():
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                asked.append(connection.recv(1000))
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x.png", asked
        stop.set()
        thread.join()


def test_an_address_is_never_fetched(address, canary):
    url, asked = canary
    for body in (
        url,
        json.dumps({"data": [{"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}]}),
        f"path={url}&url={url}",
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
        f"#EXTM3U\n{url}\n",
    ):
        for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
            assert post(address, body.encode(), {"Content-Type": kind})[0] == 415
    assert ask(address, f"/?__url={url}&path={url}")[0] == 200
    time.sleep(0.3)
    assert not asked


def test_a_taken_port_is_told(bundle):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match=r"`port` must be free; got \d+"),
        local.running(server.build_app(bundle, whole_picture), taken.getsockname()[1]),
    ):
        pass


def host_of(url):
    """The host; an empty one for data that is in the address itself."""
    return urlsplit(url).hostname or ""


@pytest.fixture
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def asked(monkeypatch):
    """Every host that this process looks for."""
    hosts = []
    resolve = socket.getaddrinfo

    def recording(host, *args, **kwargs):
        hosts.append(host if isinstance(host, str) else host.decode())
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", recording)
    return hosts


def wait_until(tab, condition, argument=None):
    """What playwright's own does by `eval`, which our pages forbid."""
    end = time.monotonic() + 60
    while not tab.evaluate(condition, argument):
        assert time.monotonic() < end, condition
        tab.wait_for_timeout(50)


@pytest.mark.parametrize("width", [1200, 400])
def test_in_a_browser(address, tmp_path, asked, browser, width):
    """Upload a picture, read the answer; neither page nor server looks for another machine."""
    file = tmp_path / "face.png"
    file.write_bytes(picture_bytes())
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.on("request", lambda request: asked.append(host_of(request.url)))
    faults = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda each: faults.append(each.text) if each.type == "error" else None)
    tab.goto(address)
    assert tab.locator(".card").count() == 0
    assert not re.search(r"\b(left|right)\b", tab.inner_text("body")), "a phone stacks the two"
    tab.set_input_files("#file", file)
    tab.locator(".card").wait_for(timeout=60_000)
    assert tab.locator(".card header img").evaluate("each => each.naturalWidth") > 0
    assert tab.locator(".bar.corrected").count() == 3
    assert tab.locator(".anchors i").count() == 12
    assert tab.locator(".branches").inner_text().count("confidence") == 4
    assert not re.search(r"\b(left|right)\b", tab.inner_text("body"))
    overflow = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    first = tab.locator(".card header img").get_attribute("src")
    tab.locator(".examples button").first.click()
    wait_until(tab, "before => document.querySelector('.card header img').src != before", first)
    assert not faults
    tab.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    tab.locator(".problem").wait_for(timeout=60_000)
    assert tab.inner_text(".problem").startswith("the picture must be an image that Pillow can")
    assert set(asked) <= {"127.0.0.1", "localhost", ""}


DROP = """([kind, bytes, count = 1]) => {
  const data = new DataTransfer();
  for (let number = 0; number < count; number++)
    data.items.add(new File([new Uint8Array(bytes)], `face ${number}.png`, { type: "image/png" }));
  const event = kind == "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
    : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_may_be_dropped_or_pasted(address, browser, kind):
    tab = browser.new_page()
    tab.goto(address)
    tab.evaluate(DROP, [kind, list(picture_bytes())])
    tab.locator(".card").wait_for(timeout=60_000)


def test_many_pictures_are_answered_in_order(address, browser):
    tab = browser.new_page(viewport={"width": 400, "height": 800})
    tab.goto(address)
    tab.evaluate(DROP, ["drop", list(picture_bytes()), 3])
    wait_until(tab, "() => document.querySelectorAll('.card').length == 3")
    heads = [head.inner_text() for head in tab.locator("#answer h2").all()]
    assert heads == ["1 of 3: face 0.png", "2 of 3: face 1.png", "3 of 3: face 2.png"]
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_the_camera_takes_a_picture(address):
    with open_browser(
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"
    ) as opened:
        tab = opened.new_page()
        tab.goto(address)
        tab.click("#camera")
        wait_until(tab, "() => document.getElementById('film').videoWidth > 0")
        tab.click("#shoot")
        tab.locator(".card").wait_for(timeout=60_000)
        assert tab.locator("#film").is_hidden()


def test_names_of_classes_load_nothing_in_a_browser(bundle, temporary, canary, browser):
    url, asked = canary
    names = (f"![x]({url})", f"<img src='{url}'>", f"<script>fetch('{url}')</script>")
    named = replace(bundle, class_names=names)
    hosts = set()
    with local.running(server.build_app(named, whole_picture), None) as address:
        tab = browser.new_page()
        tab.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        tab.goto(address)
        tab.evaluate(DROP, ["drop", list(picture_bytes())])
        tab.locator(".card").wait_for(timeout=60_000)
        for name in names:
            assert tab.inner_text("main > p").count(name) == 1
            assert name in tab.inner_text(".classes")
    assert not asked
    assert hosts <= {urlsplit(address).netloc, ""}


EVIL = """async ([address, bytes]) => {
  const body = new Uint8Array(bytes), answers = [];
  for (const options of [
    { method: "POST", body, mode: "no-cors" },
    { method: "POST", body: new Blob([body], { type: "text/plain" }) },
    { method: "POST", body, headers: { "X-Any": "1" } },
    { method: "GET" },
  ]) {
    try { answers.push((await fetch(address + "predict", options)).type); }
    catch (error) { answers.push("refused"); }
  }
  return answers;
}"""


def test_another_sites_page_gets_nothing_in_a_browser(bundle, temporary, browser):
    """It runs in the same browser, on another port of this machine."""
    seen = []

    def detect(picture):
        seen.append(picture)
        return whole_picture(picture)

    with (
        local.running(server.build_app(bundle, detect), None) as address,
        local.running(server.build_app(bundle, whole_picture), None) as other,
    ):
        context = browser.new_context(bypass_csp=True)
        tab = context.new_page()
        tab.goto(other)
        content = list(picture_bytes())
        assert tab.evaluate(EVIL, [address, content]) == ["refused"] * 4
        assert not seen
        tab.goto(address)
        assert tab.evaluate(EVIL, [address, content]) == ["basic"] * 4
        assert len(seen) == 3
        context.close()
