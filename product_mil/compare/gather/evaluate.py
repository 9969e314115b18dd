"""The metrics of a prediction file on labelled products, as far as the file allows."""

from pathlib import Path

import numpy as np

from product_mil.compare.answers import questions_of, take
from product_mil.compare.gather.files import read_answers
from product_mil.data.products import Products
from product_mil.errors import UserError
from product_mil.inference.metrics import ProductScores, metrics_of, tree_metrics
from product_mil.runs.evaluate import Evaluation
from product_mil.runs.known_products import known_to_file
from product_mil.sources.categories import categories_from_ids
from product_mil.sources.ids import alike, joined
from product_mil.sources.lookup import rows_of
from product_mil.sources.opening import open_catalogue


def evaluate_file(path: Path, spec: str) -> Evaluation:
    """The metrics of a prediction file, as `runs.evaluate` computes them for a run.

    Metrics that need more than the file holds are left out.

    Raises:
        UserError: a file cannot be read, or the two have no labelled product in common.
    """
    catalogue = open_catalogue(spec)
    rows = catalogue.first_records()
    truth = questions_of(catalogue, rows)
    ids, category = truth.product_id, truth.category_id
    file = read_answers(path, truth)
    place = rows_of(file.product_id, ids)
    there = place >= 0
    # A submission has no tree, so every category id becomes a class.
    known = joined([category, file.answers.guess])
    categories = file.categories or categories_from_ids(known)
    labels = np.where(there, categories.class_of(category), -1).astype(np.int32)
    if (labels < 0).all():
        raise UserError(
            f"{path} and {spec} have no product of a known category in common: give the labelled "
            "products that were predicted"
        )
    remarks = [f"{path}: no {file.left_out}"]
    if not there.all():
        remarks.append(f"{int((~there).sum())} products are not in {path}: not scored")
    unknown = int((labels[there] < 0).sum())
    if unknown:
        remarks.append(f"{unknown} products of unknown category: not scored")
    guesses, labelled = alike(file.answers.guess[place[there]], category)
    if not np.isin(guesses, labelled).any():
        remarks.append(f"no category of {path} is one of {spec}: check that their ids are the same")
    answers, count = take(file.answers, place), len(rows)
    top1 = categories.class_of(answers.guess)
    lacking = {
        "top5": answers.in_top5 is None,
        "calibration_error": answers.confidence is None,
        "nll": answers.log_prob_true is None,
        **dict.fromkeys(tree_metrics(categories), file.categories is None),
    }
    zeros = np.zeros(count, np.float32)
    scores = ProductScores(
        top1=top1,
        in_top5=zeros.astype(bool) if answers.in_top5 is None else answers.in_top5,
        confidence=zeros if answers.confidence is None else answers.confidence,
        log_prob_true=zeros if answers.log_prob_true is None else answers.log_prob_true,
    )
    products = Products(catalogue, rows, labels, max(int(catalogue.num_images[rows].max()), 1))
    metrics = metrics_of(scores, products, categories)
    known_metrics = {name: v for name, v in metrics.items() if not lacking.get(name)}
    return Evaluation(known_metrics, remarks, known_to_file(file.run, ids[there]))
