"""A question to all rows together: of how many answers does an embedding model read a part only?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from selfcontrast import cuts, plugins
from selfcontrast.linting.findings import Finding, Level, Row, Tally


class Reads(Protocol):
    """How much of a text a model reads."""

    longest: int

    def cut(self, texts: Sequence[str]) -> Mapping[str, bytes]:
        """Return the texts of which the model reads a part only."""


def readings_of(scorers: Iterable[Mapping[str, Any]]) -> list[tuple[str, Reads]]:
    """Return the name of each embedding model and how it reads texts; none for a model that reads texts of any length.

    Args:
        scorers: parameters of scorers of the kind `cosine`.

    Raises:
        InputError: a model cannot be loaded.
        StepError: its package is not installed.
    """
    cosine = plugins.load("scorers", "cosine")
    found = []
    for params in scorers:
        reading = cosine.load(cosine.Params(**params)).reading
        if reading is not None:
            found.append((str(params.get("model") or params.get("package")), reading))
    return found


@dataclass
class CutByEmbedder:
    """Counts the answers that are longer than an embedding model reads, chosen and rejected ones apart."""

    name: str
    reading: Reads
    chosen: Tally = field(default_factory=Tally)
    rejected: Tally = field(default_factory=Tally)

    def see(self, row: Row) -> None:
        """Look at the answers of one row."""
        cut = self.reading.cut([row.dialogue.target, *row.dialogue.rejected])
        for tally, texts in ((self.chosen, [row.dialogue.target]), (self.rejected, row.dialogue.rejected)):
            for text in texts:
                tally.total += 1
                if text in cut:
                    tally.hit(row.place, text)

    def findings(self) -> list[Finding]:
        """Return a finding for each kind of answer of which any is cut: a warning if more than one in a hundred is."""
        found = []
        for kind, t in (("chosen", self.chosen), ("rejected", self.rejected)):
            if t.count:
                level: Level = "warning" if t.count > cuts.WARN_BEYOND * t.total else "info"
                what = (
                    f"{kind} answers longer than the {self.reading.longest} tokens that `{self.name}` reads of a text"
                )
                found.append(Finding(level, "cut_by_embedder", what, t.count, t.total, t.example))
        return found
