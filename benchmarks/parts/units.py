"""Predicting many files unit by unit beside one loop over all their products, and memory.

    python -m benchmarks.parts.units [--products 4000] [--files 8]

The plain loop predicts the same files as one catalogue, with the same model, program and outputs.
The difference is what opening files, notes of what is done and smaller outputs cost. Both write the
same rows. Besides: what it takes to find that a unit is done, and the memory of a process after 3
and after 30 units.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.measure import in_turns, machine, parser, report, table
from benchmarks.parts import shaped
from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.devices.runtime import keep_freed_memory
from product_mil.inference.outputs import Outputs
from product_mil.runs.predict import predicted_as, write_products
from product_mil.runs.predict_units import Job, UnitPredictor
from product_mil.runs.run import run
from product_mil.runs.units import Unit, units_of

SIZE_PX = 180


def train(root: Path, backbone: str) -> Path:
    """A run of one step, since only its speed matters."""
    stage = StageConfig(epochs=1, max_steps=1, images_per_batch=32)
    config = Config(
        data=DataConfig(
            train=str(root / "train.bson"), image_size_px=SIZE_PX, embedding_cache=False
        ),
        model=ModelConfig(backbone=backbone),
        head=StageConfig(epochs=0),
        finetune=stage,
    )
    shaped.write(root / "train.bson", 60, classes=20)
    run(config, root / "run")
    return root / "run"


def write_files(directory: Path, files: int, products: int) -> None:
    """Files of so many products each, whose ids differ."""
    directory.mkdir()
    shaped.write(directory / "all", files * products, different=64)
    data, at = (directory / "all").read_bytes(), 0
    (directory / "all").unlink()
    for number in range(files):
        start = at
        for _ in range(products):
            at += int.from_bytes(data[at : at + 4], "little")
        (directory / f"{number:03}.bson").write_bytes(data[start:at])


def opened(root: Path, workdir: Path, units: list[Unit]) -> UnitPredictor:
    predictor = UnitPredictor(Job(workdir, root / "out", 1000.0))
    predictor.begin(units)
    return predictor


def resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def memory_of(root: Path, workdir: Path) -> None:
    """Print the memory after 3 and after 30 units."""
    units = units_of(f"{root}/small/*.bson")
    predictor = opened(root, workdir, units)
    for number, _ in enumerate(predictor.outcomes(units), 1):
        if number in (3, len(units)):
            print(f"{resident_mb():.1f}")


def main() -> None:
    keep_freed_memory()  # as a run does
    arguments = parser("Units beside one loop over all products")
    arguments.add_argument("--backbone", default="small_cnn")
    arguments.add_argument("--products", type=int, default=4_000)
    arguments.add_argument("--files", type=int, default=8)
    arguments.add_argument("--memory_of", nargs=2, type=Path, help="only predict, in this process")
    args = arguments.parse_args()
    if args.memory_of:
        memory_of(*args.memory_of)
        return
    products = 400 if args.smoke else args.products
    each = products // args.files
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        workdir = train(root, args.backbone)
        write_files(root / "data", args.files, each)
        write_files(root / "small", 30, max(each // 10, 8))
        units = units_of(f"{root}/data/*.bson")
        predictor = opened(root, workdir, units)
        trained, job = predictor.run, predictor.job
        step = trained.predict_step(topk=job.topk)
        whole = trained.products(f"{root}/data/*.bson")

        def one_loop() -> None:
            write_products(
                trained,
                whole,
                lambda: trained.batches(whole, of_one_shape=True, cached=False),
                step,
                Outputs(root / "all.csv", root / "all.parquet"),
                trained.fault_list(None, None, None),
                trained.identity | predicted_as(whole, "none", 0.0),
            )

        def unit_by_unit() -> None:
            shutil.rmtree(root / "out")
            predictor.begin(units)
            assert all(outcome.done for outcome in predictor.outcomes(units))

        best = in_turns({"one loop": one_loop, "units": unit_by_unit}, args.rounds)
        images = int(whole.num_images.sum())
        same = pq.read_table(root / "all.parquet", columns=["top_probability"]).equals(
            pq.read_table(root / "out" / "parquet", columns=["top_probability"])
        )
        started = time.perf_counter()
        assert all(outcome.skipped for outcome in predictor.outcomes(units))
        skip_ms = 1e3 * (time.perf_counter() - started) / len(units)
        shutil.rmtree(root / "out")
        command = [sys.executable, "-m", "benchmarks.parts.units", "--memory_of", root, workdir]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        few_mb, many_mb = map(float, said.split()[-2:])
    loop, by_unit = best.values()
    rows = [
        [name, f"{b.wall_s:.2f} s", f"{b.cpu_s:.2f} s", f"{images / b.wall_s:.0f}"]
        for name, b in best.items()
    ]
    text = table(["", "wall", "CPU", "images/s"], rows)
    text += (
        f"\n\nunits: {by_unit.wall_s / loop.wall_s:.3f} times the plain loop by wall time, "
        f"{by_unit.cpu_s / loop.cpu_s:.3f} by CPU time, {len(units)} units of {each} products; "
        f"the same rows: {same}\nto find that a unit is done: {skip_ms:.1f} ms\nmemory: "
        f"{few_mb:.0f} MB after 3 units, {many_mb:.0f} MB after 30"
    )
    about = f"{machine('jax')}; {args.backbone}, {images} images of {SIZE_PX} px"
    report(args, about, text, {"units, times one loop, CPU": loop.cpu_s / by_unit.cpu_s})


if __name__ == "__main__":
    main()
