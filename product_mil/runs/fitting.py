"""Products to fit weights or temperatures on after training, and warnings if runs know them."""

import logging
from collections.abc import Sequence
from typing import Any

from product_mil.config import Config
from product_mil.data.products import Products
from product_mil.errors import UserError
from product_mil.runs.known_products import knows_an_id
from product_mil.runs.trained import TrainedRun


def validation_products(runs: Sequence[TrainedRun], spec: str | None) -> Products:
    """The labelled products with images of `spec`, or the runs' own validation products.

    Raises:
        UserError: the runs have no validation products in common, or these are no longer available.
    """
    if spec:
        products = runs[0].products(spec)
    else:
        if len({run.record["data_fingerprint"] for run in runs}) > 1 or any(
            _split(run.config) != _split(runs[0].config) for run in runs
        ):
            raise UserError(
                "the runs were validated on different products, and one may have been trained on "
                "what another was validated on: give --fit_on labelled.bson that none has seen"
            )
        data, missing = runs[0].data()
        if data is None:
            raise UserError(
                f"the validation products of {runs[0].workdir} are gone ({missing}): give --fit_on "
                "labelled.bson"
            )
        products = data.valid
    usable = (products.labels >= 0) & (products.num_images > 0)
    if not usable.any():
        raise UserError(f"{spec}: no product with an image and a category of the runs")
    return products.subset(usable)


def log_known(runs: Sequence[TrainedRun], fitted: Products | None, predicted: Products) -> None:
    """Log how many of the fitted and of the predicted products the runs have seen in training."""
    logger = logging.getLogger(__name__)
    for run in runs:
        known = None if fitted is None else run.known(fitted)
        if known is not None and known.trained:
            logger.info(
                "note: %s, so it will seem surer than it is: give --fit_on products that it has "
                "not seen",
                known.seen(str(run.workdir), "used for fitting"),
            )
        known = run.known(predicted)
        if known is not None and not known.is_test:
            logger.info(
                "note: %s, so it is right more often here than on new products",
                known.seen(str(run.workdir), "to be predicted"),
            )


def log_known_ids(runs: Sequence[TrainedRun], predicted: Products) -> None:
    """Do as `log_known` for the predicted products of runs that know one of their ids.

    The training data of other runs are not read, so a prediction of new products does not wait.
    """
    knowing = [run for run in runs if knows_an_id(run.workdir, predicted)]
    log_known(knowing, None, predicted)


def _split(config: Config) -> tuple[Any, ...]:
    """The settings that decide which products are used for validation."""
    data = config.data
    drawn = (data.valid_fraction, data.max_products, config.seed)
    fixed = (data.valid, data.drop_images_md5)
    return fixed if data.valid and not data.max_products else fixed + drawn
