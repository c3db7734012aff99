"""Where the records of a data set lie: on the hub, or files in a fixed order with one hash for their contents."""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfcontrast import artifacts
from selfcontrast.errors import InputError


@dataclass(frozen=True)
class HubSource:
    """Where the data set that an adaptor reads lies on the Hugging Face hub.

    Attributes:
        repo: ``owner/name``.
        subsets: paths or patterns in the repository, by the name of each part.
        default: the parts that are taken where a study names none.
    """

    repo: str
    subsets: Mapping[str, Sequence[str]]
    default: tuple[str, ...]


ENDINGS = (".parquet", ".jsonl", ".jsonl.gz")
"""Names that a file of records has in a folder; a file that is named itself may have any name."""


def record_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files of records under some paths, sorted, so that the order in which they are given plays no part.

    A folder stands for the files below it whose names end as in ``ENDINGS``; hidden ones are passed over.

    Raises:
        InputError: a path is missing, a folder has no such file, or a file is there twice.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += _files_below(path)
        elif path.is_file():
            files.append(path)
        else:
            raise InputError("a data file is missing", where=str(path), remedy="check the path in the study file")
    files.sort(key=_normal)
    for one, other in zip(files, files[1:], strict=False):
        if _normal(one) == _normal(other):
            raise InputError("a data file is named twice", where=str(one), remedy="name it once")
    return files


def _files_below(folder: Path) -> list[Path]:
    names = [p for p in folder.rglob("*") if p.name.endswith(ENDINGS) and p.is_file()]
    found = [p for p in names if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not found:
        raise InputError(
            "a folder has no file of records",
            expected=f"names that end with {', '.join(ENDINGS)}",
            where=str(folder),
            remedy="check the path in the study file, or list the files there",
        )
    return found


AHEAD_S = 5.0
"""Seconds by which the clock of a file server may be ahead of ours without a message."""


def check_times(paths: Iterable[str | Path]) -> None:
    """Raise InputError if a file is dated in the future.

    Snakemake would fail every job that reads it, at every run, since the job's outputs are older than the file.
    """
    latest = time.time() + AHEAD_S
    late = [str(p) for p in paths if (path := Path(p)).exists() and path.stat().st_mtime > latest]
    if late:
        raise InputError(
            "a file is dated in the future" if len(late) == 1 else f"{len(late)} files are dated in the future",
            expected="a time before now, which the outputs of a job can be compared with",
            where=", ".join(late[:3]) + (", ..." if len(late) > 3 else ""),
            remedy="if this machine's clock is right (see `date`), give each the time of now: "
            f"touch {' '.join(map(shlex.quote, late[:3]))}",
        )


def task_files(folder: Path) -> list[Path]:
    """Return the files of a folder of task definitions, sorted: not hidden ones, nor what Python leaves there."""
    found = [p for p in folder.rglob("*") if p.is_file()]
    return sorted(p for p in found if not any(_is_left_over(part) for part in p.relative_to(folder).parts))


def _is_left_over(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"


def _normal(path: Path) -> str:
    return os.path.normpath(path.absolute())


def names_of(files: Sequence[Path]) -> list[str]:
    """Return how files are called in messages and manifests: by their path below the folder that they share."""
    if len(files) == 1:
        return [files[0].name]
    shared = os.path.commonpath([_normal(f.parent) for f in files])
    return [Path(os.path.relpath(_normal(f), shared)).as_posix() for f in files]


def content_hash(file_hashes: Sequence[str]) -> str:
    """Return one SHA-256 for the contents of files in their order; of a single file, its own.

    Of several it is the hash of their hashes, one a line: neither names nor folders count. In a shell:
    ``sha256sum A B | cut -d' ' -f1 | sha256sum``.
    """
    if len(file_hashes) == 1:
        return file_hashes[0]
    return hashlib.sha256("".join(f"{h}\n" for h in file_hashes).encode()).hexdigest()


def check_content(found: str, expected: str | None, *, where: str) -> None:
    """Raise InputError if the contents are not those that the study pins; ``expected`` None pins nothing."""
    if expected is not None and found != expected:
        raise InputError(
            "the records are not those that the study pins",
            expected=f"SHA-256 {expected}",
            found=f"SHA-256 {found}",
            where=where,
            remedy="get the files that were pinned; or, if the new ones are meant, set datasets.<id>.sha256 to their hash",
        )


def hashes_of(files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name."""
    return {name: artifacts.sha256(file) for name, file in zip(names_of(files), files, strict=True)}
