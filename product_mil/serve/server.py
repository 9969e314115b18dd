"""The process that serves an app: its socket, its signals, how it ends."""

import asyncio
import contextlib
import ctypes
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from product_mil.errors import UserError
from product_mil.serve.app import create_app
from product_mil.serve.service import Service

BACKLOG = 2048  # connections that the system keeps until they are accepted
KEEP_ALIVE_S = 75  # longer than proxies keep theirs, so that these are the ones that close
HANDSHAKE_S = 0.05  # in which a connection that has begun is made
LATE_S = 0.5  # in which a client that is connected may still send its request
LAST_ANSWERS_S = 5  # that answers may take to leave when nothing more is computed


_SO_ATTACH_FILTER = 26  # of Linux
# A filter of packets (BPF, linux/filter.h): load byte 13 of TCP's header; drop what has SYN set.
_DROP_SYN = (0x30, 0, 0, 13, 0x45, 0, 1, 0x02, 0x06, 0, 0, 0, 0x06, 0, 0, 0xFFFFFFFF)


def bind(host: str, port: int) -> socket.socket:
    """A socket with this address; it refuses connections until it is served.

    Raises:
        UserError: the port is in use, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from None
    bound = socket.socket(family, kind, protocol)
    # So that a port of which connections are still ending can be taken again.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """What a person on this machine types into a browser."""
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def server_of(service: Service) -> uvicorn.Server:
    """A server whose `run` serves until `should_exit`."""
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,  # the app has a line for each request
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(service.limits.stop_s) + LAST_ANSWERS_S,
        lifespan="on",
        ws="none",
        loop="asyncio",  # the same, whatever else is installed
        http="h11",
    )
    return _Server(config, service)


def serve(service: Service, bound: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; then answer all that is in flight.

    Raises:
        UserError: the port was taken meanwhile.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error) from None
    server = server_of(service)
    with _stopped_by_signals(server):
        server.run([bound])
        service.join()
    if service.failure is not None:
        raise service.failure


class _Server(uvicorn.Server):
    """A server that ends if its service failed, and whose last answers are not late."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; asked ten times a second."""
        return await super().on_tick(counter) or self._service.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is in flight; what is not computed within `stop_s` is refused."""
        self._service.is_stopping = True
        stop_s = self._service.limits.stop_s
        asyncio.get_running_loop().call_later(stop_s, self._service.close)
        await self._accept_the_last(sockets or [])
        await asyncio.sleep(LATE_S)
        await super().shutdown(sockets)

    async def _accept_the_last(self, sockets: Sequence[socket.socket]) -> None:
        """Stop listening, but serve connections that the system has made already.

        When a socket that listens is closed, the system breaks those that were not accepted yet.
        """
        loop, late = asyncio.get_running_loop(), []
        copies = [each.dup() for each in sockets]
        for copy in copies:
            _ignore_newcomers(copy)
        for server in self.servers:
            server.close()
        for each in sockets:
            each.close()
        await asyncio.sleep(HANDSHAKE_S)  # now the copies alone listen
        for copy in copies:
            with copy, contextlib.suppress(BlockingIOError):
                while True:
                    late.append(copy.accept()[0])
        for connection in late:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        state = self.lifespan.state
        return kind(config=self.config, server_state=self.server_state, app_state=state)


def _ignore_newcomers(listening: socket.socket) -> None:
    """Let the system drop the first packet of new connections; clients send it again in a second.

    By then it is refused, or another server is there. Without this a connection that is made just
    before the socket is closed would break. This works on Linux alone.
    """
    filters = ctypes.create_string_buffer(struct.pack("=" + "HBBI" * 4, *_DROP_SYN))
    program = struct.pack("@HP", 4, ctypes.addressof(filters))
    with contextlib.suppress(OSError):
        if sys.platform == "linux":
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _cannot_listen(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"cannot listen at {host}, port {port}: {reason}; choose another --port")


@contextlib.contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let signals stop the server before it handles them itself, and end nothing after it stopped.

    uvicorn raises the signals again that stopped it.
    """

    def stop(*_: Any) -> None:
        server.should_exit = True

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
