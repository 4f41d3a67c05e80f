"""Applications for browsers on this machine: no other host, no other site, bounded uploads."""

import errno
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.arbex.plain_text import say

HERE = "127.0.0.1"
NAMES = (HERE, "localhost")  # no other host names, against DNS rebinding
PORTS = range(7860, 7960)
MOST_SECONDS = 30  # per upload
MOST_CONNECTIONS = 16
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class RequestError(ValueError):
    """A request that is refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def local_app(routes: Sequence[BaseRoute]) -> Starlette:
    """Build an application with security headers that answers to this machine's name only."""
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False),
        ],
    )


@contextmanager
def running(app: ASGIApp, port: int | None) -> Iterator[str]:
    """Serve in a thread until the block is left.

    Args:
        app: from :func:`local_app`.
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


async def receive(request: Request, most_bytes: int, what: str) -> bytes:
    """Receive the body of a request, only from our own page and up to the size limit.

    Args:
        request: the request.
        most_bytes: limit of its size.
        what: what is received, for errors.

    Raises:
        RequestError: if it comes from another site, is too large, or takes too long.
    """
    origin, site = (request.headers.get(name) for name in ("origin", "sec-fetch-site"))
    if origin not in (None, f"http://{request.headers['host']}") or site not in (
        None,
        "same-origin",
        "none",
    ):
        raise RequestError(403, f"{what} must come from this page, not from another site's")
    content = bytearray()
    try:
        with anyio.fail_after(MOST_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most_bytes:
                    raise RequestError(413, f"{what} must have at most {most_bytes / 2**20:g} MiB")
    except TimeoutError as error:
        raise RequestError(408, f"{what} must arrive within {MOST_SECONDS} seconds") from error
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
