"""The folder of one export: written whole or not at all, with a manifest of hashes, never over something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfcontrast import __version__, artifacts
from selfcontrast.errors import InputError


@dataclass
class Export:
    """What one export is made of; ``fill`` functions complete it.

    Attributes:
        about: what it is: kind of export, study, data set, model, arm, seed.
        inputs: hashes of the manifests it was made from, by name.
        counts: what was written and what was left out, for the user and the manifest.
        more: further keys of the manifest.
    """

    about: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def note(self, artifact: artifacts.Artifact, root: Path) -> artifacts.Artifact:
        """Note a step as an input, under its path below ``root``, and return it."""
        self.inputs[artifact.manifest_path.relative_to(root).as_posix()] = artifact.digest
        return artifact

    def summary(self) -> str:
        """Return the counts in one line."""
        return ", ".join(f"{n:,} {what}" for what, n in self.counts.items())


def write_export(out: Path, export: Export, fill: Callable[[Path], None]) -> None:
    """Write an export to a folder: what ``fill`` puts there, and the manifest.

    Raises:
        InputError: the folder holds something that is no earlier export of the same.
    """
    check_free(out, export.about)
    with artifacts.atomic(out) as partial:
        partial.mkdir()
        fill(partial)
        hashes = {p.relative_to(partial).as_posix(): artifacts.sha256(p) for p in artifacts.files_of(partial)}
        manifest = {
            "export": export.about,
            "selfcontrast": __version__,
            "inputs": export.inputs,
            "outputs": hashes,
            "counts": export.counts,
            **export.more,
        }
        artifacts.write_json(partial / artifacts.MANIFEST, manifest)


def check_free(out: Path, about: dict[str, Any]) -> None:
    """Raise InputError if a path is taken by anything but an earlier export of the same."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = out / artifacts.MANIFEST
    found = artifacts.read_json(manifest) if manifest.is_file() else None
    if not isinstance(found, dict) or found.get("export") != about:
        raise InputError(
            "the folder is not empty, and holds no earlier export of the same",
            expected="a folder that is not there, is empty, or was written by this command for the same arm",
            where=out.as_posix(),
            remedy="name another --out, or remove it",
        )
