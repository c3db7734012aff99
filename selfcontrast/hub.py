"""Files of data sets and checkpoints on the Hugging Face hub: the only module that fetches from the network.

Cache, endpoint, token and offline mode are the library's own environment variables (HF_HOME, HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE); none of them is written anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any

from selfcontrast.errors import InputError, StepError
from selfcontrast.inspection.files import PICKLED
from selfcontrast.inspection.folders import read_modules
from selfcontrast.pins import split_revision

WEIGHTS = (".safetensors", *PICKLED)
"""Endings of files that hold weights."""

CHECKPOINT = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.codes")
"""Files of a checkpoint that loading it may read: configuration, weights, tokenizer and templates."""

DATA_SET = "datasets.<id>.hub"
"""The key of a study that names the repository, the revision and the files of a data set."""

DUPLICATES = ("consolidated*", "model.[!s]*.safetensors", "model-?????-of-?????.*.safetensors")
"""Weights that a repository holds once more: in Mistral's or Meta's own layout, or in another type (model.fp16.safetensors).

Shards that are named model.safetensors-00001-of-00002.safetensors are the weights themselves.
"""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit.

    Attributes:
        commit: 40 hexadecimal digits, to which the revision that was asked for resolved.
        folder: where the cache has it.
        files: where each file lies in the cache, by its path in the repository, sorted.
    """

    commit: str
    folder: Path
    files: dict[str, Path]


def is_pinned(revision: str) -> bool:
    """Return whether a revision is a commit, which cannot move."""
    return _COMMIT.fullmatch(revision) is not None


def model_folder(name: str) -> Path:
    """Return the folder of a checkpoint: the one that is named, or that of a hub id in the cache, fetched if need be.

    Raises:
        InputError: it is neither, or may not be read.
        StepError: the hub cannot be reached, and the cache does not have it.
    """
    repo, revision = split_revision(name)
    return Path(repo) if Path(repo).is_dir() else fetch_checkpoint(repo, revision or "main").folder


def names_of_files(name: str) -> list[str] | None:
    """Return the paths of a checkpoint's files, a folder's or a hub id's; None where neither cache nor hub can tell them.

    The cache may hold a part: it is believed if it has weights.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub_errors

    repo, revision = split_revision(name)
    if Path(repo).is_dir():
        return _files_below(Path(repo))
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        cached = _files_below(folder)
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


def fetch(repo: str, revision: str, patterns: Sequence[str], *, key: str = DATA_SET) -> Snapshot:
    """Return the files of a data set that match one of the patterns, from the cache where it has them.

    Args:
        key: what names it in a study.

    Raises:
        InputError: there is no such repository, revision or file, or it may not be read.
        StepError: the hub cannot be reached, and the cache does not have the files.
    """
    from huggingface_hub import snapshot_download

    where = f"datasets/{repo} at {revision}"
    with _explained("data set", where, repo=f"{key}.repo", revision=f"{key}.revision"):
        folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    found = _matching(folder, patterns)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in found):
            raise InputError(
                "the repository has no such file",
                found=pattern,
                where=where,
                remedy=f"correct {key}.files, or the revision" if key == DATA_SET else f"correct {key}.revision",
            )
    return Snapshot(folder.name, folder, found)


def fetch_checkpoint(repo: str, revision: str, *, code: bool = False) -> Snapshot:
    """Return the files that loading a checkpoint needs, from the cache where it has them.

    No pickled weights are among them, and no weights in formats of other software. Of an embedding model, the folders of its
    modules are.

    Args:
        code: fetch its Python files too, and to the cache those of other repositories that its configuration names.

    Raises:
        InputError: there is no such repository or revision, or it may not be read.
        StepError: the hub cannot be reached, and the cache does not have the files.
    """
    from huggingface_hub import snapshot_download

    where = f"{repo} at {revision}"
    path = "the name of the checkpoint in the study (that of a folder begins with `.` or `/`)"
    with _explained("checkpoint", where, repo=path, revision="the revision behind `@` in its name"):
        folder = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=list(CHECKPOINT), ignore_patterns=["*/*", *DUPLICATES]
            )
        )
        more = ["additional_chat_templates/*.jinja", *(["*.py"] if code else [])]
        if (folder / "modules.json").is_file():
            modules = [place for place, _ in read_modules(folder / "modules.json") if place]
            more += [f"{escape(place)}/{pattern}" for place in modules for pattern in CHECKPOINT]
        snapshot_download(repo, revision=folder.name, allow_patterns=more)  # a branch may have moved meanwhile
        for other in _repos_of_code(folder) if code else ():
            snapshot_download(other, allow_patterns=["*.py"])  # transformers reads them there, without a network too
    own = {n: p for n, p in _matching(folder, CHECKPOINT).items() if "/" not in n}
    own = {n: p for n, p in own.items() if not any(fnmatch(n, pattern) for pattern in DUPLICATES)}
    return Snapshot(folder.name, folder, dict(sorted((own | _matching(folder, more)).items())))


def _repos_of_code(folder: Path) -> list[str]:
    """Return the other repositories whose code a checkpoint runs: `owner/name--module.Class` in its config.json."""
    try:
        own = json.loads((folder / "config.json").read_text(encoding="utf-8"))["auto_map"]
        named = [n for names in own.values() for n in ([names] if isinstance(names, str) else names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # what is wrong with it is said where it is checked
    return sorted({n.partition("--")[0] for n in named if isinstance(n, str) and "--" in n})


def check_blob(cached: Path, sha256: str) -> None:
    """Raise InputError if a file of the cache is not what the hub said it was.

    The cache names a file by its hash: SHA-256 for large ones, Git's for the others.

    Args:
        cached: path of the file itself, links followed.
        sha256: hash of its contents.
    """
    name, found = cached.name, sha256
    if _COMMIT.fullmatch(name):
        content = cached.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    elif not re.fullmatch(r"[0-9a-f]{64}", name):
        return  # a cache without links names files as the repository does
    if found != name:
        raise InputError(
            "a file in the cache of the hub is not what the hub holds: it was damaged on the way or afterwards",
            expected=f"the hash {name}",
            found=found,
            where=str(cached),
            remedy="delete it and run snakemake again",
        )


@contextmanager
def _explained(what: str, where: str, *, repo: str, revision: str) -> Iterator[None]:
    """Turn the errors of the hub's client into messages.

    Args:
        what: kind of repository.
        where: its name and revision.
        repo: what names it in a study.
        revision: what names its revision there.
    """
    from huggingface_hub import errors as hub_errors

    try:
        yield
    except hub_errors.RevisionNotFoundError:
        raise InputError(
            f"the hub has no such revision of the {what}",
            where=where,
            remedy=f"take a commit, branch or tag of its page (Files and versions, History) for {revision}",
        ) from None
    except hub_errors.GatedRepoError:
        raise InputError(
            f"the {what} is gated: the hub gives it only to accounts that have accepted its terms",
            where=where,
            remedy="accept them on its page, and set the environment variable HF_TOKEN to a token of that account",
        ) from None
    except hub_errors.RepositoryNotFoundError:
        raise InputError(
            f"the hub knows no such {what}, or does not show it without a token",
            where=where,
            remedy=f"correct {repo}; for a private one set the environment variable HF_TOKEN",
        ) from None
    except (hub_errors.LocalEntryNotFoundError, hub_errors.IncompleteSnapshotError) as error:
        raise StepError(
            "the hub cannot be reached, and the cache does not have the files",
            found=_first_line(error),
            where=where,
            remedy="run `snakemake --until fetch` where there is a network and HF_HUB_OFFLINE is not set, with the same "
            "HF_HOME; or give a local path in the study",
        ) from None
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError) as error:
        raise InputError(
            "the hub refused the request",
            found=_first_line(error),
            where=where,
            remedy=f"check {repo}, and HF_TOKEN and HF_ENDPOINT in the environment",
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


def _matching(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """Return the files of a snapshot that match: its folder may hold others, fetched earlier."""
    names = _files_below(folder)
    return {name: folder / name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}


def _files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
