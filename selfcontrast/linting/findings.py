"""The rows that checks look at, what they find, and the table of all findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from selfcontrast.records import Dialogue

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")

COLUMNS = ("level", "check", "what", "count", "share", "example")
EXCERPT = 60
"""Characters of an example."""

FINE = ""


@dataclass(frozen=True)
class Tokens:
    """The ids of a row: its prompt, and its answers with the chosen one first."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Row:
    """One usable record.

    Attributes:
        place: where it is, for messages, such as ``row 12``.
        dialogue: as the adaptor reads it.
        record: as its file has it, for the fields that no adaptor passes on; empty where only the dialogue is at hand.
        tokens: None without a tokenizer.
    """

    place: str
    dialogue: Dialogue
    record: Mapping[str, Any] = field(default_factory=dict)
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Unusable:
    """A record that the adaptor leaves out; ``place`` as that of a ``Row``."""

    place: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        count: rows (or whatever ``what`` names) that it concerns.
        total: of how many.
        example: the first of them: its place and an excerpt.
        source: which part of a study it is about; empty for a single file.
    """

    level: Level
    check: str
    what: str
    count: int
    total: int
    example: str = ""
    source: str = ""

    @property
    def share(self) -> float:
        """Return count / total; 0 where there is nothing to count."""
        return self.count / self.total if self.total else 0.0

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the line in the order of COLUMNS; the share in percent."""
        return (self.level, self.check, self.what, str(self.count), f"{100 * self.share:.2f} %", self.example)


Question = Callable[[Row], str | None]
"""Returns the text that shows a trouble, FINE where there is none, and None where the question does not apply."""


class Check(Protocol):
    """One question about all rows."""

    def see(self, row: Row) -> None:
        """Look at one row; every row is seen once."""

    def findings(self) -> list[Finding]:
        """Return what was found in the rows seen."""


@dataclass
class Tally:
    """Counts the rows that are looked at and those that are hit; keeps the first of these as the example."""

    total: int = 0
    count: int = 0
    example: str = ""

    def hit(self, place: str, text: str) -> None:
        """Count one hit."""
        self.count += 1
        self.example = self.example or f"{place}: {excerpt(text)}"


@dataclass
class RowCheck:
    """Asks one question of every row and counts the rows that show a trouble.

    Attributes:
        name: of the check, in the table.
        what: is wrong with the rows that are counted.
        level: of the finding.
        ask: the question.
        error_beyond: share of the rows to which the question applies beyond which the finding is an error.
        if_never: what to report where it applied to no row; empty for nothing.
    """

    name: str
    what: str
    level: Level
    ask: Question
    error_beyond: float | None = None
    if_never: str = ""
    tally: Tally = field(default_factory=Tally)

    def see(self, row: Row) -> None:
        """Ask one row."""
        answer = self.ask(row)
        if answer is None:
            return
        self.tally.total += 1
        if answer != FINE:
            self.tally.hit(row.place, answer)

    def findings(self) -> list[Finding]:
        """Return one finding if any row was troubled, or if there was nothing to ask and that is worth a line."""
        t = self.tally
        if t.total == 0 and self.if_never:
            return [Finding("info", self.name, self.if_never, 0, 0)]
        if t.count == 0:
            return []
        is_error = self.error_beyond is not None and t.count > self.error_beyond * t.total
        return [Finding("error" if is_error else self.level, self.name, self.what, t.count, t.total, t.example)]


def excerpt(text: str) -> str:
    """Return the beginning of a text on one line; what a terminal or a table could trip over is replaced."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text[: 4 * EXCERPT].split()))
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with errors first; otherwise in the order in which they came."""
    return sorted(findings, key=lambda f: (f.source, LEVELS.index(f.level)))


def totals(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how many findings there are of each level."""
    levels = [f.level for f in findings]
    return {level: levels.count(level) for level in LEVELS}


def to_text(findings: Sequence[Finding]) -> str:
    """Return the findings as one table for a terminal, and how many there are of each level."""
    shown = in_order(findings)
    columns: list[tuple[str, ...]] = [COLUMNS, *(f.cells for f in shown)]
    if any(f.source for f in shown):
        columns = [
            (source, *cells) for source, cells in zip(("data", *(f.source for f in shown)), columns, strict=True)
        ]
    is_number = [name in ("count", "share") for name in columns[0]]
    widths = [max(len(cell) for cell in column) for column in zip(*columns, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, is_number, strict=True)).rstrip()
        for line in columns
    ]
    found = ", ".join(f"{n} {level}{'s' if n != 1 and level != 'info' else ''}" for level, n in totals(shown).items())
    return "\n".join([*lines, "", found]) if shown else "nothing found"


def to_tsv(findings: Sequence[Finding]) -> str:
    """Return the findings as tab-separated values; the share is a fraction."""
    lines = [(*f.cells[:4], f"{f.share:.6g}", f.example) for f in in_order(findings)]
    return "".join("\t".join(line) + "\n" for line in (COLUMNS, *lines))
