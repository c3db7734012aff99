"""Parts of dataset and model cards: front matter, escaped text, tables, licences, where the data are from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcontrast import plugins
from selfcontrast.exporting.targets import Target
from selfcontrast.pins import split_revision

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&#@]|:(?=//)|(?<=www)\.)")
"""Characters with a meaning within a line; addresses become no links."""

_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LICENCES = {"mit": "mit", "apache-2.0": "apache-2.0", "cc-by-4.0": "cc-by-4.0", "cc-by-nc-4.0": "cc-by-nc-4.0"}
PROJECT = "Self-Contrast Bench"


def escape_markdown(text: object) -> str:
    """Return text in one line in which no character has a meaning to Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", _BLANK.sub(" ", str(text)).strip()).replace("\\<", "&lt;").replace("\\>", "&gt;")


def code(text: object) -> str:
    """Return text as code within a line, whatever backticks it has."""
    line = _BLANK.sub(" ", str(text)).strip()
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def block(text: str, language: str = "") -> str:
    """Return text as a block of code, behind a fence that the text does not contain."""
    fence = "`" * (1 + max([2, *(len(run) for run in re.findall("`+", text))]))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def front_matter(data: Mapping[str, Any]) -> str:
    """Return YAML between its marks; keys without a value are left out."""
    import yaml

    kept = {key: _in_lines(value) for key, value in data.items() if value not in (None, [], {}, "")}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100_000)}---\n"


def _in_lines(value: Any) -> Any:
    """Return a value whose texts have one line each: a line of three hyphens would end the front matter."""
    if isinstance(value, dict):
        return {key: _in_lines(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_in_lines(v) for v in value]
    return _BLANK.sub(" ", value) if isinstance(value, str) else value


def licence_tags(licence: str) -> dict[str, str]:
    """Return the keys of a front matter for a licence as an adaptor states it: the hub's tag where it has one."""
    if licence.lower() in _LICENCES:
        return {"license": _LICENCES[licence.lower()]}
    if licence == UNKNOWN:
        return {"license": "unknown"}
    return {"license": "other", "license_name": "see-text", "license_details": licence}


UNKNOWN = "unknown"
"""Licence that nobody has stated."""


def data_licence(target: Target, stated: str) -> str:
    """Return the licence of the records of a data set.

    Args:
        stated: by the adaptor, as in the manifest of the step prompts. It is that of the published data set, which records
            of the pocket world only look like: these are made up by this project, under its own licence.
    """
    if target.study.datasets[target.dataset].world is not None:
        return "Apache-2.0"
    return UNKNOWN if stated in ("", "yours") else stated


def data_source(target: Target) -> tuple[str, str | None]:
    """Return where the records are from, as Markdown, and the id of their data set on the hub, if they came from there."""
    data = target.study.datasets[target.dataset]
    if data.world is not None:
        return "records of a synthetic world, made up by this project; no text of people or of other models", None
    if data.hub is not None:
        repo = data.hub.repo or plugins.load("datasets", data.adaptor).HUB.repo
        return f"{code(repo)} on the Hugging Face hub at revision {code(data.hub.revision)}", repo
    names = ", ".join(code(Path(p).name) for p in data.paths)
    return f"local files ({names}) in the layout that the adaptor {code(data.adaptor)} reads", None


def hub_id(path: str | None) -> str | None:
    """Return a checkpoint's id on the hub, without its revision; None for a folder."""
    name = split_revision(path)[0] if path is not None else ""
    return name if _HUB_ID.fullmatch(name) and not Path(name).is_dir() else None


def checkpoint_name(path: str) -> str:
    """Return how a checkpoint is called in public: its id, or the name of its folder alone."""
    return hub_id(path) or Path(path).name
