"""The name of a checkpoint in a study: a folder, or an id on the Hugging Face hub, which ``@`` may pin to a commit."""

from __future__ import annotations

from pathlib import Path


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """Return folder or hub id, and the revision behind its ``@``; None where none is named, and for folders."""
    name = str(name)
    if name.startswith((".", "/")) or Path(name).exists():
        return name, None
    repo, _, revision = name.partition("@")
    return repo, revision or None
