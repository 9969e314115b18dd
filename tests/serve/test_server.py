"""The server's process: how it starts, stops and starts again."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from product_mil.api import Classifier
from product_mil.errors import UserError
from product_mil.prediction import Question
from product_mil.serve.limits import Limits
from product_mil.serve.server import _ignore_newcomers, address_of, bind, server_of
from product_mil.serve.service import Service
from tests.scripts import ROOT, call_tool
from tests.serve.client import as_json
from tests.serve.test_batching import Held

HOST = "127.0.0.1"


def ask(
    port: int, products: list[list[bytes]]
) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
    """Ask over a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    with contextlib.closing(connection):
        body = json.dumps(as_json(products))
        connection.request("POST", "/v1/predict", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()), reply.headers


def listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port)).close()
    except ConnectionRefusedError:
        return False
    return True


@contextlib.contextmanager
def running(service: Service) -> Iterator[tuple[Any, int]]:
    """A server in another thread, which is compiled, and its port."""
    bound = bind(HOST, 0)
    server, port = server_of(service), bound.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        until = time.monotonic() + 120
        while not server.started or not service._models[0].batcher.is_ready:
            assert time.monotonic() < until
            time.sleep(0.02)
        yield server, port
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def held(classifier: Classifier) -> Held:
    held = Held(classifier)
    held.permissions.release(1000)
    return held


def wait_until(is_so: Any) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("permits", [True, False])
def test_what_is_in_flight_when_it_is_asked_to_stop(
    permits: bool, held: Held, products: list[list[bytes]]
) -> None:
    service = Service([held], limits=Limits(stop_s=30.0 if permits else 0.2))
    with running(service) as (server, port), ThreadPoolExecutor() as threads:
        while held.permissions.acquire(blocking=False):
            pass
        held.calls.clear()
        computed = threads.submit(ask, port, products[:1])
        wait_until(lambda: held.calls)
        waiting = [threads.submit(ask, port, [images]) for images in products[1:4]]
        wait_until(lambda: len(service._models[0].batcher._queue) == 3)
        server.should_exit = True
        wait_until(lambda: not listens(port))
        assert service.is_stopping
        if permits:
            held.permissions.release(1000)
        for each in waiting:
            status, answer, headers = each.result(30)
            assert headers["connection"] == "close"
            if permits:
                assert status == 200
                assert len(answer["products"]) == 1
            else:
                assert (status, headers["retry-after"]) == (503, "1")
                assert answer == {"detail": "the server is stopping; try again later"}
        held.permissions.release(1000)
        assert computed.result(30)[0] == 200


def test_a_model_that_cannot_be_compiled_ends_the_server(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_it(_: Classifier) -> None:
        raise MemoryError("of the device")

    monkeypatch.setattr(Classifier, "compile", compile_it)
    service = Service([classifier])
    server_of(service).run([bind(HOST, 0)])
    assert isinstance(service.failure, MemoryError)


def test_addresses() -> None:
    with contextlib.closing(bind("localhost", 0)) as bound:
        port = bound.getsockname()[1]
        assert address_of(bound) in (f"http://127.0.0.1:{port}", f"http://[::1]:{port}")
    with contextlib.closing(bind("0.0.0.0", 0)) as bound:
        assert address_of(bound) == f"http://{socket.gethostname()}:{bound.getsockname()[1]}"
    for host in ("no.such.host.invalid", "192.0.2.1", "a" * 100):
        with pytest.raises(UserError, match=f"cannot listen at {host}, port 80: .*choose another"):
            bind(host, 80)


def test_a_port_that_is_taken(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            call_tool("serve", "--model", trained, "--port", port)
    assert ended.value.code == 2
    line = f"error: cannot listen at {HOST}, port {port}: Address already in use; choose another"
    assert capsys.readouterr().err == f"{line} --port\n"


def health(port: int) -> int | None:
    """The status of /health; None where nobody listens."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    with contextlib.closing(connection), contextlib.suppress(ConnectionRefusedError):
        connection.request("GET", "/health")
        return connection.getresponse().status
    return None


class Process:
    """`product-mil serve` in a process of its own, and what it prints."""

    def __init__(self, workdir: Path, port: int, log: Path) -> None:
        arguments = ["serve", "--model", str(workdir), "--port", str(port)]
        command = [sys.executable, "-m", "product_mil", *arguments]
        self._log = log
        with log.open("a") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT)

    def stop(self, number: int) -> int:
        """Its exit status after a signal."""
        self._process.send_signal(number)
        try:
            return self._process.wait(60)
        finally:
            self._process.kill()  # where it did not end


class Answers:
    """Clients that ask again and again, each over a new connection for each question."""

    def __init__(self, port: int, products: list[list[bytes]]) -> None:
        self.statuses: Counter[int] = Counter()
        self.broken: list[Exception] = []
        self.wrong = 0
        self._port, self._products = port, products
        self._wanted: dict[int, int] = {}
        self._stopped = threading.Event()

    def learn(self, classifier: Classifier) -> None:
        """What the answers must be."""
        asked = map(Question, self._products)
        self._wanted = {
            number: prediction.category_ids[0]
            for number, prediction in enumerate(classifier.answers(asked))
        }

    def work(self, number: int) -> None:
        """Ask about one product until `stop`."""
        while not self._stopped.is_set():
            try:
                status, answer, _ = ask(self._port, self._products[number : number + 1])
            except ConnectionRefusedError:
                time.sleep(0.02)
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(error)
            else:
                self.statuses[status] += 1
                if status == 200:
                    found = answer["products"][0]["categories"][0]["category_id"]
                    self.wrong += found != self._wanted[number]
                else:
                    time.sleep(0.05)

    def stop(self) -> None:
        """Let every client end after its question."""
        self._stopped.set()


@pytest.mark.slow
def test_it_may_be_stopped_while_it_compiles(trained: Path, tmp_path: Path) -> None:
    with contextlib.closing(bind(HOST, 0)) as free:
        port = free.getsockname()[1]
    process, log = Process(trained, port, tmp_path / "log"), tmp_path / "log"
    wait_until(lambda: health(port) == 503)
    assert process.stop(signal.SIGTERM) == 0
    assert log.read_text().endswith("stopped; everything that was asked is answered\n")


@pytest.mark.slow
def test_no_request_is_lost_when_it_starts_again(
    trained: Path, classifier: Classifier, products: list[list[bytes]], tmp_path: Path
) -> None:
    with contextlib.closing(bind(HOST, 0)) as free:
        port = free.getsockname()[1]
    log, count = tmp_path / "log", 12
    answers = Answers(port, products[:count])
    answers.learn(classifier)
    with ThreadPoolExecutor(count) as threads:
        try:
            clients = [threads.submit(answers.work, number) for number in range(count)]
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                before = answers.statuses[200]
                process = Process(trained, port, log)
                wait_until(lambda before=before: answers.statuses[200] > before + 100)
                assert process.stop(number) == 0
        finally:
            answers.stop()
        for client in clients:
            client.result()
    assert set(answers.statuses) == {200, 503}  # 503 while the model was being compiled
    assert answers.wrong == 0
    assert answers.broken == []
    text = log.read_text()
    said = Counter(re.findall(r"^POST /v1/predict (\d+) \d+ ms$", text, re.MULTILINE))
    assert said == {str(status): count for status, count in answers.statuses.items()}
    lines = [line for line in text.splitlines() if not line.startswith("POST")]
    assert lines[0].startswith(f"serving {trained}: gated_attention over small_cnn")
    assert lines[1] == f"open http://{HOST}:{port}; it answers when the model is compiled"
    assert lines[2] == "stopped; everything that was asked is answered"
    assert len(lines) == 9


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is one of Linux")
def test_newcomers_are_ignored_while_connections_are_finished() -> None:
    with contextlib.closing(bind(HOST, 0)) as listening:
        listening.listen()
        address = listening.getsockname()
        with contextlib.closing(socket.create_connection(address, 5)) as early:
            _ignore_newcomers(listening)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, 0.2)
            accepted, _ = listening.accept()
            with accepted:
                early.sendall(b"early")
                assert accepted.recv(5) == b"early"
