"""Write the predictions of an ensemble of trained runs, or of their prediction files."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from product_mil.data.faults import FAULTS, Policy, faults_path
from product_mil.data.loader import Loaded
from product_mil.data.products import Products
from product_mil.ensemble.combine import combine_files, file_log_probs
from product_mil.ensemble.files import MISSING, AlignedMembers, align, missing_path, open_member
from product_mil.ensemble.parquet import ProductFacts
from product_mil.ensemble.rule_names import Rule, normalised
from product_mil.ensemble.rules import Fitted, fit_weights
from product_mil.ensemble.runs import (
    MemberOutputs,
    make_ensemble_step,
    member_batches,
    member_log_probs,
    open_members,
)
from product_mil.errors import UserError
from product_mil.inference.backoff import calibrated_back_off
from product_mil.inference.outputs import Outputs, Written, write_predictions
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.stream import predict_products, watched
from product_mil.model.warp import Views
from product_mil.progress import Progress
from product_mil.runs.feed import Batches
from product_mil.runs.fitting import log_known, log_known_ids, validation_products
from product_mil.runs.predict import predicted_as, write_products
from product_mil.sources.ids import no_ids
from product_mil.sources.lookup import rows_of
from product_mil.sources.opening import open_catalogue
from product_mil.version import __version__

_LOGGER = logging.getLogger(__name__)


class Combined(NamedTuple):
    """The result of an ensemble, and the weights of its members, which sum to 1."""

    weights: Float64[np.ndarray, " m"]
    written: Written


def combine_runs(
    workdirs: Sequence[Path],
    spec: str,
    outputs: Outputs,
    *,
    rule: Rule = "average",
    weights: Float64[np.ndarray, " m"] | None = None,
    fit_on: str | None = None,
    checkpoint: Literal["last", "best"] = "last",
    images_per_batch: int | None = None,
    views: Views = "none",
    tau: float = 0.0,
    bad_records: Policy | None = None,
    bad_images: Policy | None = None,
) -> Combined:
    """Predict the data `spec` by all runs, in one pass over the images.

    All outputs are written whole, or not at all. If no weights are given, they are fitted on the
    labelled products of `fit_on`, by default the validation products of the runs; predictions that
    back off are calibrated on the same. The other arguments are those of `runs.predict.predict`. A
    policy of None is that of the first run.

    Raises:
        UserError: runs or data cannot be used together, or outputs cannot be written.
    """
    weights = normalised(weights, len(workdirs))
    listing = missing_path(outputs.submission)
    outputs.check(spec, {faults_path(outputs.submission): FAULTS, listing: MISSING})
    runs = open_members(workdirs, checkpoint, listing)
    for run in runs:
        _LOGGER.info("%s", run.summary)
    products, categories = runs[0].products(spec), runs[0].categories
    members = MemberOutputs(runs, views, tau)

    def loaded(chosen: Products) -> Batches:
        return member_batches(runs, members, chosen, images_per_batch, views=views)

    def of_valid(chosen: Products) -> Iterator[Loaded]:
        return watched(loaded(chosen), chosen)

    valid = None
    if weights is None or outputs.min_confidence is not None:
        valid = validation_products(runs, fit_on)
        log_known(runs, valid, products)
    else:
        log_known_ids(runs, products)
    if weights is None:
        assert valid is not None
        log_probs = member_log_probs(runs, members, valid, of_valid(valid))
        weights = _logged(fit_weights(log_probs, rule, len(valid)), workdirs, len(valid))
    step = make_ensemble_step(
        members,
        weights,
        rule,
        topk=min(outputs.topk, len(categories.ids)),
        keep_all=outputs.need_all,
    )
    back_off = None
    if outputs.min_confidence is not None:
        assert valid is not None
        predicted = predict_products(valid, of_valid(valid), step, runs[0].mesh)
        back_off = calibrated_back_off(
            (block for block, _ in predicted), categories, outputs.min_confidence
        )
    about = _about(rule, weights) | {"members": [run.identity for run in runs]}
    about |= predicted_as(products, views, tau)
    listed = runs[0].fault_list(faults_path(outputs.submission), bad_records, bad_images)
    listed.add_records(products.catalogue)
    written = write_products(
        runs[0], products, lambda: loaded(products), step, outputs, listed, about, back_off
    )
    remarks = [*filter(None, [listed.write()])]
    return Combined(weights, written._replace(remarks=remarks))


def combine_predictions(
    paths: Sequence[Path],
    outputs: Outputs,
    *,
    spec: str | None = None,
    rule: Rule = "average",
    weights: Float64[np.ndarray, " m"] | None = None,
    fit_paths: Sequence[Path] = (),
    fit_on: str | None = None,
) -> Combined:
    """Combine prediction files and write all outputs, whole or not at all.

    If no weights are given, they are fitted on `fit_paths`, which are validation predictions of the
    same models in the same order; predictions that back off are calibrated on the same. `spec` and
    `fit_on` are the data that were predicted. They are needed if the prediction files do not
    have categories and numbers of images.

    Raises:
        UserError: files cannot be used together, or outputs cannot be written.
    """
    weights = normalised(weights, len(paths))
    listing = missing_path(outputs.submission)
    outputs.check(spec, {faults_path(outputs.submission): FAULTS, listing: MISSING})
    if (weights is None or outputs.min_confidence is not None) and not fit_paths:
        raise UserError(
            "weights and --min_confidence are fitted on validation predictions of the members: "
            "name --fit_predictions"
        )
    if fit_paths and len(fit_paths) != len(paths):
        raise UserError(
            f"--fit_predictions names {len(fit_paths)} files, --predictions {len(paths)}: one for "
            "each member, in their order"
        )
    aligned = align([open_member(path) for path in paths], listing)
    facts = _facts(aligned, spec, "--data", needed=outputs.top_classes is not None)
    categories, valid, valid_facts = aligned.categories, None, None
    topk = min(outputs.topk, len(categories.ids))
    if fit_paths:
        valid = align([open_member(path) for path in fit_paths], listing)
        if not np.array_equal(categories.ids, valid.categories.ids):
            raise UserError(
                f"{fit_paths[0]} knows other categories than {paths[0]}: fit on predictions of the "
                "same models"
            )
        valid_facts = _facts(valid, fit_on, "--fit_on", needed=True)
    if weights is None:
        assert valid is not None
        assert valid_facts is not None
        label = categories.class_of(valid_facts.category_id)
        if (label < 0).all():
            raise UserError("--fit_predictions hold no product of a known category: give --fit_on")
        fitted = fit_weights(file_log_probs(valid, label), rule, len(label))
        weights = _logged(fitted, paths, len(label))
    back_off = None
    if outputs.min_confidence is not None:
        assert valid is not None
        assert valid_facts is not None
        predicted = combine_files(valid, valid_facts, weights, rule, topk=topk, keep_all=True)
        back_off = calibrated_back_off(predicted, categories, outputs.min_confidence)
    about = _about(rule, weights) | {"members": [str(path) for path in paths]}
    found = combine_files(aligned, facts, weights, rule, topk=topk, keep_all=outputs.need_all)
    count, started = len(aligned.product_id), time.monotonic()
    with Progress(count, "products") as bar:

        def blocks() -> Iterator[PredictionBlock]:
            for block in found:
                yield block
                bar.update(len(block))

        levels = write_predictions(blocks(), outputs, categories, count, about, back_off)
    return Combined(weights, Written(count, 0, time.monotonic() - started, levels, []))


def _facts(aligned: AlignedMembers, spec: str | None, flag: str, *, needed: bool) -> ProductFacts:
    """The categories and numbers of images of the products, from data or from the members.

    Raises:
        UserError: these are needed and missing, or the data lack products.
    """
    ids = aligned.product_id
    if spec is None:
        facts = aligned.facts
        if facts is None and needed:
            raise UserError(
                f"{aligned.members[0].path}: a matrix holds neither the products' categories nor "
                f"their number of images: give {flag}"
            )
        zeros = np.zeros(len(ids), np.int32)
        return facts or ProductFacts(no_ids(len(ids)), zeros, zeros + 1)
    catalogue = open_catalogue(spec)
    rows = catalogue.first_records()
    found = rows_of(np.asarray(catalogue.product_id)[rows], ids)
    lost = ids[found < 0]
    if len(lost):
        raise UserError(
            f"{spec} lacks {len(lost)} of the members' products, such as {lost[0]}: give the data "
            "that they were predicted on"
        )
    at = rows[found]
    num_images = np.asarray(catalogue.num_images)[at].astype(np.int32)
    return ProductFacts(np.asarray(catalogue.category_id)[at], num_images, num_images)


def _about(rule: Rule, weights: Float64[np.ndarray, " m"]) -> dict[str, Any]:
    return {"ensemble": rule, "weights": weights.tolist(), "version": __version__}


def _logged(fitted: Fitted, names: Sequence[Path], num_products: int) -> Float64[np.ndarray, " m"]:
    """Log a table of the weights with their likelihoods, and return the weights."""
    some = "" if fitted.num_products == num_products else f" of {num_products}"
    lines = [f"weights fitted on {fitted.num_products}{some} validation products:"]
    columns = zip(names, fitted.weights, fitted.member_nll, strict=True)
    lines += [f"  {weight:.4f}  nll {nll:.4f}  {name}" for name, weight, nll in columns]
    _LOGGER.info("%s", "\n".join([*lines, f"  ensemble nll {fitted.nll:.4f}"]))
    return fitted.weights
