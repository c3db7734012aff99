"""The name of a checkpoint in a study: a folder, or an id on the Hugging Face hub, which ``@`` may pin to a commit."""

from __future__ import annotations

from pathlib import Path


def is_folder(name: str | Path) -> bool:
    """Return whether a checkpoint is named by a folder: one that is there, or a path that begins with ``.`` or ``/``."""
    return str(name).startswith((".", "/")) or Path(name).exists()


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """Return folder or hub id, and the revision behind its ``@``; None where none is named, and for folders."""
    name = str(name)
    if is_folder(name):
        return name, None
    repo, _, revision = name.partition("@")
    return repo, revision or None
