"""Every plot of the comparison, as PNG files and for the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from product_mil.compare.answers import Answers, Questions
from product_mil.compare.page import plots
from product_mil.compare.statistics.confusion import confusion_matrix, confusions
from product_mil.sources.categories import Categories, path_of

CONFUSED_CATEGORIES = 8
LISTED_CONFUSIONS = 15


def draw_all(
    questions: Questions,
    answers: Mapping[str, Answers],
    categories: Categories,
    runs: Mapping[str, Any],
    directory: Path,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write the PNG files; what the page needs of them, and the most frequent mistakes.

    `answers` holds those of the headline's two, in its order; `runs` is the part of that name of
    what `compare` returns.
    """
    a, b = answers
    found: list[dict[str, Any]] = []

    def add(section: str, file: str, title: str, alt: str, draw: Any) -> None:
        light, dark = draw(plots.LIGHT), draw(plots.DARK)
        plots.save_png(light, directory / file)
        width, height = (round(96 * side) for side in light.get_size_inches())
        found.append(
            {
                "section": section,
                "title": title,
                "alt": alt,
                "light": plots.svg_uri(light),
                "dark": plots.svg_uri(dark),
                "width": width,
                "height": height,
            }
        )

    if all(run.get("by_num_images") for run in runs.values()):
        add(
            "images",
            "accuracy_by_num_images.png",
            "right at the first guess, with 95 % intervals",
            "Accuracy by number of images; the figures are in the table beside it.",
            lambda theme: plots.accuracy_by_num_images(runs, theme),
        )
    for field, title in (
        ("confidence", "as the runs say"),
        ("calibrated_confidence", "after a temperature fitted on validation products"),
    ):
        if any(run["reliability"].get(field) for run in runs.values()):
            add(
                "reliability",
                f"reliability_{field}.png",
                title,
                f"Share of right guesses by confidence, {title}.",
                lambda theme, field=field: plots.reliability(runs, field, theme),
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
        {
            "true": path_of(categories, true),
            "guess": path_of(categories, guess),
            "a": of_a,
            "b": of_b,
        }
        for true, guess, of_a, of_b in pairs[:LISTED_CONFUSIONS]
    ]
    return found, listed
