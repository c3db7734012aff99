"""Win rates of published judgements in the layout of AlpacaEval, and whether they are those of its leaderboard.

The public files are ``results/<model>/<annotator>/annotations.json``: arrays of objects whose ``preference`` says how far the
judge prefers the model to the baseline, 1 (not at all) to 2. Older annotators wrote 0 for a draw. Where these numbers are
those of the leaderboard, a judge of this project can be compared with the published one on equal terms.

Source: tatsu-lab/alpaca_eval, src/alpaca_eval/metrics/helpers.py.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcontrast import strict_json
from selfcontrast.errors import InputError

ANNOTATIONS = "annotations.json"
DRAW = 1.5
TOLERANCE = 0.0005
"""Percentage points by which a number may differ from the leaderboard: equal to three decimals."""


@dataclass(frozen=True)
class WinRate:
    """A win rate in percent with what stands behind it.

    Attributes:
        standard_error: of the mean, in percentage points; NaN for a single judgement.
        n: judgements that count.
        nulls: judgements without a preference, left out.
        invalid: judgements whose preference is outside of 1 to 2, left out.
    """

    value: float
    standard_error: float
    n: int
    nulls: int
    invalid: int


@dataclass(frozen=True)
class Judged:
    """The judgements of one model by one annotator."""

    model: str
    annotator: str
    rate: WinRate


def win_rate(preferences: Iterable[float | None]) -> WinRate:
    """Return the mean of ``preference - 1`` in percent with its standard error; 0 is a draw, as 1.5 is.

    Raises:
        ValueError: no preference is left: there is no rate without judgements.
    """
    values = list(preferences)
    known = [DRAW if v == 0 else float(v) for v in values if v is not None and not math.isnan(v)]
    wins = [v - 1 for v in known if 1 <= v <= 2]
    n = len(wins)
    if not n:
        raise ValueError("there is no preference")
    mean = math.fsum(wins) / n
    variance = math.fsum((w - mean) ** 2 for w in wins) / (n - 1) if n > 1 else math.nan
    return WinRate(100 * mean, 100 * math.sqrt(variance / n), n, len(values) - len(known), len(known) - n)


def read_judged(folder: Path) -> tuple[list[Judged], list[InputError]]:
    """Return the win rates of all ``annotations.json`` below a folder, by model and annotator, and what cannot be read.

    Model and annotator are the names of the two folders above the file; for a file that lies higher, what its rows say.

    Raises:
        InputError: there is none, or none can be read.
    """
    paths = sorted(folder.rglob(ANNOTATIONS))
    if not paths:
        raise InputError(
            f"no {ANNOTATIONS} below the folder",
            expected=f"<model>/<annotator>/{ANNOTATIONS}, as in the folder results/ of tatsu-lab/alpaca_eval",
            where=str(folder),
            remedy="name that folder",
        )
    judged: list[Judged] = []
    problems: list[InputError] = []
    for path in paths:
        try:
            judged.append(_read(path, folder))
        except InputError as error:
            problems.append(error)
    if not judged:
        raise problems[0]
    return sorted(judged, key=lambda j: (j.annotator, -j.rate.value, j.model)), problems


def _read(path: Path, root: Path) -> Judged:
    try:
        rows = strict_json.loads(path.read_bytes())
    except strict_json.DuplicateKeyError as error:
        raise InputError(
            "annotations give a key twice", found=str(error), where=str(path), remedy="fix the file"
        ) from None
    except ValueError:
        raise InputError(
            "this is not JSON",
            where=str(path),
            remedy="get the file itself; a clone without Git LFS holds a pointer to it",
        ) from None
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and "preference" in r for r in rows):
        raise InputError(
            "annotations are an array of objects with a `preference`",
            found=f"{len(rows)} rows" if isinstance(rows, list) else type(rows).__name__,
            where=str(path),
        )
    above = path.relative_to(root).parts[:-1]
    model = above[-2] if len(above) > 1 else str(rows[0].get("generator_2", root.name))
    annotator = above[-1] if len(above) > 1 else str(rows[0].get("annotator", "unknown"))
    try:
        return Judged(model, annotator, win_rate(_preference(r["preference"]) for r in rows))
    except (ValueError, TypeError) as error:
        raise InputError(str(error), found=f"{len(rows)} rows", where=str(path)) from None


def _preference(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a preference is a number or null, not {value!r}")
    return float(value)


def read_leaderboard(path: Path) -> dict[str, tuple[float, float]]:
    """Return win rate and standard error by model, of a leaderboard CSV whose first column is the model.

    Raises:
        InputError: a column is missing, or a number is none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError:
        raise InputError("a file is missing", where=str(path)) from None
    if not rows or not {"win_rate", "standard_error"} <= rows[0].keys():
        raise InputError(
            "this is not a leaderboard",
            expected="a CSV file with the model in its first column, and win_rate and standard_error",
            found=", ".join(map(str, rows[0])) if rows else "no rows",
            where=str(path),
        )
    name = next(iter(rows[0]))
    try:
        return {r[name]: (float(r["win_rate"]), float(r["standard_error"])) for r in rows}
    except (ValueError, TypeError) as error:
        raise InputError("a win rate is not a number", found=str(error), where=str(path)) from None


def differences(
    judged: Iterable[Judged], published: dict[str, tuple[float, float]], *, annotator: str | None
) -> Iterator[tuple[Judged, float]]:
    """Yield each model of the leaderboard with the larger of its differences in win rate and standard error.

    Args:
        annotator: whose leaderboard it is; None compares all.
    """
    for one in judged:
        if one.model in published and annotator in (None, one.annotator):
            rate, error = published[one.model]
            yield one, max(abs(one.rate.value - rate), abs(one.rate.standard_error - error))


def annotator_of(leaderboard: Path) -> str | None:
    """Return the annotator in the name ``<annotator>_leaderboard.csv``; None for another name."""
    name = leaderboard.name.removesuffix("_leaderboard.csv")
    return name if name not in (leaderboard.name, "") else None


def report(folder: Path, leaderboard: Path | None) -> tuple[str, bool]:
    """Return a table of all win rates, and whether every file was read and equals the leaderboard to three decimals."""
    judged, problems = read_judged(folder)
    width = max(len("model"), *(len(j.model) for j in judged))
    lines = [f"{'model':<{width}}  {'win rate %':>10}  {'std. error':>10}  {'n':>5}  {'nulls':>5}  annotator"]
    for j in judged:
        rate = f"{j.rate.value:10.3f}  {j.rate.standard_error:10.3f}  {j.rate.n:5d}  {j.rate.nulls + j.rate.invalid:5d}"
        lines.append(f"{j.model:<{width}}  {rate}  {j.annotator}")
    if problems:
        lines += [f"\n{len(problems)} of {len(judged) + len(problems)} files cannot be read:", *map(str, problems)]
    if leaderboard is None:
        return "\n".join(lines), not problems
    found = list(differences(judged, read_leaderboard(leaderboard), annotator=annotator_of(leaderboard)))
    if not found:
        raise InputError(
            "no model of the leaderboard has annotations here",
            expected=f"annotations by {annotator_of(leaderboard) or 'any annotator'}",
            found=", ".join(sorted({f"{j.model} by {j.annotator}" for j in judged})[:5]),
            where=str(folder),
        )
    worst, largest = max(found, key=lambda pair: pair[1])
    lines.append(
        f"\n{len(found)} of {len(judged)} are on {leaderboard.name}; largest difference {largest:.6f} ({worst.model})"
    )
    lines += [f"differs by {d:.6f}: {j.model}" for j, d in found if not d <= TOLERANCE]
    return "\n".join(lines), not problems and all(d <= TOLERANCE for _, d in found)
