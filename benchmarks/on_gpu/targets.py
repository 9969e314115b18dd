"""The targets of a GPU of the H200 class with 16 cores, beside what gpu.py found."""

from typing import Any

CDISCOUNT_TEST_IMAGES = 3_095_080
STEP_IMAGES_PER_S = 17_300.0  # an epoch of 12.4 M images in 12 minutes
OURS = ("forward", "training step")
Results = dict[str, list[dict[str, Any]]]


def targets(results: Results) -> list[dict[str, Any]]:
    """A row for each target; `found` and `met` are missing where nothing was measured."""
    rows: list[dict[str, Any]] = []

    def add(what: str, target: float, found: float | None) -> None:
        row: dict[str, Any] = {"what": what, "target": target}
        if found is not None:
            row |= {"found": found, "met": "yes" if found >= target else "no"}
        rows.append(row)

    for part in ("checks", "runs", "end to end"):
        limited = [row["met"] == "yes" for row in results.get(part, ()) if "met" in row]
        if limited:
            add(f"{part}: within their limits", len(limited), sum(limited))
    nets = [row for row in results.get("nets", ()) if row["what"] in OURS]
    for row in nets:
        name = f"{row['backbone']}, {row['what']}"
        add(f"{name}: of its roofline", 0.6, row["of_roofline"])
        rival = _best(results.get("rivals", ()), row["backbone"], row["what"])
        if rival is not None:
            add(f"{name}: times PyTorch's", 1.0, row["images_per_s"] / rival)
    add("Inception V3 step, images/s", STEP_IMAGES_PER_S, _best(nets, "inception_v3", OURS[1]))
    loading = {row["what"]: row.get("images_per_s") for row in results.get("loader", ())}
    ours, decoding = loading.get("ours"), loading.get("simplejpeg alone (floor)")
    add("loader: of the cores' decode rate", 0.8, _ratio(ours, decoding))
    decoded = [row.get("images_per_s", 0.0) for row in results.get("gpu decode", ())]
    # No target of its own: above 1, decoding on the GPU would be worth an option.
    add("decoding on the GPU: times the loader", 1.0, _ratio(max(decoded, default=None), ours))
    ends = {row["what"]: row.get("images_per_s") for row in results.get("end to end", ())}
    predicted, forward = ends.get("prediction"), _best(nets, "inception_v3", OURS[0])
    slower = min(ours, forward) if ours and forward else None
    add("prediction: of the slower of loader and forward", 0.85, _ratio(predicted, slower))
    add("prediction, images/s: the test set in 2 minutes", CDISCOUNT_TEST_IMAGES / 120, predicted)
    return rows


def _best(rows: Any, backbone: str, what: str) -> float | None:
    """The highest rate of this net and this work."""
    found = [
        row["images_per_s"]
        for row in rows
        if row.get("backbone") == backbone
        and row["what"].startswith(what)
        and "images_per_s" in row
    ]
    return max(found, default=None)


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None
