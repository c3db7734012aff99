"""Questions to all rows together: are the chosen answers longer than the rejected ones, and do rows repeat held-out texts?"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from selfcontrast.linting.findings import Finding, Level, Row, Tally
from selfcontrast.linting.words import ngrams, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST, SHORTEST = 13, 8
"""Words in a row that count as overlap; texts of 8 to 12 words count as a whole (arXiv 2005.14165, appendix C)."""

SKEW = 1.2
"""Ratio of lengths from which a skew is a warning."""

SIGNIFICANT = 0.01
FEWEST = 20
"""Rows below which no skew is tested."""


@dataclass
class LengthSkew:
    """Compares the lengths of chosen and rejected answers, in tokens where there are any and otherwise in words.

    Of several rejected answers the geometric mean counts. The test is Wilcoxon's for paired samples, on the logarithms of the
    ratios.
    """

    log_ratios: array[float] = field(default_factory=lambda: array("d"))
    unit: str = "words"
    tally: Tally = field(default_factory=Tally)

    def see(self, row: Row) -> None:
        """Note the ratio of one row."""
        if not row.dialogue.rejected:
            return
        if row.tokens is not None:
            self.unit = "tokens"
            chosen, *rejected = (len(a) for a in row.tokens.answers)
        else:
            chosen, *rejected = (len(text.split()) for text in (row.dialogue.target, *row.dialogue.rejected))
        # One more on both sides, so that an answer without any counts.
        ratio = math.log(chosen + 1) - sum(math.log(r + 1) for r in rejected) / len(rejected)
        self.log_ratios.append(ratio)
        self.tally.total += 1
        if ratio > 0:
            self.tally.hit(row.place, f"{chosen} {self.unit} against {', '.join(map(str, rejected))}")

    def findings(self) -> list[Finding]:
        """Return a finding if the lengths differ: a warning from the ratio SKEW on, in either direction."""
        import numpy as np
        from scipy import stats

        ratios = np.frombuffer(self.log_ratios, "float64") if self.log_ratios else np.empty(0)
        if len(ratios) < FEWEST or not ratios.any():
            return []
        p = float(stats.wilcoxon(ratios).pvalue)
        if p >= SIGNIFICANT:
            return []
        ratio = math.exp(ratios.mean())
        level: Level = "warning" if max(ratio, 1 / ratio) >= SKEW else "info"
        what = (
            f"chosen answers have {ratio:.2f} times the {self.unit} of rejected ones (p {_p_value(p)}); counted: longer"
        )
        return [Finding(level, "skew", what, self.tally.count, self.tally.total, self.tally.example)]


def _p_value(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-12 else "< 1e-12"


@dataclass(frozen=True)
class HeldOut:
    """One text collection that training must not have seen, such as the split `test` or the questions of a benchmark.

    Attributes:
        name: of the collection.
        labels: of its items, in order; for messages.
        n_grams: by their number of words, hashes in ascending order ``(n,)`` and the item of each ``(n,)``.
        whole: the same for dialogues whose prompts have fewer than SHORTEST words: only an equal prompt counts.
    """

    name: str
    labels: list[str]
    n_grams: dict[int, tuple[NDArray, NDArray]]
    whole: dict[int, tuple[NDArray, NDArray]]

    @classmethod
    def index(cls, name: str, items: Iterable[tuple[str, Sequence[str], Sequence[str]]]) -> HeldOut:
        """Return the index of items ``(label, prompts, answers)``; shorter answers are equal by chance and do not count."""
        labels: list[str] = []
        long: dict[int, list[tuple[NDArray, int]]] = {}
        short: dict[int, list[tuple[NDArray, int]]] = {}
        for i, (label, prompts, answers) in enumerate(items):
            labels.append(label)
            for text_words in map(words, (*prompts, *answers)):
                if len(text_words) >= SHORTEST:
                    for n, hashes in ngrams(text_words, {min(LONGEST, len(text_words))}):
                        long.setdefault(n, []).append((hashes, i))
            for n, hashes in _whole(prompts):
                short.setdefault(n, []).append((hashes, i))
        return cls(name, labels, _sorted(long), _sorted(short))

    def matches(
        self, prompts: Sequence[str], answers: Sequence[str]
    ) -> Iterator[tuple[tuple[NDArray, NDArray], int, int]]:
        """Yield what these texts share with the collection: an index, the place of a hash in it, and its number of words."""
        for text_words in map(words, (*prompts, *answers)):
            for n, hashes in ngrams(text_words, self.n_grams):
                yield from ((self.n_grams[n], place, n) for place in _places(self.n_grams[n][0], hashes))
        for n, hashes in _whole(prompts):
            if n in self.whole:
                yield from ((self.whole[n], place, n) for place in _places(self.whole[n][0], hashes))


def _whole(prompts: Sequence[str]) -> Iterator[tuple[int, NDArray]]:
    """Yield the number of words of a dialogue's prompts together and their one hash, if they are too few for n-grams."""
    together = [word for text in prompts for word in words(text)]
    if len(together) < SHORTEST:
        yield from ngrams(together, {len(together)})


def _sorted(found: dict[int, list[tuple[NDArray, int]]]) -> dict[int, tuple[NDArray, NDArray]]:
    import numpy as np

    index = {}
    for n, parts in found.items():
        hashes = np.concatenate([h for h, _ in parts])
        items = np.concatenate([np.full(len(h), i, np.int32) for h, i in parts])
        order = np.argsort(hashes, kind="stable")
        index[n] = (hashes[order], items[order])
    return index


def _places(known: NDArray, hashes: NDArray) -> list[int]:
    """Return where in ``known`` (ascending) each of the hashes stands that is there: the first place of equal ones."""
    places = known.searchsorted(hashes)
    places[places == len(known)] = 0
    return sorted({int(i) for i in places[known[places] == hashes]})


@dataclass
class Overlap:
    """Counts the items of a held-out collection that share words in a row with a prompt or target of the rows."""

    held_out: HeldOut
    items: set[int] = field(default_factory=set)
    example: str = ""
    seen: set[tuple[int, int]] = field(default_factory=set)

    def see(self, row: Row) -> None:
        """Look for held-out texts in one row: its turns but the system's, and its chosen answer."""
        messages = row.dialogue.messages
        prompts = [m.content for m in messages if m.role == "user"]
        answers = [m.content for m in messages if m.role == "assistant"] + [row.dialogue.target]
        for (hashes, items), place, n in self.held_out.matches(prompts, answers):
            # What was met before is not looked up again: stock phrases may be in every item and in every row.
            if (id(hashes), place) in self.seen:
                continue
            self.seen.add((id(hashes), place))
            last = int(hashes.searchsorted(hashes[place], "right"))
            self.items.update(items[place:last].tolist())
            self.example = self.example or f"{row.place} has {n} words of {self.held_out.labels[int(items[place])]}"

    def findings(self) -> list[Finding]:
        """Return one finding if any item is touched; it counts items of the collection, not rows."""
        if not self.items:
            return []
        what = f"items of `{self.held_out.name}` that share {LONGEST} words in a row (or all, if short) with training texts"
        return [Finding("warning", "overlap", what, len(self.items), len(self.held_out.labels), self.example)]
