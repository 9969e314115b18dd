"""Predict unit after unit by one model, so that work of any size can stop and go on anywhere."""

import functools
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import xxhash

from product_mil.data.faults import Policy
from product_mil.data.products import Products
from product_mil.devices.runtime import configure_jax
from product_mil.errors import OutputError, UserError
from product_mil.files.locks import one_at_a_time
from product_mil.inference.outputs import Outputs
from product_mil.model.warp import Views
from product_mil.runs.opening import open_run
from product_mil.runs.predict import predicted_as, write_products
from product_mil.runs.unit_files import Done, UnitFiles
from product_mil.runs.units import Unit
from product_mil.sources.catalogue import TRUNCATED

_LOGGER = logging.getLogger(__name__)
_MOST_UNEXPECTED = 3  # errors in a row that nobody foresaw: then it is not the files


@dataclass(frozen=True)
class Job:
    """How all units are predicted; plain values, which may travel to another process."""

    workdir: Path
    output: Path  # the directory of `UnitFiles`
    unit_mb: float
    checkpoint: Literal["last", "best"] = "last"
    topk: int = 10
    views: Views = "none"
    tau: float = 0.0
    images_per_batch: int | None = None
    bad_records: Policy | None = None
    bad_images: Policy | None = None

    @property
    def files(self) -> UnitFiles:
        """The files of this job."""
        return UnitFiles(self.output)


class Outcome(NamedTuple):
    """What became of a unit: it is done, or there is a reason why not."""

    unit: Unit
    done: Done | None
    reason: str | None = None
    skipped: bool = False  # it was done before
    listing: Path | None = None  # of its faults, if there are any
    spent_s: float = 0.0


class Engine(Protocol):
    """Something that predicts units, by one model or by several."""

    def begin(self, units: Sequence[Unit]) -> str:
        """Make the output directory, or go on in one, and return a line on the run.

        Raises:
            UserError: predictions there are of another checkpoint, of other settings, or of other
                data.
            OutputError: the directory cannot be written.
        """
        ...

    def outcomes(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Predict units, each once.

        Raises:
            OutputError: the output cannot be written.
        """
        ...


class UnitPredictor:
    """A model that predicts one unit after the other.

    One compiled program serves all units, nothing goes to the embedding cache, and memory does not
    grow with the number of units.
    """

    def __init__(self, job: Job) -> None:
        """Open the run.

        Raises:
            UserError: there is no such run, or it has no checkpoint.
        """
        self.job, self.files = job, job.files
        self.run = open_run(job.workdir, job.checkpoint)
        self._step = self.run.predict_step(topk=job.topk, views=job.views, tau=job.tau)
        self._opened: tuple[tuple[str, str], Products] | None = None
        self._unexpected = 0  # errors since the last unit that was predicted

    def begin(self, units: Sequence[Unit]) -> str:
        """As `Engine` says."""
        job = asdict(self.job)
        for name in ("workdir", "output", "checkpoint", "bad_records", "bad_images"):
            del job[name]  # these may differ
        run = self.run
        about = {"stage": run.stage, "step": run.step, "checkpoint": run.fingerprint}
        self.files.begin(about | job)
        for unit in units:
            if done := self.files.done(unit.name):
                try:
                    other = self._what_differs(done, unit, unit.state())
                except UserError:  # it cannot be read any more, as `predict` will say
                    continue
                if other:
                    raise UserError(other)
        return run.summary

    def outcomes(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """As `Engine` says."""
        return map(self.predict, units)

    def predict(self, unit: Unit) -> Outcome:
        """Predict a unit unless it is done. Bad data are a reason in the outcome, and no error.

        Raises:
            OutputError: the output cannot be written.
        """
        started = time.monotonic()
        try:
            state = unit.state()
            if done := self.files.done(unit.name):
                if other := self._what_differs(done, unit, state):
                    return self._failed(unit, other, started)
                self.files.forget_failure(unit.name)
                return Outcome(unit, done, skipped=True)
            done = self._predicted(unit, state)
        except OutputError:
            if done := self.files.done(unit.name):  # another process wrote the same at once
                return Outcome(unit, done, skipped=True)
            raise
        except UserError as error:
            return self._failed(unit, str(error), started)
        except Exception as error:
            self._unexpected += 1
            if self._unexpected == _MOST_UNEXPECTED:
                raise
            _LOGGER.warning("%s: an unexpected error", unit.name, exc_info=True)
            return self._failed(unit, f"unexpected {type(error).__name__}: {error}", started)
        self._unexpected = 0
        listing = self.files.faults(unit.name) if done.num_faults else None
        return Outcome(unit, done, listing=listing, spent_s=time.monotonic() - started)

    def _failed(self, unit: Unit, reason: str, started: float) -> Outcome:
        with _refused_output(self.files):
            self.files.fail(unit.name, reason)
        return Outcome(unit, None, reason, spent_s=time.monotonic() - started)

    def _what_differs(self, done: Done, unit: Unit, state: str) -> str | None:
        """What to tell of a unit that was predicted from other data, or by another checkpoint.

        Raises:
            UserError: its file cannot be read any more.
        """
        where = f"{self.files.csv(unit.name)} was predicted"
        if done.checkpoint != self.run.fingerprint:
            return f"{where} by another checkpoint: name another --output"
        if state and done.state == state:
            return None
        if done.data != self._products(unit, state).catalogue.fingerprint:
            return f"{where} from other data than {unit.spec} has now: name another --output"
        with _refused_output(self.files):  # the same data in another file: found faster next time
            self.files.finish(unit.name, replace(done, state=state))
        return None

    def _products(self, unit: Unit, state: str) -> Products:
        """All products of the file. The last file stays open, since its next part may follow."""
        key = (unit.spec, state)
        if not state or self._opened is None or self._opened[0] != key:
            self._opened = None
            # Where the index lies beside the file, one process makes it for all; else one a host.
            host = "" if os.access(unit.path.parent, os.W_OK) else socket.gethostname()
            lock = xxhash.xxh3_64_hexdigest(f"{unit.spec} {host}".encode("utf-8", "replace"))
            with one_at_a_time(self.files.locks / lock, f"the index of {unit.spec}"):
                self._opened = key, self.run.products(unit.spec)
        return self._opened[1]

    def _predicted(self, unit: Unit, state: str) -> Done:
        job, run, name = self.job, self.run, unit.name
        of_file = self._products(unit, state)
        rows = unit.rows(of_file.catalogue.num_products)
        products = of_file.subset(
            (of_file.product_rows >= rows.start) & (of_file.product_rows < rows.stop)
        )
        self.files.clear_damaged(name)
        # Without a product there is nothing to make a table of.
        parquet = self.files.parquet(name) if len(products) else None
        outputs = Outputs(self.files.csv(name), parquet, job.topk)
        listed = run.fault_list(self.files.faults(name), job.bad_records, job.bad_images)
        if unit.part == 0:
            listed.add_records(products.catalogue)
        about = run.identity | predicted_as(products, job.views, job.tau)
        written = write_products(
            run,
            products,
            lambda: run.batches(
                products,
                job.images_per_batch,
                pixels=job.views != "none",
                of_one_shape=True,
                cached=False,
            ),
            self._step,
            outputs,
            listed,
            about | {"predicted_rows": [rows.start, rows.stop]},
        )
        with _refused_output(self.files):
            listed.write()
            done = Done(
                spec=unit.spec,
                part=unit.part,
                parts=unit.parts,
                state=state,
                data=products.catalogue.fingerprint,
                checkpoint=run.fingerprint,
                num_products=written.num_products,
                num_images=written.num_images,
                num_imageless=written.num_imageless,
                num_faults=len(listed),
                size_bytes=self.files.sizes(name),
                is_cut=TRUNCATED in products.catalogue.fault_counts,
            )
            self.files.finish(name, done)
        return done


@contextmanager
def _refused_output(files: UnitFiles) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to {files.directory}: {error}") from error


@functools.cache
def predictor_of(job: Job) -> UnitPredictor:
    """The predictor of a job, opened once a process; for engines that use processes again."""
    configure_jax()
    return UnitPredictor(job)


class Tally(NamedTuple):
    """How many units were predicted now or before, and the others with the reasons why not."""

    predicted: int
    skipped: int
    failed: dict[str, str]
    num_faults: int  # of the units that are done


def followed(outcomes: Iterable[Outcome], count: int) -> Tally:
    """Take all of `count` outcomes, with a line on each unit that was not done before."""
    predicted, skipped, failed, num_faults = 0, 0, {}, 0
    for number, (unit, done, reason, was_done, listing, spent_s) in enumerate(outcomes, 1):
        at = f"{number} of {count}: {unit.name}"
        num_faults += done.num_faults if done else 0
        if done is None:
            failed[unit.name] = reason or ""
            _LOGGER.warning("%s: not predicted: %s", at, reason)
        elif was_done:
            skipped += 1
        else:
            predicted += 1
            _LOGGER.info(
                "%s: %s products, %s images in %.1f s%s%s",
                at,
                f"{done.num_products:,}",
                f"{done.num_images:,}",
                spent_s,
                f"; faults: {done.num_faults:,}, see {listing}" if listing else "",
                "; the end of the file is missing" if done.is_cut else "",
            )
    return Tally(predicted, skipped, failed, num_faults)
