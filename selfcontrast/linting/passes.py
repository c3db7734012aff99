"""What is checked of a file of records, and of a data set that is encoded for a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from selfcontrast.artifacts import Artifact
from selfcontrast.linting.across import HeldOut, LengthSkew, Overlap
from selfcontrast.linting.findings import Check, Finding, Level, Row, Tally, Unusable
from selfcontrast.linting.reading import dialogue_rows, held_out_items, record_rows, split_members, split_rows
from selfcontrast.linting.text_checks import TOLERATED, text_checks
from selfcontrast.linting.token_checks import Limits, token_checks
from selfcontrast.records import WRONG_WAY_ROUND, Message
from selfcontrast.token_rows import READ

if TYPE_CHECKING:
    from selfcontrast.rendering import Renderer

TRAINED, HELD_OUT = ("sft",), ("validation", "test")
"""Splits that training reads (`pool` is a part of `sft`), and those that it must not have seen."""

MOSTLY = 0.5
"""Share of records that cannot be used beyond which it is the wrong file or the wrong adaptor."""

_FREE = re.compile(r"MIT|Apache|BSD|CC0|CC[- ]BY(-SA)?[- ]?[\d.]*$|ODC-BY|PDDL|public domain|yours", re.IGNORECASE)
_NON_COMMERCIAL = re.compile(r"\bNC\b|non-?commercial", re.IGNORECASE)


def run_checks(rows: Iterable[Row | Unusable], checks: Sequence[Check]) -> list[Finding]:
    """Return what all checks find in one pass, and how many records cannot be used, by reason.

    That is an error if most of them cannot, or if their own scores turn more of them round than noise would.
    """
    unusable: dict[str, Tally] = {}
    n = 0
    for n, row in enumerate(rows, 1):  # noqa: B007
        if isinstance(row, Unusable):
            unusable.setdefault(row.reason, Tally()).hit(row.place, "")
        else:
            for check in checks:
                check.see(row)
    mostly = sum(t.count for t in unusable.values()) > MOSTLY * n
    left_out = []
    for reason, t in sorted(unusable.items()):
        level: Level = "error" if mostly or (reason == WRONG_WAY_ROUND and t.count > TOLERATED * n) else "warning"
        what = f"the adaptor leaves the record out: {reason}"
        left_out.append(Finding(level, "unusable", what, t.count, n, t.example.removesuffix(": ")))
    return left_out + [finding for check in checks for finding in check.findings()]


def limits_of(renderer: Renderer, max_length: int | None) -> Limits:
    """Return what a tokenizer and a model allow."""
    bos = renderer.tokenizer.bos_token_id
    start = renderer.prompt_ids([Message("user", "x")])
    before_bos = start.index(bos) if bos in start else 0
    return Limits(bos, renderer.end_id, max_length, before_bos, renderer.rows)


def check_specials(renderer: Renderer) -> list[Finding]:
    """Return an error if a special token that training or evaluation may use has no row in the model's embedding.

    Where the rows are not known, a note says that nothing was compared.
    """
    if renderer.rows.n is None:
        return [Finding("info", "rows", "the rows of the model's embedding are not known", 0, 0)]
    missing = renderer.rows.lacking_specials(renderer.tokenizer)
    what = "special tokens of the tokenizer for which the model has no embedding"
    return [Finding("error", "rows", what, len(missing), len(READ), next(iter(missing.values())))] if missing else []


def check_records(
    paths: Sequence[Path],
    adaptor: ModuleType,
    *,
    renderer: Renderer | None = None,
    max_length: int | None = None,
    held_out: Sequence[HeldOut] = (),
    more: Sequence[Check] = (),
) -> list[Finding]:
    """Return what there is to say of files of records: their texts, their licence and, with a tokenizer, their tokens.

    Args:
        more: further checks, fresh for this pass.
    """
    checks: list[Check] = [*text_checks(), LengthSkew(), *(Overlap(h) for h in held_out), *more]
    if renderer is not None:
        checks += token_checks(limits_of(renderer, max_length))
    found = check_specials(renderer) if renderer is not None else []
    return found + run_checks(record_rows(paths, adaptor, renderer), checks) + check_licence(adaptor)


def check_encoded(
    encoded: Artifact,
    dialogues: Artifact,
    renderer: Renderer,
    *,
    max_length: int,
    held_out: Sequence[HeldOut] = (),
) -> list[Finding]:
    """Return what there is to say of encoded splits: their tokens, what did not fit, and overlap with held-out texts.

    Args:
        held_out: collections beside the data set's own held-out splits.
    """
    checks: list[Check] = [*token_checks(limits_of(renderer, max_length)), LengthSkew()]
    rows = (row for split in (*TRAINED, *HELD_OUT) for row in split_rows(encoded, split, renderer))
    found = check_specials(renderer) + run_checks(rows, checks)
    report = encoded.manifest["report"]
    kept = sum(n for split, n in report["prompts"].items() if split != "pool") + report["unused"]
    for reason, n in report["dropped"].items():
        found.append(Finding("warning", "truncated", f"left out when encoding: {reason}", n, n + kept))
    members = split_members(encoded, (*TRAINED, *HELD_OUT))
    own = [
        HeldOut.index(split, held_out_items(dialogue_rows(dialogues, members, (split,))))
        for split in HELD_OUT
        if report["prompts"][split]
    ]
    overlaps = [Overlap(h) for h in (*own, *held_out)]
    return found + run_checks(dialogue_rows(dialogues, members, TRAINED), overlaps)


def check_templates(digests: Mapping[str, str]) -> list[Finding]:
    """Return an error if stages of one model differ in their template or special tokens.

    Args:
        digests: hash of the template by stage, the first being what the others must equal.
    """
    first, *others = digests.items()
    differing = [stage for stage, digest in others if digest != first[1]]
    if not differing:
        return []
    what = f"stages that differ from `{first[0]}` in chat template or special tokens"
    return [Finding("error", "template", what, len(differing), len(digests), ", ".join(differing))]


def check_licence(adaptor: ModuleType) -> list[Finding]:
    """Return a note if the adaptor states a licence that is unknown here or forbids commercial use."""
    licence = adaptor.LICENCE
    if _NON_COMMERCIAL.search(licence):
        return [Finding("info", "licence", f"no commercial use: {licence}", 0, 0)]
    if _FREE.match(licence):
        return []
    return [Finding("info", "licence", f"read it before you publish a model: {licence}", 0, 0)]
