"""What holds for every answer: its headers, its place in the metrics, a line in the log."""

import logging
import time
import traceback

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from product_mil.serve.service import Service

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked again each time, so the page is of one version
}
_MISTAKE = {"detail": "a mistake in the server; its log says more"}
_QUIET = ("/health", "/metrics", "/page")  # asked for all the time, or many files at once


class Watched:
    """The outermost part of the app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with a count of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, log = time.perf_counter(), 0, logging.getLogger(__name__)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if self._service.is_stopping:
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            log.error("%s", traceback.format_exc())  # noqa: TRY400 (handlers print messages alone)
            if status:
                raise  # after the beginning of an answer
            await JSONResponse(_MISTAKE, 500)(scope, receive, noted)
        finally:
            spent_s = time.perf_counter() - started
            route = scope.get("route")
            meters = self._service.meters
            path = getattr(route, "path", None) or "other"
            meters.requests.labels(path, status).inc()
            meters.latency.labels(path).observe(spent_s)
            level = logging.DEBUG if scope["path"].startswith(_QUIET) else logging.INFO
            log.log(level, "%s %s %d %.0f ms", scope["method"], path, status, spent_s * 1e3)
