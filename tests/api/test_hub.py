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
data, output, *places = sys.argv[1:]
products = [[image["picture"] for image in record["imgs"]]
            for record in bson.decode_all(open(data, "rb").read())[:9]]
classifiers = [product_mil.load(place) for place in places]
for classifier in classifiers:
    print(classifier.summary)
np.save(output, [classifier.predict_proba(products) for classifier in classifiers])
"""


# Loads each place of the form hf://..., and pushes a run to each other one.
REFUSED = """
import sys
import product_mil
directory, *places = sys.argv[1:]
classifier = product_mil.load(directory)
for place in places:
    try:
        if place.startswith("hf://"):
            print(place, "is there:", product_mil.load(place).summary)
        else:
            classifier.push_to_hub(place)
    except product_mil.UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def pushed(trained: Path, hub: FakeHub, home: Path) -> str:
    ended = python(PUSH, trained, "me/joint", True, hub=hub, home=home)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.slow
def test_what_is_uploaded(pushed: str, hub: FakeHub) -> None:
    assert pushed == f"{hub.url}/me/joint"
    files = hub.models["me/joint"][-1]
    assert files.keys() == {"model.safetensors", "config.json", "README.md"}
    assert b'\nlicense: "mit"\n' in files["README.md"]
    assert b"product_mil.load('hf://me/joint')" in files["README.md"]
    assert json.loads(files["config.json"])["library_name"] == "product_mil"
    assert hub.private == {"me/joint": True}
    assert hub.messages == ["Upload model"]


@pytest.mark.slow
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
    ended = python(
        LOAD, sample.train, tmp_path / "p.npy", "hf://me/joint", "hf://me/joint@v1",
        hub=hub, home=home,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for place, found in enumerate(np.load(tmp_path / "p.npy")):
        assert found.tobytes() == wanted.tobytes()
        commit = hub.commit_id("me/joint", 2 - place)
        assert f"models--me--joint/snapshots/{commit}" in ended.stdout.splitlines()[place]
    assert not any("pytorch_model" in request for request in hub.requests)
    downloads = [r for r in hub.requests[before:] if r.startswith("GET /me/joint/resolve")]
    assert len(downloads) == 3  # the same files in both commits
    # It was downloaded, so it is there without a network too; another one is not.
    ended = python(
        REFUSED, trained, "hf://me/joint", "hf://you/joint",
        hub=hub, home=home, HF_HUB_OFFLINE="1",
    )  # fmt: skip
    found, refused = ended.stdout.splitlines()
    assert found.startswith("hf://me/joint is there: ")
    assert "you/joint: the hub cannot be reached, and the model" in refused


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


@pytest.mark.slow
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


UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "messages"),
    [
        (
            {"HF_TOKEN": "hf_wrong"},
            {
                "hf://me/absent": "me/absent: no such model, or a private one; correct the name",
                "hf://me/joint@v9": "me/joint: no such revision; name a branch, a tag or a commit",
                "hf://me/gated": "me/gated: its owner must grant access; ask on its page",
                "hf://joint": "hf:/joint: write hf://owner/name, or hf://owner/name@revision",
                "hf://me/../joint": "write hf://owner/name",
                "hf://me/jo--int": "me/jo--int: ",
                "joint": "joint: name a model of the hub as owner/name",
                "me/other": "hf://me/other: .*401.*; try again",
            },
        ),
        (
            UNREACHABLE,
            {
                "hf://you/joint": "you/joint: the hub cannot be reached, and the model",
                "me/other": "hf://me/other: .*; try again",
            },
        ),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_loaded_or_pushed(
    environment: dict[str, str],
    messages: dict[str, str],
    pushed: str,
    trained: Path,
    hub: FakeHub,
    home: Path,
) -> None:
    del pushed
    hub.models["me/gated"] = [{}]
    hub.gated.add("me/gated")
    ended = python(REFUSED, trained, *messages, hub=hub, home=home, **environment)
    lines = ended.stdout.splitlines()
    for line, message in zip(lines, messages.values(), strict=True):
        assert re.search(message, line), ended.stderr
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
