"""Whether a data set has the rejected answers that a study needs, told before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from selfcontrast import plugins
from selfcontrast.errors import InputError
from selfcontrast.linting.findings import Finding
from selfcontrast.records import Dialogue
from selfcontrast.schema import Study
from selfcontrast.sources import record_files
from selfcontrast.sweep import Need, rejected_needs

POOL_PROMPTS = "prompts of the split `pool`"


def check_annotated(study: Study) -> None:
    """Read the local records of each data set until one has all the rejected answers that are needed.

    A data set that fits costs one record as a rule. Of one that does not, every record is read before it is refused. Which
    records come into the split `pool` is not known here: the step `lint` counts there.

    Raises:
        InputError: no record of a data set has enough rejected answers for an arm.
    """
    for name, dataset in study.datasets.items():
        needs = rejected_needs(study, name)
        if not needs or not dataset.paths:
            continue
        numbers = _rejected(record_files(dataset.paths), dataset.adaptor)
        counts = _count_until(numbers, max(need.answers for need in needs.values()))
        if counts:  # a file without one usable record is refused by the step `prompts`, which says why
            one_each = {user: need._replace(prompts=1) for user, need in needs.items()}
            check_needs(one_each, counts, of="usable records", where=f"{', '.join(dataset.paths)} (datasets.{name})")


def _rejected(files: Sequence[Path], adaptor: str) -> Iterator[int]:
    """Yield the number of rejected answers of each usable record."""
    module = plugins.load("datasets", adaptor)
    for file in files:
        yield from (len(found.rejected) for found in module.read(file) if isinstance(found, Dialogue))


def _count_until(numbers: Iterable[int], enough: int) -> Counter[int]:
    """Return how many records have each number of rejected answers, up to the first that has ``enough``."""
    counts: Counter[int] = Counter()
    for number in numbers:
        counts[number] += 1
        if number >= enough:
            break
    return counts


def check_needs(needs: Mapping[str, Need], counts: Counter[int], *, where: str, of: str = POOL_PROMPTS) -> None:
    """Raise InputError if too few prompts have the rejected answers that a user of them needs.

    Args:
        needs: by the id of an arm, or by the key of what else reads rejected answers.
        counts: number of prompts by how many rejected answers they have.
        where: the files of records, for the message.
        of: what is counted, for the message.
    """
    unmet = {user: need for user, need in needs.items() if _able(counts, need.answers) < need.prompts}
    if not unmet:
        return
    asked = "; ".join(
        f"{user}: {need.prompts} or more {of} with {need.answers} or more rejected answers"
        for user, need in unmet.items()
    )
    given = ", ".join(f"{counts[number]} {of} with {number}" for number in sorted(counts))
    raise InputError(
        f"the data set has too few rejected answers for {', '.join(unmet)}",
        expected=asked,
        found=given if max(counts, default=0) else f"no rejected answers in {counts.total()} {of}",
        where=where,
        remedy=_remedy(unmet, has_some=max(counts, default=0) > 0),
    )


def _remedy(unmet: Mapping[str, Need], *, has_some: bool) -> str:
    """Return what can be done: to the data, to arms, to what else reads rejected answers."""
    ways = ["add rejected answers to the records (`rejected` in the layout `jsonl`)"]
    if any("." not in user for user in unmet):
        ways[0] += ", or lower the n of these arms" if has_some else ""
        ways.append(
            "take these arms out of `methods`, and out of `evaluation.compare_to` and `figures.lines` where those name them"
        )
        ways.append("set `datasets.<id>.has_rejected: false`, which leaves them out for this data set alone")
    ways += [f"let {user} read another pool, or remove it" for user in unmet if "." in user]
    return "; or ".join(ways)


def short_findings(needs: Mapping[str, Need], counts: Counter[int]) -> list[Finding]:
    """Return a warning for each number of rejected answers that some prompts lack; their users go without these prompts."""
    total, found = counts.total(), []
    for answers in sorted({need.answers for need in needs.values()}):
        if lacking := total - _able(counts, answers):
            users = ", ".join(user for user, need in needs.items() if need.answers == answers)
            what = f"{POOL_PROMPTS} with fewer than {answers} rejected answers: no use to {users}"
            found.append(Finding("warning", "rejected", what, lacking, total))
    return found


def _able(counts: Counter[int], answers: int) -> int:
    return sum(n for number, n in counts.items() if number >= answers)
