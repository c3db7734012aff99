"""UltraFeedback with all its answers: ``{"instruction", "completions": [{"response", "annotations"}, ...]}``, JSON lines.

An answer's score is the mean of its four ratings (helpfulness, honesty, instruction following, truthfulness; 1 to 5). The
best answer is the target, the first one of equals; the answers that score less are the data set's own negatives, best first.
Answers as good as the target are neither. ``overall_score`` is not read: others found it too high for some bad answers.

Layout: openbmb/UltraFeedback. Licence of the data: MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcontrast.datasets._records import check_dialogue, read_dialogues
from selfcontrast.fields import field, text
from selfcontrast.records import BadRecord, Dialogue, Message
from selfcontrast.sources import HubSource

LICENCE = "MIT"
HAS_REJECTED = True

_PARTS = ("evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat")
HUB = HubSource("openbmb/UltraFeedback", {part: (f"{part}.jsonl",) for part in _PARTS}, default=_PARTS)

_ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    return read_dialogues(path, dialogue)


def dialogue(record: Any, row: int) -> Dialogue | BadRecord:
    """Return what becomes of one record; raise ``MisfitError`` if it is not of this layout."""
    instruction = text(record, "instruction")
    completions = field(record, "completions", list)
    answers = [text(c, "response") for c in completions]
    totals = [_total(field(c, "annotations", dict)) for c in completions]
    return _dialogue(instruction, answers, totals, row)


def _total(annotations: dict[str, Any]) -> int | None:
    """Return the sum of the four ratings, which are written as texts; None if one is not a number (`N/A`)."""
    total = 0
    for aspect in _ASPECTS:
        rating = field(field(annotations, aspect, dict), "Rating", str, float)
        written = f"{rating:g}" if isinstance(rating, float) else str(rating).strip()
        if not written.isdecimal():
            return None
        total += int(written)
    return total


def _dialogue(instruction: str, answers: list[str], totals: list[int | None], row: int) -> Dialogue | BadRecord:
    if not answers:
        return BadRecord("there is no answer", row)
    if None in totals:
        return BadRecord("an answer is not rated", row)
    ranked = sorted(
        zip(totals, answers, strict=True), key=lambda pair: -(pair[0] or 0)
    )  # stable: equals in their order
    best, target = ranked[0]
    worse = [answer for total, answer in ranked if total != best]
    if not worse:
        return BadRecord("no answer is rated lower than the best", row)
    return check_dialogue([Message("user", instruction)], target, worse, row=row)
