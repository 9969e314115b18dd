"""A Hugging Face hub on the loopback, with as much of its HTTP as models need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Models by name, each with its commits: file contents by name, the last commit last."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.models: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []  # "GET /api/models/..."
        self.messages: list[str] = []  # of commits

    def commit_id(self, name: str, number: int) -> str:
        """The name of a commit, 40 hexadecimal digits."""
        return hashlib.sha1(f"{name} {number % len(self.models[name])}".encode()).hexdigest()

    def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit's name and files, by its name or as a branch or a tag (`v0`, `v1`, ...)."""
        for number, files in enumerate(self.models[name]):
            if revision in (self.commit_id(name, number), f"v{number}"):
                return self.commit_id(name, number), files
        if revision == "main":
            return self.commit_id(name, -1), self.models[name][-1]
        return None


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers until the body ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing goes to standard error."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        parts = self._parts()
        if parts[:2] == ["api", "models"]:
            name, (what, revision, *_) = "/".join(parts[2:4]), parts[4:] or ["revision", "main"]
            found = self._found(name, revision)
            if found is None:
                return
            commit, files = found
            if what == "revision":
                siblings = [{"rfilename": file} for file in files]
                self._json({"id": name, "sha": commit, "siblings": siblings})
            elif what == "tree":
                self._json(
                    [
                        {"type": "file", "path": file, "size": len(content), "oid": _oid(content)}
                        for file, content in files.items()
                    ]
                )
            return
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = self._found(name, revision)
        if found is not None:
            commit, files = found
            self._send(
                200, files[file], {"ETag": f'"{_oid(files[file])}"', "X-Repo-Commit": commit}
            )

    def _found(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that is asked for; None after an error was sent."""
        found = self._hub.files(name, revision) if name in self._hub.models else None
        code = None
        if name not in self._hub.models:
            code = 401, "RepoNotFound"
        elif name in self._hub.gated:
            code = 403, "GatedRepo"
        elif found is None:
            code = 404, "RevisionNotFound"
        if code is not None:
            self._send(code[0], b"{}", {"X-Error-Code": code[1]})
            return None
        return found

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self._parts()
        if self.headers.get("Authorization") != "Bearer hf_of_tests":
            self._send(401, b'{"error": "Invalid credentials"}', {})
        elif parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            exists = name in self._hub.models
            self._hub.models.setdefault(name, [{}])
            self._hub.private.setdefault(name, "private" in (asked.get("visibility"), *asked))
            self._json({"url": f"{self._hub.url}/{name}"}, 409 if exists else 200)
        elif parts[4:5] == ["preupload"]:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif parts[4:5] == ["commit"]:
            name, files = "/".join(parts[2:4]), {}
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "header":
                    self._hub.messages.append(line["value"]["summary"])
            self._hub.models[name].append({**self._hub.models[name][-1], **files})
            commit = self._hub.commit_id(name, -1)
            address = f"{self._hub.url}/{name}/commit/{commit}"
            self._json({"success": True, "commitOid": commit, "commitUrl": address})
        else:  # api/validate-yaml: the front matter of the card
            self._json({"errors": [], "warnings": []})

    def _parts(self) -> list[str]:
        self._hub.requests.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
