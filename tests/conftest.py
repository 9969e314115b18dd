"""Strict tests: fake devices, checked shapes, no silent rank promotion."""

import gc
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before JAX starts: four devices on any machine. Compiling is most of what the tests do, and with
# XLA's older emitters of fused loops it takes a third of the time; small programs are not worth
# being compiled in several parts.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    + " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    + " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# As from a terminal: under nohup it is ignored, by processes that tests start as well.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

from jaxtyping import install_import_hook

install_import_hook("product_mil", "beartype.beartype")

import hypothesis
import jax
import pytest

from product_mil.sources.sample.draw import SampleFiles, write_sample

jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in each run, on machines of any speed.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """What was imported stays: garbage is looked for among what tests make."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the caches of all tests of this session, and of all its workers."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    # Many tests compile the same small programs, some of them in processes of their own.
    jax.config.update("jax_compilation_cache_dir", str(root / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return root


@pytest.fixture(autouse=True)
def _own_cache(cache_of_tests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of tests go to a temporary directory, never to the user's."""
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(cache_of_tests))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photos and weights beside the checkout, where they are."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"needs the real photos in {path}")
    return path


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleFiles:
    """A small embedded catalogue."""
    return write_sample(tmp_path_factory.mktemp("sample"), seed=0, num_products=120)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one whenever JAX traces a step that evaluates, predicts or embeds."""
    from product_mil.inference import step

    found, merge_model = [], step.merge_model

    def counted(*arguments: Any) -> Any:
        found.append(arguments)
        return merge_model(*arguments)

    monkeypatch.setattr(step, "merge_model", counted)
    return found


@pytest.fixture(scope="session")
def trained(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny finished run on `sample`; one stage, for speed."""
    from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
    from product_mil.runs.run import run

    stage = StageConfig(epochs=2, images_per_batch=32, batch_statistics=True, learning_rate=3e-3)
    config = Config(
        data=DataConfig(
            train=str(sample.train),
            categories=str(sample.categories),
            image_size_px=48,
            embedding_cache=False,
        ),
        model=ModelConfig(backbone="small_cnn", pooling="gated_attention"),
        head=replace(stage, epochs=0, trainable="head", batch_statistics=False),
        finetune=stage,
    )
    workdir = tmp_path_factory.mktemp("run")
    run(config, workdir)
    return workdir


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that tells of every error and request."""
    from tests.chromium import is_installed, start

    if not is_installed():
        pytest.skip("needs Chromium with its driver: apt-get install chromium chromium-driver")
    opened = start(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.quit()
