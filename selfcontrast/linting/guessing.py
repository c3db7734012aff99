"""Which adaptor reads a file: told by many of its records, so that one bad record decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfcontrast import plugins
from selfcontrast.datasets._records import converted, read_records
from selfcontrast.errors import InputError
from selfcontrast.fields import MisfitError, kind_of
from selfcontrast.records import Dialogue

ANY = "jsonl"
"""Adaptor for anybody's data, whose layout includes some of the others'."""

SAMPLED = 1000
"""Records, at equal distances over all files, that are tried with every adaptor."""

FEW = 0.5
"""An adaptor whose layout fewer records have than this share of the best one's is not taken, whatever it finds in them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Fit:
    """What an adaptor makes of some records.

    Attributes:
        of_layout: records that have the fields that it reads.
        used: records of which it makes a dialogue.
        with_rejected: dialogues with rejected answers.
        records: number of all.
        misfit: the most frequent reason why a record has not the layout, with its count.
    """

    name: str
    of_layout: int
    used: int
    with_rejected: int
    records: int
    misfit: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        """Return it as the end of a sentence that begins with the adaptor."""
        return (
            f"{self.of_layout} of {self.records} records have its layout, {self.used} can be used, "
            f"{self.with_rejected} of them with rejected answers"
        )


@dataclass(frozen=True)
class Guess:
    """What every adaptor makes of the records of some files, the best one first.

    Attributes:
        fits: of all adaptors.
        total: number of records in the files; the fits are about ``SAMPLED`` of them at most.
        first: the fields of the first record, or what it is instead of an object.
    """

    fits: tuple[Fit, ...]
    total: int
    first: str

    def others(self, name: str) -> list[Fit]:
        """Return the adaptors that fit as many records as this one, or use more of them."""
        own = next((fit for fit in self.fits if fit.name == name), None)
        return [
            fit
            for fit in self.fits
            if fit is not own
            and fit.of_layout
            and (own is None or fit.of_layout >= own.of_layout or fit.used > own.used)
        ]


def try_adaptors(paths: Sequence[Path]) -> Guess:
    """Return what each adaptor makes of records from all parts of some files.

    Raises:
        InputError: a file cannot be read, or there is no record.
    """
    sample, total = spread((record for path in paths for record in read_records(path)), SAMPLED)
    if not sample:
        n_bytes, is_text = 0, True
        for content in (path.read_bytes() for path in paths):  # of files without a record, which are small
            n_bytes, is_text = n_bytes + len(content), is_text and not content.strip(b"\xef\xbb\xbf \t\r\n")
        raise InputError(
            "there is no record to check",
            found=f"{n_bytes} bytes" + (", blank lines alone" if n_bytes and is_text else ""),
            where=", ".join(map(str, paths)),
            remedy="check the path",
        )
    fits = [_fit(name, sample) for name in plugins.names("datasets")]
    most = max(fit.of_layout for fit in fits)
    fits.sort(key=lambda f: (f.of_layout >= FEW * most, *_merit(f), f.name != ANY), reverse=True)
    record = sample[0][1]
    return Guess(
        tuple(fits),
        total,
        f"an object with the fields {', '.join(record)}" if isinstance(record, dict) else kind_of(record),
    )


def best_of(guess: Guess, where: str) -> Fit:
    """Return the adaptor whose layout most records have; of several, the one that finds the most rejected answers.

    Of equal ones a data set's own goes before that for any data.

    Raises:
        InputError: none fits a single record, or two fit equally well.
    """
    best, *others = guess.fits
    names = ", ".join(sorted(fit.name for fit in guess.fits))
    if not best.of_layout:
        reasons = "; ".join(f"`{f.name}`: {f.misfit[0]} in {f.misfit[1]}" for f in sorted(guess.fits, key=_is_own))
        raise InputError(
            "no adaptor fits the records",
            found=f"the first record is {guess.first}; of {best.records} records {reasons}",
            where=where,
            remedy="write the records in the layout of an adaptor; that of `jsonl` is for any data: "
            '{"prompt": "...", "response": "...", "rejected": "..."}, the last only where there is one',
        )
    equal = [fit.name for fit in others if _merit(fit) == _merit(best) and fit.name != ANY]
    if equal:
        raise InputError(
            "several adaptors fit the records equally well",
            found=", ".join([best.name, *equal]),
            where=where,
            remedy=f"name one with --adaptor: {names}",
        )
    return best


def describe(guess: Guess, name: str, *, guessed: bool) -> list[str]:
    """Return lines that say how many records an adaptor fits, and which other adaptor would fit better."""
    own = next((fit for fit in guess.fits if fit.name == name), None)
    if own is None:
        return []
    seen = "" if own.records == guess.total else f" (of {guess.total} records, {own.records} from all parts were tried)"
    how = ", guessed (--adaptor names another)" if guessed else ""
    lines = [f"adaptor: {name}{how}: {own}{seen}"]
    return lines + [f"  {fit.name} would fit too: {fit}" for fit in guess.others(name)]


def spread(items: Iterable[T], most: int) -> tuple[list[T], int]:
    """Return items at equal distances, all of them up to ``most`` and otherwise more than half as many, and their number."""
    kept: list[T] = []
    step, n = 1, 0
    for n, item in enumerate(items, 1):
        if (n - 1) % step == 0:
            kept.append(item)
        if len(kept) > most:
            kept, step = kept[::2], 2 * step
    return kept, n


def _is_own(fit: Fit) -> tuple[bool, str]:
    """Sort the adaptor for anybody's data first: the one whose layout is easiest to write."""
    return fit.name != ANY, fit.name


def _merit(fit: Fit) -> tuple[int, int, int]:
    return fit.with_rejected, fit.used, fit.of_layout


def _fit(name: str, sample: Sequence[tuple[int, Any]]) -> Fit:
    adaptor = plugins.load("datasets", name)
    found = [converted(adaptor.dialogue, record, row) for row, record in sample]
    misfits = Counter(f.reason for f in found if isinstance(f, MisfitError))
    used = [f for f in found if isinstance(f, Dialogue)]
    return Fit(
        name,
        of_layout=len(found) - misfits.total(),
        used=len(used),
        with_rejected=sum(bool(d.rejected) for d in used),
        records=len(found),
        misfit=next(iter(misfits.most_common(1)), ("", 0)),
    )
