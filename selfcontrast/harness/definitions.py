"""Where the definitions of tasks lie, what they are as hashes, and whether they are the ones that a study pins."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from selfcontrast.errors import InputError, StepError
from selfcontrast.task_pins import HARNESS, PINS


@dataclass(frozen=True)
class Definition:
    """What one task is, as its files say.

    Attributes:
        version: from its metadata; ``None`` where it has none.
        sha256: hash of the definition, ``digest``.
        source: ``folder`` for a task of the user or of a pocket world, ``harness`` for one that lm-eval brings.
    """

    version: str
    sha256: str
    source: str


def digest(name: str, index: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a task's definition; of a group or tag, of itself and everything in it.

    The definition is the YAML with its includes merged, as JSON with sorted keys. A function in it counts as its name and the
    hash of the file that holds it, so that neither the machine's paths nor the order of keys play a part.

    Args:
        index: entries of ``lm_eval.tasks.TaskManager.task_index`` by name.
    """
    described = {entry.name: _canonical(entry.cfg or {}) for entry in _members(name, index)}
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def _members(name: str, index: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the entry of a name and those of all tasks below it."""
    entry = index[name]
    yield entry
    children = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else None
    below = sorted(entry.tags) if entry.kind.name == "TAG" else [_name_of(c) for c in children or []]
    for child in below:
        if child in index:
            yield from _members(child, index)


def _name_of(child: str | Mapping[str, Any]) -> str:
    return child if isinstance(child, str) else str(child.get("task") or child.get("group"))


def _canonical(value: Any) -> Any:
    """Return a definition in which functions are named by their files' contents and not by where those lie."""
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, str) and value.startswith("/") and "\n" not in value:
        module, _, function = value.rpartition(".")
        file = Path(f"{module}.py")
        if file.is_file():
            return f"!function {file.name} {hashlib.sha256(file.read_bytes()).hexdigest()} {function}"
    return value


def check_harness() -> None:
    """Raise StepError unless the installed harness is the pinned one: prompts, metrics and defaults are its."""
    found = metadata.version("lm-eval")
    if found != HARNESS:
        raise StepError(
            "the installed lm-evaluation-harness is not the one that the numbers of this project are made with",
            expected=f"lm-eval {HARNESS}",
            found=f"lm-eval {found}",
            remedy=f"pip install lm-eval=={HARNESS}, or `make env`, which installs requirements.lock",
        )


def check_pin(name: str, found: Definition, pins: Mapping[str, str]) -> None:
    """Raise InputError if a task is not what the study or this project pins, or is the harness' own and not pinned.

    Args:
        pins: hashes by the name of the task, which go before those of ``task_pins.PINS``.
    """
    known = PINS.get(name)
    if name in pins:
        expected, version = pins[name], None
    elif known is not None:
        expected, version = known.sha256, known.version
    elif found.source == "folder":
        return  # the user's own files, which are inputs of the job
    else:
        raise InputError(
            f"the task `{name}` of lm-evaluation-harness is not pinned",
            found=f"version {found.version}, SHA-256 {found.sha256}",
            remedy=f"write the hash under evaluation.benchmarks.<id>.pins: {{{name}: {found.sha256}}}",
        )
    if expected != found.sha256 or version not in (None, found.version):
        raise InputError(
            f"the task `{name}` is not the one that is pinned, so that its numbers cannot be compared",
            expected=f"{f'version {version}, ' if version else ''}SHA-256 {expected}",
            found=f"version {found.version}, SHA-256 {found.sha256}",
            remedy=f"install lm-eval {HARNESS}; or, if the new task is meant, give its hash under "
            "evaluation.benchmarks.<id>.pins, and do not compare its numbers with earlier ones",
        )


def unknown_task(name: str, known: Iterable[str]) -> InputError:
    """Return the error of a task that nobody defines."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return InputError(
        f"there is no task `{name}`",
        where="evaluation.benchmarks.<id>.tasks",
        remedy=f"{hint}tasks of your own are YAML files in `folder`; one of the harness (`lm-eval ls tasks`) needs its "
        "hash under `pins`",
    )
