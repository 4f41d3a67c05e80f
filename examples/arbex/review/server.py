"""The page that reviews doubtful labels, for browsers on this machine."""

import json
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from examples.arbex.report.html_page import png_bytes, render
from examples.arbex.review.queue import Review
from examples.arbex.serving.local import RequestError, local_app, receive

MOST_BYTES = 2**16  # of a decision
PIXELS = 768  # of a picture's longer side
KEYS = "1234567890abcdefghijlmnopqrstvwxyz"  # without K and U


def build_review(review: Review) -> Starlette:
    """Build the application: it shows the doubtful faces and saves each decision at once."""
    page = render(
        "review.html",
        name=review.table.name,
        file=str(review.file),
        caution=review.caution,
        classes=list(zip([*KEYS[: len(review.class_names)]], review.class_names, strict=False)),
    )

    async def show(_: Request) -> Response:
        return HTMLResponse(page)

    async def style(_: Request) -> Response:
        return Response(render("review.css"), media_type="text/css")

    async def faces(_: Request) -> Response:
        return JSONResponse([_face(review, number) for number in range(len(review.faces))])

    def picture(request: Request) -> Response:  # in a thread, since it may read a file
        number = request.path_params["number"]
        if number >= len(review.faces):
            return PlainTextResponse("no such face", 404)
        return Response(png_bytes(review.picture(number), PIXELS), media_type="image/png")

    async def decide(request: Request) -> Response:
        try:
            content = await receive(request, MOST_BYTES, "the decision")
            number, label = _decision(content)
            review.decide(number, label)
        except RequestError as error:
            return PlainTextResponse(str(error), error.status, {"connection": "close"})
        except ValueError as error:
            return PlainTextResponse(str(error), 400)
        except OSError as error:
            return PlainTextResponse(f"the decision was not saved: {error}", 507)
        return JSONResponse(_face(review, number))

    return local_app(
        [
            Route("/", show),
            Route("/style.css", style),
            Route("/faces", faces),
            Route("/faces/{number:int}.png", picture),
            Route("/decide", decide, methods=["POST"]),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ]
    )


def _face(review: Review, number: int) -> dict[str, Any]:
    face, decision = review.faces[number], review.decision(number)
    return {
        "name": face.name,
        "given": face.given,
        "suggested": face.suggested,
        "doubt": face.doubt,
        "corrected": None if decision is None else decision.corrected,
        "verdict": None if decision is None else decision.verdict,
    }


def _decision(content: bytes) -> tuple[int, str | None]:
    """Parse the number of a face and a class, or null to undo."""
    try:
        sent = json.loads(content)
        number, label = sent["face"], sent["label"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("a decision must be JSON with face and label") from error
    if type(number) is not int or not isinstance(label, str | None):
        raise ValueError(f"a decision must have a number and a class; got {number!r}, {label!r}")
    return number, label
