"""Upload of one export to the Hugging Face hub: only when asked for, private unless said otherwise, checked before writing.

The token is the environment variable HF_TOKEN and nothing else; it is written nowhere. HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from selfcontrast.errors import InputError, StepError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_T = TypeVar("_T")

Kind = Literal["model", "dataset"]


def check_push(repo: str, kind: Kind, *, public: bool) -> None:
    """Raise unless an upload to ``repo`` can go well; nothing is written.

    Raises:
        InputError: no token, no name of a repository, no right to write there, or a repository that has files or may be
            seen by more people than asked for.
        StepError: the hub cannot be reached.
    """
    _check_name(repo)
    api = _api()
    user = _asked(api.whoami, repo)
    names = [user.get("name"), *(o.get("name") for o in user.get("orgs", []))]
    owner = repo.partition("/")[0]
    if owner not in names:
        raise InputError(
            "the token may not write there",
            expected=f"an owner among {', '.join(str(n) for n in names)}",
            found=owner,
            remedy="take the token of another account for HF_TOKEN, or another --push",
        )
    if (user.get("auth", {}).get("accessToken") or {}).get("role") == "read":
        raise InputError("the token of HF_TOKEN may only read", remedy="make one that may write")
    if not _asked(lambda: api.repo_exists(repo, repo_type=kind), repo):
        return
    info = _asked(lambda: api.repo_info(repo, repo_type=kind), repo)
    files = sorted(s.rfilename for s in info.siblings or [] if s.rfilename != ".gitattributes")
    if files:
        raise InputError(
            "the repository is not empty, and nothing of it is overwritten",
            found=f"{len(files)} files, among them {files[0]}",
            where=repo,
            remedy="name a new repository",
        )
    if not info.private and not public:
        raise InputError(
            "the repository is public", where=repo, remedy="add --public if all the world may see it, or name another"
        )


def push(folder: Path, repo: str, kind: Kind, *, public: bool) -> str:
    """Upload a folder in one commit and return its address; ``check_push`` has been called before."""
    api = _api()
    _asked(lambda: api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True), repo)
    done: Any = _asked(
        lambda: api.upload_folder(
            repo_id=repo, repo_type=kind, folder_path=folder, commit_message="Export of Self-Contrast Bench"
        ),
        repo,
    )
    return str(done.commit_url)


def _check_name(repo: str) -> None:
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise InputError("this is no name of a repository", expected="owner/name", found=repo, where="--push")
    if not os.environ.get("HF_TOKEN"):
        raise InputError(
            "an upload needs the environment variable HF_TOKEN",
            expected="a token of the hub that may write",
            remedy="export HF_TOKEN=...; tokens in files are not read",
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError("HF_HUB_OFFLINE forbids an upload", remedy="unset it, or leave --push out")


def _api() -> Any:
    from huggingface_hub import HfApi

    # Token and endpoint as they are now: the library reads them once, when it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ["HF_TOKEN"])


def _asked(call: Callable[[], _T], repo: str) -> _T:
    """Return what the hub says, its errors as those of the user; a token never stands in them."""
    from huggingface_hub import errors as hub_errors

    try:
        return call()
    except hub_errors.HfHubHTTPError as error:
        raise InputError(
            "the hub refused the request",
            found=str(error).strip().partition("\n")[0].replace(os.environ["HF_TOKEN"], "<token>"),
            where=repo,
            remedy="check HF_TOKEN, its right to write, and the name",
        ) from None
    except (hub_errors.HTTPError, ConnectionError, TimeoutError) as error:  # type: ignore[attr-defined]
        raise StepError(
            "the hub cannot be reached",
            found=type(error).__name__,
            where=os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            remedy="try again later; the export itself stays where it is",
        ) from None
