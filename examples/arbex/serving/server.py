"""Serve the page to browsers on this machine; neither contacts another machine."""

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import uvicorn
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from examples.arbex.configuration import rendered_settings
from examples.arbex.faces.image_sources import CorruptImageError, decode
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.plain_text import say
from examples.arbex.rendering.rendered_faces import rendered_faces
from examples.arbex.report.html_page import picture_url, render
from examples.arbex.serving.face_cards import face_cards
from examples.arbex.serving.face_detection import Detector
from examples.arbex.serving.media import Frame
from examples.arbex.serving.prediction import predict_frame

HERE = "127.0.0.1"
NAMES = (HERE, "localhost")  # no other host names, against DNS rebinding
PORTS = range(7860, 7960)
MOST_BYTES = 32 * 2**20  # per upload
MOST_SECONDS = 30  # per upload
MOST_CONNECTIONS = 16
EXAMPLE_PIXELS = 192
NUM_EXAMPLES = 6
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class PictureError(ValueError):
    """The upload is not a picture that can be predicted; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def build_app(bundle: ModelBundle, detect: Detector) -> ASGIApp:
    """Build the application: it takes a picture's bytes and returns a card for each face."""
    page = render(
        "web_page.html",
        description=_describe(bundle),
        most_bytes=MOST_BYTES,
        examples=_rendered_examples(bundle),
    )
    one_at_a_time = anyio.CapacityLimiter(1)

    def predict(content: bytes) -> str:
        picture = decode_bytes(content)
        return face_cards(picture, predict_frame(bundle, Frame("picture", picture), detect))

    async def show(_: Request) -> Response:
        return HTMLResponse(page)

    async def answer(request: Request) -> Response:
        try:
            content = await _receive(request)
            return HTMLResponse(await run_sync(predict, content, limiter=one_at_a_time))
        except PictureError as error:
            # Do not wait for the rest of a rejected upload.
            return PlainTextResponse(str(error), error.status, {"connection": "close"})
        except MemoryError:
            return PlainTextResponse("the picture must fit into memory", 413)
        except ClientDisconnect:
            return Response(status_code=400)  # never received

    return Starlette(
        routes=[
            Route("/", show),
            Route("/predict", answer, methods=["POST"]),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[
            Middleware(_WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False),
        ],
    )


@contextmanager
def running(app: ASGIApp, port: int | None) -> Iterator[str]:
    """Serve in a thread until the block is left.

    Args:
        app: from :func:`build_app`.
        port: port to listen on. None: a free one from 7860 on.

    Yields:
        The page's address.

    Raises:
        OSError: if the port is taken, or all of a hundred.
    """
    with _listen(port) as listening:
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                limit_concurrency=MOST_CONNECTIONS,
                log_level="error",
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://{HERE}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def serve(app: ASGIApp, *, port: int | None) -> None:
    """Serve until Ctrl-C."""
    with running(app, port) as address, suppress(KeyboardInterrupt):
        say(f"open {address} (Ctrl-C to stop)")
        threading.Event().wait()


def decode_bytes(content: bytes) -> Tensor:
    """Decode a picture like the rest of the application, from a temporary file.

    Raises:
        PictureError: if it cannot be decoded; the message names no file.
    """
    with TemporaryDirectory(prefix="arbex-") as folder:
        path = Path(folder, "picture")
        path.write_bytes(content)
        try:
            return decode(path)
        except CorruptImageError as error:
            raise PictureError(415, str(error).replace(str(path), "the picture")) from error


async def _receive(request: Request) -> bytes:
    """Receive the picture's bytes, only from our own page and up to the size limit."""
    origin, site = (request.headers.get(name) for name in ("origin", "sec-fetch-site"))
    if origin not in (None, f"http://{request.headers['host']}") or site not in (
        None,
        "same-origin",
        "none",
    ):
        raise PictureError(403, "pictures must come from this page, not from another site's")
    content = bytearray()
    try:
        with anyio.fail_after(MOST_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MOST_BYTES:
                    most = MOST_BYTES // 2**20
                    raise PictureError(413, f"the picture must have at most {most} MiB")
    except TimeoutError as error:
        raise PictureError(408, f"the picture must arrive within {MOST_SECONDS} seconds") from error
    return bytes(content)


class _WithHeaders:
    """Middleware that adds the security headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, with_headers)


def _listen(port: int | None) -> socket.socket:
    for each in PORTS if port is None else (port,):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HERE, each))
            listening.listen()
        except OSError as error:
            listening.close()
            if port is not None or error.errno != errno.EADDRINUSE:
                raise OSError(
                    error.errno, f"`port` must be free; got {each}: {error.strerror}"
                ) from error
        else:
            return listening
    raise OSError(errno.EADDRINUSE, f"`port` must be given: {PORTS[0]} to {PORTS[-1]} are taken")


def _describe(bundle: ModelBundle) -> str:
    encoder, anchors = bundle.config.encoder.name, bundle.config.recipe.num_anchors
    return (
        f"Encoder {encoder}, {anchors} anchors per class, trained on {bundle.config.data.dataset}: "
        f"{', '.join(bundle.class_names)}."
    )


def _rendered_examples(bundle: ModelBundle) -> list[str]:
    """Return example faces for a model that was trained on rendered ones."""
    if bundle.config.data.dataset != "rendered":
        return []
    settings = rendered_settings(bundle.config.data.rendered)
    table = rendered_faces(replace(settings, num_faces=NUM_EXAMPLES, seed=settings.seed + 1000))
    return [picture_url(table.images[row], EXAMPLE_PIXELS) for row in range(NUM_EXAMPLES)]
