"""Models of the hub, by a fake one; the real client speaks to it from processes of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bson
import numpy as np
import pytest

import product_mil
from product_mil.errors import UserError
from product_mil.files.hub import is_on_hub
from product_mil.sources.sample.draw import SampleFiles
from tests.files.fake_hub import FakeHub, fake_hub
from tests.scripts import ROOT

pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub() as found:
        yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


def python(
    code: str, *arguments: object, hub: FakeHub, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program that takes the fake hub for the real one, and `home` for its cache."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_of_tests"}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    others = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**others, "PYTHONPATH": str(ROOT), **own, **quiet, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


PUSH = """
import sys
import product_mil
directory, name, private = sys.argv[1:]
print(product_mil.load(directory).push_to_hub(name, private=private == "True", license="mit"))
"""
LOAD = """
import sys
import bson, numpy as np
import product_mil
place, data, output = sys.argv[1:]
products = [[image["picture"] for image in record["imgs"]]
            for record in bson.decode_all(open(data, "rb").read())[:9]]
classifier = product_mil.load(place)
print(classifier.summary)
np.save(output, classifier.predict_proba(products))
"""


@pytest.fixture(scope="module")
def pushed(trained: Path, hub: FakeHub, home: Path) -> str:
    ended = python(PUSH, trained, "me/joint", True, hub=hub, home=home)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_what_is_uploaded(pushed: str, hub: FakeHub) -> None:
    assert pushed == f"{hub.url}/me/joint"
    files = hub.models["me/joint"][-1]
    assert files.keys() == {"model.safetensors", "config.json", "README.md"}
    assert b'\nlicense: "mit"\n' in files["README.md"]
    assert b"product_mil.load('hf://me/joint')" in files["README.md"]
    assert json.loads(files["config.json"])["library_name"] == "product_mil"
    assert hub.private == {"me/joint": True}
    assert hub.messages == ["Upload model"]


def test_what_is_loaded_is_what_was_pushed(
    pushed: str, trained: Path, sample: SampleFiles, hub: FakeHub, home: Path, tmp_path: Path
) -> None:
    """Of a revision too; other files of the model stay where they are."""
    del pushed
    hub.models["me/joint"].append(hub.models["me/joint"][-1] | {"pytorch_model.bin": b"pickle"})
    records = bson.decode_all(sample.train.read_bytes())[:9]
    wanted = product_mil.load(trained).predict_proba(
        [[image["picture"] for image in record["imgs"]] for record in records]
    )
    before = len(hub.requests)
    for place in ("hf://me/joint", "hf://me/joint@v1"):
        ended = python(LOAD, place, sample.train, tmp_path / "p.npy", hub=hub, home=home)
        assert ended.returncode == 0, ended.stderr
        assert np.load(tmp_path / "p.npy").tobytes() == wanted.tobytes()
        commit = hub.commit_id("me/joint", 1 if "@" in place else 2)
        assert f"models--me--joint/snapshots/{commit}" in ended.stdout
    assert not any("pytorch_model" in request for request in hub.requests)
    downloads = [r for r in hub.requests[before:] if r.startswith("GET /me/joint/resolve")]
    assert len(downloads) == 3  # the same files in both commits
    # It was downloaded, so it is there without a network too.
    ended = python(
        LOAD, "hf://me/joint", sample.train, tmp_path / "q.npy", hub=hub, home=home,
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


TOOLS = """
import sys
from product_mil.cli.evaluate import main
main(["--workdir", "hf://me/joint", "--data", sys.argv[1], "--json"])
from product_mil.compare.gather.headline import pooling_of
from product_mil.files.outputs import user_path
from product_mil.config import ModelConfig
from product_mil.runs.opening import open_run
print(pooling_of(user_path("hf://me/joint")))
print(open_run(ModelConfig(weights="hf://me/joint").start.workdir).step)
"""


def test_commands_and_warm_starts(
    pushed: str, sample: SampleFiles, hub: FakeHub, home: Path
) -> None:
    del pushed
    ended = python(TOOLS, sample.train, hub=hub, home=home)
    assert ended.returncode == 0, ended.stderr
    assert '"products": 120.0' in ended.stdout
    assert ended.stdout.endswith("}\ngated_attention\n12\n")


COMPARE = """
import sys
from product_mil.cli.compare import main
data, run, output = sys.argv[1:]
main(["--runs", "hub=hf://me/joint", f"run={run}", "--data", data, "--output", output])
"""


@pytest.mark.slow
def test_a_comparison(
    pushed: str, trained: Path, sample: SampleFiles, hub: FakeHub, home: Path, tmp_path: Path
) -> None:
    del pushed
    ended = python(COMPARE, sample.train, trained, tmp_path / "out", hub=hub, home=home)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert found["runs"]["hub"]["accuracy"] == found["runs"]["run"]["accuracy"]


FAIL = """
import sys
import product_mil
directory, *places = sys.argv[1:]
for place in places:
    try:
        if directory:
            product_mil.load(directory).push_to_hub(place)
        else:
            product_mil.load(place)
    except product_mil.UserError as error:
        print(error)
"""
UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "messages"),
    [
        (
            {},
            {
                "hf://me/absent": "me/absent: no such model, or a private one; correct the name",
                "hf://me/joint@v9": "me/joint: no such revision; name a branch, a tag or a commit",
                "hf://me/gated": "me/gated: its owner must grant access; ask on its page",
                "hf://joint": "hf:/joint: write hf://owner/name, or hf://owner/name@revision",
                "hf://me/../joint": "write hf://owner/name",
                "hf://me/jo--int": "me/jo--int: ",
            },
        ),
        ({"HF_HUB_OFFLINE": "1"}, {"hf://you/joint": "you/joint: the hub cannot be reached"}),
        (UNREACHABLE, {"hf://you/joint": "you/joint: the hub cannot be reached, and the model"}),
    ],
)
def test_what_cannot_be_loaded(
    environment: dict[str, str], messages: dict[str, str], pushed: str, hub: FakeHub, home: Path
) -> None:
    del pushed
    hub.models["me/gated"] = [{}]
    hub.gated.add("me/gated")
    ended = python(FAIL, "", *messages, hub=hub, home=home, **environment)
    lines = ended.stdout.splitlines()
    for line, message in zip(lines, messages.values(), strict=True):
        assert message in line, ended.stderr


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("joint", {}, "joint: name a model of the hub as owner/name"),
        ("me/other", {"HF_TOKEN": "hf_wrong"}, "hf://me/other: .*401.*; try again"),
        ("me/other", UNREACHABLE, "hf://me/other: .*; try again"),
    ],
)
def test_what_cannot_be_pushed(
    name: str, environment: dict[str, str], message: str, trained: Path, hub: FakeHub, home: Path
) -> None:
    ended = python(FAIL, trained, name, hub=hub, home=home, **environment)
    (line,) = ended.stdout.splitlines()
    assert re.match(message, line), ended.stderr
    assert "me/other" not in hub.models


def test_a_path_never_goes_to_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would fail
    monkeypatch.chdir(tmp_path)
    for name, more in (("owner/name", ", or hf://owner/name if you mean a model on the hub"),
                       ("a/b/c", ""), ("/owner/name", "")):  # fmt: skip
        with pytest.raises(UserError) as refused:
            product_mil.load(name)
        assert str(refused.value) == (
            f"{name}: no such directory; name the directory of a run{more}"
        )
    with pytest.raises(UserError, match=r"need huggingface_hub: pip install 'product_mil\[hub\]'"):
        product_mil.load("hf://owner/name")
    (tmp_path / "hf:" / "owner" / "name").mkdir(parents=True)
    assert not is_on_hub(Path("hf://owner/name"))
    with pytest.raises(UserError, match="holds no checkpoint"):
        product_mil.load("hf://owner/name")
