"""Every plot of the comparison, as PNG files and for the page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from product_mil.compare.answers import Answers, Questions
from product_mil.compare.page import plots
from product_mil.compare.statistics.confusion import confusion_matrix, confusions
from product_mil.compare.statistics.results import Scores
from product_mil.sources.categories import Categories, path_of

CONFUSED_CATEGORIES = 8
LISTED_CONFUSIONS = 15


@dataclass(frozen=True)
class Plot:
    """A plot for the page."""

    section: str
    title: str
    alt: str
    light: str  # data URI, for a light page
    dark: str
    width: int  # in pixels
    height: int


@dataclass(frozen=True)
class Confusion:
    """A mistake, and how many products each of the headline's two entries gets wrong this way."""

    true: list[str]  # from level 1 down
    guess: list[str]
    a: int
    b: int


def draw_all(
    questions: Questions,
    answers: Mapping[str, Answers],
    categories: Categories,
    entries: Sequence[Scores],
    directory: Path,
) -> tuple[list[Plot], list[Confusion]]:
    """Write the PNG files to `directory`. Returns the plots for the page, and frequent mistakes.

    `answers` holds those of the headline's two entries, in its order. `entries` are the ones in the
    plots of accuracy and reliability.
    """
    a, b = answers
    found: list[Plot] = []

    def add(
        section: str, file: str, title: str, alt: str, draw: Callable[[plots.Theme], Figure]
    ) -> None:
        light, dark = draw(plots.LIGHT), draw(plots.DARK)
        plots.save_png(light, directory / file)
        width, height = (round(96 * side) for side in light.get_size_inches())
        uris = plots.svg_uri(light), plots.svg_uri(dark)
        found.append(Plot(section, title, alt, *uris, width, height))

    if all(scores.groups.get("by_num_images") for scores in entries):
        add(
            "images",
            "accuracy_by_num_images.png",
            "right at the first guess, with 95 % intervals",
            "Accuracy by number of images; the figures are in the table beside it.",
            lambda theme: plots.accuracy_by_num_images(entries, theme),
        )
    for field, title in (
        ("confidence", "as the runs say"),
        ("calibrated_confidence", "after a temperature fitted on validation products"),
    ):
        if any(scores.reliability.get(field) for scores in entries):
            add(
                "reliability",
                f"reliability_{field}.png",
                title,
                f"Share of right guesses by confidence, {title}.",
                lambda theme, field=field: plots.reliability(entries, field, theme),
            )
    pairs = confusions(questions, (answers[a], answers[b]))
    confused = list(dict.fromkeys(c for pair in pairs for c in pair[:2]))[:CONFUSED_CATEGORIES]
    if confused:
        names = [path_of(categories, category)[-1] for category in confused]
        for name in (a, b):
            matrix = confusion_matrix(questions, answers[name], confused)
            add(
                "confusion",
                f"confusion_{'ab'[name == b]}.png",
                f"{name}: products by true category and first guess",
                f"Confusion of {name}; the table below lists the most frequent mistakes.",
                lambda theme, matrix=matrix: plots.confusion(matrix, names, theme),
            )
    listed = [
        Confusion(path_of(categories, true), path_of(categories, guess), of_a, of_b)
        for true, guess, of_a, of_b in pairs[:LISTED_CONFUSIONS]
    ]
    return found, listed
