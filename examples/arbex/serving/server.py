"""The page that predicts an uploaded picture; it contacts no other machine."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from torch import Tensor

from examples.arbex.configuration import rendered_settings
from examples.arbex.faces.image_sources import CorruptImageError, decode
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.rendering.rendered_faces import rendered_faces
from examples.arbex.report.html_page import picture_url, render
from examples.arbex.serving.face_cards import face_cards
from examples.arbex.serving.face_detection import Detector
from examples.arbex.serving.local import RequestError, local_app, receive
from examples.arbex.serving.media import Frame
from examples.arbex.serving.prediction import predict_frame

MOST_BYTES = 32 * 2**20  # per upload
EXAMPLE_PIXELS = 192
NUM_EXAMPLES = 6


def build_app(bundle: ModelBundle, detect: Detector) -> ASGIApp:
    """Build the application: it takes a picture's bytes and returns a card for each face."""
    page = render(
        "web_page.html",
        description=_describe(bundle),
        caution=bundle.post_hoc.caution if bundle.post_hoc else "",
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
            content = await receive(request, MOST_BYTES, "the picture")
            return HTMLResponse(await run_sync(predict, content, limiter=one_at_a_time))
        except RequestError as error:
            # Do not wait for the rest of a rejected upload.
            return PlainTextResponse(str(error), error.status, {"connection": "close"})
        except MemoryError:
            return PlainTextResponse("the picture must fit into memory", 413)
        except ClientDisconnect:
            return Response(status_code=400)  # never received

    return local_app(
        [
            Route("/", show),
            Route("/predict", answer, methods=["POST"]),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ]
    )


def decode_bytes(content: bytes) -> Tensor:
    """Decode a picture like the rest of the application, from a temporary file.

    Raises:
        RequestError: if it cannot be decoded; the message names no file.
    """
    with TemporaryDirectory(prefix="arbex-") as folder:
        path = Path(folder, "picture")
        path.write_bytes(content)
        try:
            return decode(path)
        except CorruptImageError as error:
            raise RequestError(415, str(error).replace(str(path), "the picture")) from error


def _describe(bundle: ModelBundle) -> str:
    encoder, anchors = bundle.config.encoder.name, bundle.config.recipe.num_anchors
    return (
        f"Encoder {encoder}, {anchors} anchors per class, trained on {bundle.config.data.dataset}: "
        f"{', '.join(bundle.class_names)}."
    )


def _rendered_examples(bundle: ModelBundle) -> list[str]:
    """Return rendered example faces, none of which the model was trained on."""
    settings = rendered_settings(bundle.config.data.rendered)
    table = rendered_faces(replace(settings, num_faces=NUM_EXAMPLES, seed=settings.seed + 1000))
    return [picture_url(table.images[row], EXAMPLE_PIXELS) for row in range(NUM_EXAMPLES)]
