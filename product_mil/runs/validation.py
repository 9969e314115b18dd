"""Metrics and calibration of a stage on its validation products."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from product_mil.data.faults import FaultList
from product_mil.data.loader import Loaded
from product_mil.devices.mesh import replicate
from product_mil.inference.calibrate import TEMPERATURES, temperature_between
from product_mil.inference.metrics import metrics_of, score_products
from product_mil.inference.step import Scores, make_eval_step
from product_mil.inference.trust import TRUST, collect_nll, fit_trust, make_trust_step
from product_mil.model.classifier import Arrays, Model
from product_mil.runs.data import RunData


@dataclass(frozen=True)
class Validation:
    """Validation products, and the steps that measure a model of one structure on them."""

    structure: Any
    data: RunData
    batches: Callable[[], Iterator[Loaded]]  # every validation product once
    mesh: Mesh
    faults: FaultList
    log_prior: Float[np.ndarray, " k"]
    restoring: Float[np.ndarray, " k"] | None  # `adjustment` of `make_trust_step`

    @cached_property
    def _eval_step(self) -> Callable[..., Scores]:
        return make_eval_step(self.structure, temperatures=TEMPERATURES)

    @cached_property
    def _trust_step(self) -> Callable[..., jax.Array]:
        return make_trust_step(self.structure, self.restoring)

    def calibrate(self, parameters: Arrays, statistics: Arrays) -> Arrays:
        """The statistics, with a new fit of how far to trust the correction of a `ResidualHead`."""
        if TRUST not in statistics:
            return statistics
        valid = self.data.valid
        step = Model(self.structure, parameters, statistics).bound(self._trust_step)
        nll = collect_nll(len(valid), self.batches(), step, self.mesh)
        scored = (valid.labels >= 0) & (valid.num_images > 0)
        trust = fit_trust(nll[scored], valid.num_images[scored] > 1)
        return {**statistics, TRUST: replicate(jnp.asarray(trust), self.mesh)}

    def evaluate(self, parameters: Arrays, statistics: Arrays) -> dict[str, float]:
        """The metrics by name, with the temperature that makes the labels most likely.

        Images that could not be read are added to the faults.
        """
        valid = self.data.valid
        model = Model(self.structure, parameters, statistics)
        step = model.bound(self._eval_step, self.log_prior)
        scores, unreadable = score_products(len(valid), self.batches(), step, self.mesh)
        self.faults.add(unreadable)
        values = metrics_of(scores, valid, self.data.categories)
        usable = (valid.labels >= 0) & (valid.num_images > 0)
        if usable.any() and scores.nll_at is not None:
            values["temperature"] = temperature_between(scores.nll_at[:, usable])
        if TRUST in statistics:
            one, several = np.asarray(statistics[TRUST]).tolist()
            values |= {"trust_one_image": one, "trust_several_images": several}
        return values
