"""Models on the Hugging Face hub: `hf://owner/name`, or `hf://owner/name@revision`.

A plain path never goes to the network. `huggingface_hub` is an extra, imported where it is needed;
where the hub is, who is logged in, and whether there is a network at all is its own business
(`HF_ENDPOINT`, `hf auth login`, `HF_HUB_OFFLINE`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from product_mil.errors import UserError
from product_mil.version import __version__

_HUB_ID = re.compile(r"hf:/+(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>.+))?")
_BARE_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_on_hub(place: Path) -> bool:
    """Whether a path is the name of a model on the hub; `Path` makes one slash of its two."""
    return str(place).startswith("hf:/") and not place.exists()


def hint(place: Path) -> str:
    """What to add to a message on a missing path that could be the name of a model on the hub."""
    text = str(place)
    return f", or hf://{text} if you mean a model on the hub" if _BARE_ID.fullmatch(text) else ""


def local_directory(place: Path, files: Sequence[str]) -> Path:
    """The directory that these files of a model of the hub were downloaded to; another path as is.

    The download goes to the cache of `huggingface_hub`, and is made once for each revision.

    Raises:
        UserError: the name has another form, `huggingface_hub` is not installed, or there is no
            such model, no network, or no permission.
    """
    if not is_on_hub(place):
        return place
    found = _HUB_ID.fullmatch(str(place))
    if found is None:
        raise UserError(f"{place}: write hf://owner/name, or hf://owner/name@revision")
    hub, name = _hub(), found["repo"]
    with _errors(f"hf://{name}"):
        return Path(
            hub.snapshot_download(
                name,
                revision=found["revision"],
                allow_patterns=list(files),
                library_name="product_mil",
                library_version=__version__,
            )
        )


def upload(directory: Path, name: str, *, private: bool, message: str) -> str:
    """Upload the files of a directory to the model `owner/name`, and return its address.

    The model is made if there is none; `private` counts then. Other files of it stay.

    Raises:
        UserError: the name has another form, `huggingface_hub` is not installed, or the hub
            refuses.
    """
    if not _BARE_ID.fullmatch(name):
        raise UserError(f"{name}: name a model of the hub as owner/name")
    api = _hub().HfApi(library_name="product_mil", library_version=__version__)
    with _errors(f"hf://{name}"):
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=directory, commit_message=message)
    return str(address)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            "models on the hub need huggingface_hub: pip install 'product_mil[hub]'"
        ) from None
    return huggingface_hub


@contextmanager
def _errors(place: str) -> Iterator[None]:
    """Turn the errors of `huggingface_hub`, and of whatever it calls, into one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{place}: its owner must grant access; ask on its page, then hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{place}: no such model, or a private one; correct the name, or hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{place}: no such revision; name a branch, a tag or a commit") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{place}: the hub cannot be reached, and the model was not downloaded before; try "
            "again with a network, or name a directory"
        ) from None
    except Exception as error:  # its HTTP library is its own choice
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise UserError(f"{place}: {reason}; try again") from error
