"""Files of data sets and reward models on the Hugging Face hub: the only module that fetches from the network.

Cache, endpoint, token and offline mode are the library's own environment variables (HF_HOME, HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE); none of them is written anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from selfcontrast.errors import InputError, StepError
from selfcontrast.pins import split_revision

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
WEIGHTS = (".safetensors", *PICKLED)
"""Endings of files that hold weights."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit.

    Attributes:
        commit: 40 hexadecimal digits, to which the revision that was asked for resolved.
        files: where each file lies in the cache, by its path in the repository, sorted.
    """

    commit: str
    files: dict[str, Path]


def is_pinned(revision: str) -> bool:
    """Return whether a revision is a commit, which cannot move."""
    return _COMMIT.fullmatch(revision) is not None


def model_folder(name: str) -> Path:
    """Return the folder of a checkpoint: the one that is named, or that of a hub id in the cache, fetched if need be.

    Raises:
        InputError: it is neither, or may not be read.
    """
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import snapshot_download

    repo, revision = split_revision(name)
    if Path(repo).is_dir():
        return Path(repo)
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (
        hub_errors.HfHubHTTPError,
        hub_errors.HFValidationError,
        hub_errors.LocalEntryNotFoundError,
        OSError,
    ) as error:
        raise InputError(
            "a checkpoint is neither a folder nor to be had from the hub",
            found=_first_line(error),
            where=name,
            remedy="correct its name; without a network, fetch it before: `hf download "
            + repo
            + (f" --revision {revision}`" if revision else "`"),
        ) from None


def names_of_files(name: str) -> list[str] | None:
    """Return the files of a checkpoint, a folder or a hub id; None where neither the cache nor the hub can tell them all.

    The cache may hold a part: it is believed if it has weights.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub_errors

    repo, revision = split_revision(name)
    if Path(repo).is_dir():
        return sorted(p.name for p in Path(repo).iterdir())
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        cached = sorted(p.name for p in folder.iterdir())
        if any(file.endswith(WEIGHTS) for file in cached):
            return cached
    except (hub_errors.LocalEntryNotFoundError, hub_errors.HFValidationError, OSError):
        pass
    try:
        return sorted(HfApi().list_repo_files(repo, revision=revision))
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, hub_errors.HTTPError, OSError):  # type: ignore[attr-defined]
        return None


def config_of(name: str) -> dict[str, Any] | None:
    """Return the config.json of a checkpoint, a folder or a hub id; None where neither folder nor cache has one.

    Raises:
        InputError: it is no JSON object.
    """
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import try_to_load_from_cache

    repo, revision = split_revision(name)
    try:
        found = str(Path(repo, "config.json"))
        if not Path(repo).is_dir():
            found = str(try_to_load_from_cache(repo, "config.json", revision=revision))
    except hub_errors.HFValidationError:
        return None
    path = Path(found)
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            "the config.json of a checkpoint is not valid JSON",
            found=str(error),
            where=str(path),
            remedy="fetch the checkpoint again",
        ) from None
    return config if isinstance(config, dict) else None


def fetch(repo: str, revision: str, patterns: Sequence[str]) -> Snapshot:
    """Return the files of a data set that match one of the patterns, from the cache where it has them.

    Raises:
        InputError: there is no such repository, revision or file, or it may not be read.
        StepError: the hub cannot be reached, and the cache does not have the files.
    """
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import snapshot_download

    where = f"datasets/{repo} at {revision}"
    try:
        folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    except hub_errors.RevisionNotFoundError:
        raise InputError(
            "the hub has no such revision of the data set",
            where=where,
            remedy="take a commit, branch or tag of its page (Files and versions, History) for datasets.<id>.hub.revision",
        ) from None
    except hub_errors.GatedRepoError:
        raise InputError(
            "the data set is gated: the hub gives it only to accounts that have accepted its terms",
            where=where,
            remedy="accept them on its page, and set the environment variable HF_TOKEN to a token of that account",
        ) from None
    except hub_errors.RepositoryNotFoundError:
        raise InputError(
            "the hub knows no such data set, or does not show it without a token",
            where=where,
            remedy="correct datasets.<id>.hub.repo; for a private one set the environment variable HF_TOKEN",
        ) from None
    except (hub_errors.LocalEntryNotFoundError, hub_errors.IncompleteSnapshotError) as error:
        raise StepError(
            "the hub cannot be reached, and the cache does not have the files",
            found=_first_line(error),
            where=where,
            remedy="run `snakemake --until fetch` where there is a network and HF_HUB_OFFLINE is not set, with the same "
            "HF_HOME; or give `path` instead of `hub`",
        ) from None
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError) as error:
        raise InputError(
            "the hub refused the request",
            found=_first_line(error),
            where=where,
            remedy="check datasets.<id>.hub, and HF_TOKEN and HF_ENDPOINT in the environment",
        ) from None
    except (hub_errors.HTTPError, hub_errors.XetDownloadError, OSError) as error:  # type: ignore[attr-defined]
        if getattr(error, "errno", None) is not None:  # of this machine: a full disk, a cache that cannot be written
            raise
        raise StepError(
            "the download broke off",
            found=_first_line(error) or type(error).__name__,
            where=where,
            remedy="run snakemake again: it goes on from what has arrived",
        ) from None
    return Snapshot(folder.name, _matching(folder, patterns, where))


def _matching(folder: Path, patterns: Sequence[str], where: str) -> dict[str, Path]:
    """Return the files of a snapshot that match: its folder may hold others, fetched earlier."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise InputError(
                "the repository has no such file",
                found=pattern,
                where=where,
                remedy="correct datasets.<id>.hub.files, or the revision",
            )
    return {name: folder / name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
