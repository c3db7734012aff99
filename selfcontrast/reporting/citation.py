"""CITATION.cff as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from selfcontrast.errors import InputError


def read_citation(text: str, *, where: str) -> dict[str, Any]:
    """Return a citation file.

    Raises:
        InputError: it is not YAML, or has no title.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError("the citation file is not valid YAML", found=str(error), where=where) from None
    if not isinstance(found, dict) or "title" not in found:
        raise InputError(
            "the citation file has no title", where=where, remedy="see https://citation-file-format.github.io"
        )
    return found


def bibtex(citation: Mapping[str, Any]) -> str:
    """Return the software and its references as BibTeX entries."""
    return "\n\n".join(_entry(c) for c in (citation, *citation.get("references", ())))


def _entry(c: Mapping[str, Any]) -> str:
    kind = "article" if c.get("type") == "article" else "software"
    fields = {
        "title": f"{{{c['title']}}}",
        "author": " and ".join(_names(c)),
        "year": c.get("year", str(c.get("date-released", ""))[:4]),
        "version": c.get("version", ""),
        "url": c.get("url", ""),
        "note": "; ".join(i["value"] for i in c.get("identifiers", ()) if "value" in i),
    }
    words = re.findall(r"[A-Za-z]+", " ".join(_names(c))[:40])[:1] + re.findall(r"[A-Za-z]+", c["title"])[:2]
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{'-'.join(words).lower()},", *lines, "}"])


def _names(c: Mapping[str, Any]) -> Iterator[str]:
    for author in c.get("authors", ()):
        yield (
            f"{{{author['name']}}}"
            if "name" in author
            else f"{author['family-names']}, {author.get('given-names', '')}".rstrip(", ")
        )
