"""A comparison with everything that is reported besides its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from product_mil.compare.statistics.results import Comparison, Control, Difference


@dataclass(frozen=True)
class GalleryNote:
    """What the page says about its gallery."""

    shown: int  # products
    total: int  # products that only one of the headline's two gets right
    fixed: int
    broke: int
    alone_by: str | None  # whose guesses stand under the images
    attention_by: str | None  # and whose attention
    remark: str


@dataclass(frozen=True)
class Report:
    """Everything that the page and `comparison.json` report."""

    comparison: Comparison
    headline: tuple[str, str]  # the two that matter most, a and b
    control: Control | None
    data: str | None
    differing_fields: Mapping[str, Mapping[str, Any]]  # of the runs' configurations
    like_for_like: bool
    notes: Sequence[str]
    warnings: Sequence[str]
    gallery: GalleryNote
    version: str
    date: str

    @property
    def difference(self) -> Difference:
        """The difference between the headline's two entries."""
        return self.comparison.difference(*self.headline)

    @property
    def temperature_hurts(self) -> bool:
        """Whether the fitted temperature makes the likelihood of every run worse."""
        return all(run.temperature_hurts for run in self.comparison.runs)
