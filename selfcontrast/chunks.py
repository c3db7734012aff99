"""What an interrupted step need not make again: finished chunks of its work, until its outputs are written."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from selfcontrast import artifacts
from selfcontrast.errors import InputError

log = logging.getLogger(__name__)

_TABLE = "chunk.parquet"

RENDERING = ("chat_heads", "chat_tokenizers", "escaping", "rendering", "token_rows", "turn_ends")
"""Modules for ``software`` where a step makes token ids of texts by itself."""


def software(modules: Iterable[str], packages: Iterable[str]) -> dict[str, str]:
    """Return what a chunk's numbers may change with, without importing it: hashes of our modules, versions of packages.

    Args:
        modules: paths below this package, without ``.py``.
        packages: names of distributions; those that are not installed are left out.
    """
    here = Path(__file__).parent
    found = {module: artifacts.sha256(here / f"{module}.py") for module in modules}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@dataclass(frozen=True)
class Chunks:
    """Tables in a folder that no rule declares, since Snakemake deletes the declared outputs of a job that failed.

    Attributes:
        folder: beside the outputs of the step.
        key: stands for everything that a chunk's content follows from.
    """

    folder: Path
    key: str

    @classmethod
    def open(cls, folder: Path, **identity: object) -> Chunks:
        """Return the chunks of this very work; those of any other in the same folder are dropped.

        Args:
            identity: what a chunk's content follows from, as values of JSON: settings, hashes of inputs, software.
        """
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        for other in sorted(folder.glob("*")):
            if other.name != key:
                log.warning("chunks of other settings, inputs or software are dropped: %s", other)
                shutil.rmtree(other)
        return cls(folder, key)

    def find(self, name: str) -> dict[str, list[Any]] | None:
        """Return the columns of a stored chunk; None if there is none, or if it is damaged."""
        place = self.folder / self.key / name
        if not place.exists():
            return None
        try:
            return artifacts.Artifact.open(place / artifacts.MANIFEST).table(_TABLE)
        except InputError as error:
            log.warning("%s is damaged and made again: %s", name, str(error).split("\n")[0])
            return None

    def store(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store a chunk: as a whole or, after a kill, not at all."""
        with artifacts.atomic(self.folder / self.key / name) as partial:
            artifacts.write_table(partial / _TABLE, columns)
            artifacts.write_json(
                partial / artifacts.MANIFEST, {"outputs": {_TABLE: artifacts.sha256(partial / _TABLE)}}
            )

    def remove(self) -> None:
        """Remove all chunks, once the outputs that they became part of are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
