"""Downloads of published weights against an HTTP server on this machine."""

import hashlib
import importlib.util
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from product_mil.errors import UserError
from product_mil.model.registry import BACKBONES, backbone
from product_mil.model.spec import BackboneSpec, PublishedFile, PublishedWeights
from product_mil.model.weights.published import published_file, weights_cache_dir

CONTENT = bytes(range(256)) * 400
HASH = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, a part of it under /broken.h5, and slowly under /slow.h5."""

    requested: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requested.append(self.path)
        if self.path == "/absent.h5":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        whole = self.path != "/broken.h5"
        for start in range(0, len(CONTENT) if whole else 5000, 10_000):
            if self.path == "/slow.h5":
                threading.Event().wait(0.05)
            self.wfile.write(CONTENT[start : start + 10_000])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    Handler.requested.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def spec_of(url: str, known: str | None = HASH) -> BackboneSpec:
    one = PublishedFile(url, known)
    other = PublishedFile(url.replace(".h5", "_notop.h5"), known)
    return replace(backbone("mobilenet_v2"), weights=PublishedWeights(other, one))


def fetch(spec: BackboneSpec) -> Path:
    return published_file(spec, with_top=True)


def test_downloads_once_shows_a_bar_and_then_needs_no_network(server, capsys, caplog):
    spec = spec_of(f"{server}/tiny.h5")
    path = fetch(spec)
    assert path == weights_cache_dir() / "tiny.h5"
    assert path.read_bytes() == CONTENT
    assert "100%" in capsys.readouterr().err
    assert f"downloading {server}/tiny.h5 to {path}" in caplog.text
    assert fetch(spec) == path
    assert Handler.requested == ["/tiny.h5"]
    assert published_file(spec, with_top=False).name == "tiny_notop.h5"


def test_a_wrong_hash_leaves_nothing(server):
    spec = spec_of(f"{server}/tiny.h5", "md5:" + "0" * 32)
    with pytest.raises(UserError, match="not the published file") as error:
        fetch(spec)
    assert "\n" not in str(error.value)
    assert f"{server}/tiny.h5" in str(error.value)
    assert not list(weights_cache_dir().glob("*.h5"))


@pytest.mark.parametrize("known", [HASH, None])
def test_a_broken_transfer_leaves_nothing_and_can_be_tried_again(server, known):
    with pytest.raises(UserError, match=r"cannot get broken\.h5") as error:
        fetch(spec_of(f"{server}/broken.h5", known))
    assert str(weights_cache_dir() / "broken.h5") in str(error.value)
    assert {path.suffix for path in weights_cache_dir().iterdir()} <= {".lock"}
    with pytest.raises(UserError, match=r"cannot get absent\.h5"):
        fetch(spec_of(f"{server}/absent.h5", known))


def test_no_network_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # nobody listens there
    url = f"http://127.0.0.1:{port}/tiny.h5"
    path = weights_cache_dir() / "tiny.h5"
    with pytest.raises(UserError) as error:
        fetch(spec_of(url))
    assert f"download {url} on another machine and put it at {path}" in str(error.value)
    path.write_bytes(CONTENT)  # as the message says
    assert fetch(spec_of(url)) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"the file at .* has another hash"):
        fetch(spec_of(url))


def test_where_no_hash_is_published_the_first_is_remembered(server):
    spec = spec_of(f"{server}/tiny.h5", None)
    path = fetch(spec)
    assert path.with_name("tiny.h5.sha256").read_text() == HASH.removeprefix("sha256:") + "\n"
    path.write_bytes(CONTENT + b"x")  # damaged since: fetched again
    assert fetch(spec).read_bytes() == CONTENT
    assert Handler.requested == ["/tiny.h5"] * 2


@pytest.mark.slow
def test_two_processes_download_once(server):
    spec = spec_of(f"{server}/slow.h5")
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        paths = pool.map(fetch, [spec, spec], chunksize=1)
    assert [path.read_bytes() for path in paths] == [CONTENT] * 2
    assert Handler.requested == ["/slow.h5"]


def test_a_backbone_without_published_weights_says_so():
    with pytest.raises(UserError, match="small_cnn has no published weights"):
        published_file(backbone("small_cnn"), with_top=False)


def test_published_files_are_those_of_keras():
    found = importlib.util.find_spec("keras")
    if found is None or found.origin is None:
        pytest.skip("needs Keras: pip install -e .[test]")
    sources = "".join(
        path.read_text() for path in (Path(found.origin).parent / "src/applications").glob("*.py")
    )
    for spec in BACKBONES.values():
        weights = spec.weights
        if not isinstance(weights, PublishedWeights):
            continue
        for file in (weights.without_top, weights.with_top):
            assert file.hash is None or file.hash.rpartition(":")[2] in sources, file.url
            assert file.url.startswith("https://storage.googleapis.com/tensorflow/")
