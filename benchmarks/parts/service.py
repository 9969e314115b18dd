"""The HTTP service under load, beside `Classifier.predict` of the same images in the same run.

    python -m benchmarks.parts.service [--products 300] [--seconds 15]

A run of one step is made first, with a net that learns. Then `Classifier.predict` gets drawn
products in one call, and `product-mil serve` in a process of its own gets them one a request, in
turns. After that requests come at random moments, half as many as it can answer, and at last the
server is restarted under load. One request in ten is bad, and has to be refused as it should be.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import product_mil
from benchmarks.measure import in_turns, machine, parser, report, table
from benchmarks.parts.one_step_run import one_step_run
from product_mil.devices.runtime import configure_jax

CLIENTS = 16
BAD_IN = 10  # one of so many requests is bad
STARTING = 503
BOUNDARY = b"5e2b9c0f"
HOST = "127.0.0.1"


class Request(NamedTuple):
    """A request as it goes over the wire, and how it must be answered."""

    data: bytes
    status: int


class Reply(NamedTuple):
    """What came of a request."""

    latency_s: float
    is_right: bool
    broken: int  # connections that ended between the question and the answer


def request_of(kind: str, body: bytes, status: int) -> Request:
    head = (
        f"POST /v1/predict HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return Request(head.encode() + body, status)


def form(images: list[bytes], status: int = 200) -> Request:
    parts = [
        b'--%s\r\ncontent-disposition: form-data; name="images"; filename="%d.jpg"\r\n'
        b"content-type: image/jpeg\r\n\r\n%s\r\n" % (BOUNDARY, index, image)
        for index, image in enumerate(images)
    ]
    body = b"".join(parts) + b"--%s--\r\n" % BOUNDARY
    kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    return request_of(kind, body, status)


def requests_of(products: list[list[bytes]]) -> list[Request]:
    """A request for each product, and bad ones among them."""
    bad = [
        lambda images: form([b"no image", *images]),
        lambda images: form([image[: len(image) // 2] for image in images]),
        lambda _: form([], status=422),
        lambda images: form(images * 9, status=422),
        lambda _: request_of("application/json", b'{"products": [', 422),
        lambda _: request_of("text/plain", b"hello", 415),
    ]
    found = []
    for number, images in enumerate(products):
        found.append(form(images))
        if number % BAD_IN == 0:
            found.append(bad[number // BAD_IN % len(bad)](images))
    return found


class Client:
    """A connection that asks again where nobody listens, or the server starts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request, since: float | None = None) -> Reply:
        """Ask until there is an answer; `since` is when it should have been asked."""
        started = time.perf_counter() if since is None else since
        broken = 0
        while True:
            try:
                status = await self._ask_once(request)
            except ConnectionRefusedError:
                pass
            except (ConnectionError, asyncio.IncompleteReadError):
                broken, self._streams = broken + 1, None
            else:
                if status != STARTING:
                    spent_s = time.perf_counter() - started
                    return Reply(spent_s, status == request.status, broken)
            await asyncio.sleep(0.05)

    async def _ask_once(self, request: Request) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        writer.write(request.data)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in head:
            writer.close()
            self._streams = None
        return int(head[9:12])


async def at_full_load(port: int, requests: list[Request]) -> list[Reply]:
    """All requests, each client with the next one as soon as it has an answer."""
    left = iter(requests)

    async def work(client: Client) -> list[Reply]:
        return [await client.ask(request) for request in left]

    found = await asyncio.gather(*(work(Client(port)) for _ in range(CLIENTS)))
    return [reply for of_client in found for reply in of_client]


async def at_random(
    port: int, requests: list[Request], per_s: float, seconds: float
) -> list[Reply]:
    """Requests at random moments, so many a second on average."""
    draw, idle = random.Random(0), [Client(port) for _ in range(CLIENTS)]

    async def one(request: Request, since: float) -> Reply:
        client = idle.pop() if idle else Client(port)
        try:
            return await client.ask(request, since)
        finally:
            idle.append(client)

    tasks, due, end = [], time.perf_counter(), time.perf_counter() + seconds
    while due < end:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one(draw.choice(requests), due)))
        due += draw.expovariate(per_s)
    return await asyncio.gather(*tasks)


class Server:
    """`product-mil serve` in a process of its own."""

    def __init__(self, workdir: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        self._command = [
            sys.executable, "-m", "product_mil", "serve", "--model", str(workdir),
            "--port", str(self.port),
        ]  # fmt: skip
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it; it listens some seconds later."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def stop(self) -> int:
        """Ask it to stop, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    async def until_ready(self) -> None:
        """Wait until it answers."""
        probe = Request(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", 200)
        await Client(self.port).ask(probe)

    def cpu_s(self) -> float:
        """What all its threads have used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(workdir: Path, log: Path) -> Iterator[Server]:
    server = Server(workdir, log)
    try:
        asyncio.run(server.until_ready())
        yield server
    finally:
        server.stop()


async def with_a_restart(
    server: Server, load: Callable[[], Awaitable[list[Reply]]]
) -> tuple[list[Reply], int]:
    """What came of some load during which the server was restarted, and how the first one ended."""

    async def restart() -> int:
        await asyncio.sleep(1.0)
        status = await asyncio.to_thread(server.stop)
        server.start()
        return status

    replies, status = await asyncio.gather(load(), restart())
    return replies, status


def main() -> None:
    arguments = parser("The HTTP service beside Classifier.predict of the same images")
    arguments.add_argument("--products", type=int, default=300)
    arguments.add_argument("--seconds", type=float, default=15.0, help="at half load")
    arguments.add_argument("--size_px", type=int, default=180)
    args = arguments.parse_args()
    count, seconds = (30, 2.0) if args.smoke else (args.products, args.seconds)
    configure_jax()
    size_px = 64 if args.smoke else args.size_px
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        products = one_step_run(root, num_products=count, size_px=size_px)
        good = [form(images) for images in products]
        mixed = requests_of(products)
        classifier = product_mil.load(root / "run")
        server_cpu_s: list[float] = []
        replies: list[Reply] = []
        with serving(root / "run", root / "log") as server:

            def over_http() -> None:
                before = server.cpu_s()
                replies.extend(asyncio.run(at_full_load(server.port, good)))
                server_cpu_s.append(server.cpu_s() - before)

            best = in_turns(
                {"predict": lambda: classifier.predict(products), "http": over_http}, args.rounds
            )
            bare, http = best["predict"], best["http"]
            per_s = len(products) / http.wall_s / 2
            half = asyncio.run(at_random(server.port, mixed, per_s, seconds))
            load = lambda: at_full_load(server.port, mixed)  # noqa: E731
            restarted, status = asyncio.run(with_a_restart(server, load))
        text = (root / "log").read_text()
    images = sum(map(len, products))
    latencies_ms = 1e3 * np.array([reply.latency_s for reply in half])
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    server_s = min(server_cpu_s[1:])
    wrong = sum(not reply.is_right for reply in [*replies, *half, *restarted])
    broken = sum(reply.broken for reply in restarted)
    rows = [
        ["`predict`, all products in one call", f"{images / bare.wall_s:.0f}", f"{bare.cpu_s:.2f}"],
        [f"HTTP, {CLIENTS} clients", f"{images / http.wall_s:.0f}", f"{server_s:.2f}"],
        ["the clients themselves", "", f"{http.cpu_s:.2f}"],
    ]
    shown = table(["", "images/s", f"CPU seconds for {images} images"], rows)
    ratios = {
        "times predict, CPU": bare.cpu_s / server_s,
        "times predict, wall": bare.wall_s / http.wall_s,
    }
    shown += "\n\n" + ", ".join(f"{value:.2f} {name}" for name, value in ratios.items())
    shown += (
        f"\n\nhalf load ({per_s:.0f} requests/s, {len(half)} requests, one in {BAD_IN + 1} bad): "
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"
        f"\nrestart under load: {len(restarted)} requests, the longest took "
        f"{max(restarted).latency_s:.1f} s; the first server ended with status {status}, "
        f"{broken} connections broke after a question"
        f"\nwrong or lost: {wrong} of {len(replies) + len(half) + len(restarted)}; "
        f"answers of 500: {text.count(' 500 ')}"
    )
    versions = machine("jax", "fastapi", "uvicorn")
    about = f"{versions}; efficientnet_lite0, {size_px} px"
    report(args, about, shown, ratios)


if __name__ == "__main__":
    main()
