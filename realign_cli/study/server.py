"""A small server of a study: a page for each rater's link, the images, and answers into the database.

Nothing else can be asked for: names of images and links are looked up in the study and never become paths.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.study.answers import Database, parse
from realign_cli.study.design import IMAGES, SITE
from realign_cli.study.page import policy, render

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from realign_cli.study.design import Study

log = logging.getLogger(__name__)
_BODY = 2048  # bytes of an answer at most, and seconds for it to come
_BODY_SECONDS = 10.0
_RATE, _BURST = 30.0, 300  # requests per second of one address, and how many at once
_ADDRESSES = 10_000  # that are remembered
_CONNECTIONS = 500
_HEADERS = {
    "Content-Security-Policy": f"{policy(served=True)}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address of a page is a secret
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


class Limiter:
    """Lets each address ask `rate` times a second, and `burst` times at once (a token bucket)."""

    def __init__(self, rate: float = _RATE, burst: float = _BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # by address: tokens, and when there were so many

    def allows(self, address: str) -> bool:
        """Whether this address may ask now; if so, it has."""
        now = self._clock()
        left, then = self._left.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        self._left[address] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1


def application(study: Study, folder: Path, database: Database, limiter: Limiter | None = None) -> ASGIApp:
    """The server as an ASGI application."""
    raters = {rater.token: rater for rater in study.raters}
    names = {name for item in (*study.items, study.example) for name in item.images}

    async def page(request: Request) -> Response:
        rater = raters.get(request.path_params["token"])
        if rater is None:
            return _unknown()
        return HTMLResponse(
            render(study, rater, database.of(rater), served=True), headers={"Cache-Control": "no-store"}
        )

    async def image(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in names:
            return _unknown()
        data = await asyncio.to_thread((folder / SITE / IMAGES / name).read_bytes)
        return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

    async def answer(request: Request) -> Response:
        rater = raters.get(request.path_params["token"])
        if rater is None:
            return _unknown()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read(request)
            database.save(rater, parse(json.loads(body), study, rater))
        except TimeoutError:
            return PlainTextResponse("the answer did not come", 408)
        except _TooLargeError:
            return PlainTextResponse("too large", 413)
        except (RecordError, ValueError, RecursionError):
            return PlainTextResponse("not an answer", 400)
        except RealignError as error:
            log.error("%s", error)
            return PlainTextResponse("the answer could not be saved", 503)
        return Response(status_code=204)

    routes = [
        Route("/{token}", page, methods=["GET"]),
        Route(f"/{IMAGES}/{{name}}", image, methods=["GET"]),
        Route("/{token}/answers", answer, methods=["PUT"]),
    ]
    return _Guard(Starlette(routes=routes), limiter or Limiter())


class _Guard:
    """Turns away who asks too often, and gives every reply the headers of a page that trusts nobody."""

    def __init__(self, inner: ASGIApp, limiter: Limiter) -> None:
        self._inner, self._limiter = inner, limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        client = scope.get("client")
        if scope["type"] == "http" and not self._limiter.allows(client[0] if client else ""):
            refusal = PlainTextResponse("too many requests", 429, headers={"Retry-After": "1"})
            await refusal(scope, receive, guarded)
            return
        await self._inner(scope, receive, guarded)


class _TooLargeError(Exception):
    pass


async def _read(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY:
            raise _TooLargeError
    return body


def _unknown() -> Response:
    return PlainTextResponse("there is nothing here; please use the link that you were given", 404)


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 is any free one.

    Raises:
        UsageError: it is taken, or no address of this computer.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise UsageError(f"{host}, port {port}: {error.strerror or error}; choose another --port or --host") from None
    return listening


def serve(study: Study, folder: Path, listening: socket.socket) -> None:
    """Serve until interrupted. Requests are not logged: who rates is nobody's business.

    Raises:
        RealignError: the database cannot be opened or made.
    """
    with listening, closing(Database(folder)) as database:
        config = uvicorn.Config(
            application(study, folder, database),
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=3,
            lifespan="off",
            ws="none",
        )
        uvicorn.Server(config).run(sockets=[listening])
